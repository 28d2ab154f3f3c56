"""Limits how long an upgrade of ``chatts`` waits for sessions that use the table, and tells which ones they are."""

import asyncpg

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
