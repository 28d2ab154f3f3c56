"""Disables the triggers that users made while existing rows are changed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from db.tutorial_table.catalog import Table


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
