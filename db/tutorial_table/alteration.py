"""Around changes of ``chatts``: the limit of waiting for sessions that use the table, and users' triggers disabled."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from db.tutorial_table.catalog import Table
from errors import StartupError

LOCK_TIMEOUT = 30.0
"""Seconds to wait for a lock. Meanwhile all later statements on the table wait, too."""


async def limit_lock_waits(connection: asyncpg.Connection) -> None:
    """Set the limit for the current transaction. Beyond it, statements raise ``asyncpg.LockNotAvailableError``."""
    await connection.execute("SELECT set_config('lock_timeout', $1, true)", f"{round(LOCK_TIMEOUT * 1000)}ms")


async def locked_table(connection: asyncpg.Connection) -> StartupError:
    """Return the error for a start that waited for too long, with the sessions that use the table."""
    sessions = await connection.fetch(
        """
        SELECT pid, coalesce(nullif(application_name, ''), 'no name') AS application, coalesce(state, '') AS state
        FROM pg_stat_activity
        WHERE pid <> pg_backend_pid()
        AND pid IN (SELECT pid FROM pg_locks WHERE relation = to_regclass('chatts') AND granted)
        ORDER BY pid
        """
    )
    named = ", ".join(f"{row['pid']} ({row['application']}, {row['state'] or 'unknown state'})" for row in sessions)
    end = " ".join(f"SELECT pg_terminate_backend({row['pid']});" for row in sessions)
    return StartupError(
        f"the table chatts cannot be upgraded while other sessions use it; waited for {LOCK_TIMEOUT:g} s. End their "
        f"transactions and start again: {named or 'they have ended meanwhile'}. {end}".rstrip()
    )


@asynccontextmanager
async def without_triggers(connection: asyncpg.Connection, table: Table, but: str = "") -> AsyncIterator[None]:
    """Disable the triggers that users made, for the ``async with`` block: they are meant for new rows.

    :param but: name of a trigger to leave as it is.
    """
    triggers = await connection.fetch(
        """
        SELECT quote_ident(tgname) AS name,
               CASE tgenabled WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END AS enable
        FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled <> 'D' AND tgname <> $2
        """,
        table.oid,
        but,
    )
    for trigger in triggers:
        await connection.execute(f"ALTER TABLE {table.identifier} DISABLE TRIGGER {trigger['name']}")
    yield
    for trigger in triggers:
        await connection.execute(f"ALTER TABLE {table.identifier} {trigger['enable']} TRIGGER {trigger['name']}")
