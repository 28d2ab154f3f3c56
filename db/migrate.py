"""Migrations: applies the numbered files of ``db/migrations``, each once and in its own transaction."""

import logging
from pathlib import Path

import asyncpg

log = logging.getLogger("chatterd.db")

FOLDER = Path(__file__).parent / "migrations"

LOCK = 0x63686174746572
"""Key of an advisory lock ("chatter" in ASCII): processes migrate one after the other."""


async def migrate(connection: asyncpg.Connection) -> None:
    """Apply the migrations that are newer than the database. Unknown newer migrations are left unchanged.

    :raises asyncpg.PostgresError: a migration failed and was rolled back; the ones before it remain applied.
    """
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS chatterd_migrations"
            " (number int PRIMARY KEY, name text NOT NULL, applied timestamptz NOT NULL DEFAULT now())"
        )
        newest = await connection.fetchval("SELECT coalesce(max(number), 0) FROM chatterd_migrations")
        for number, name, statements in _migrations():
            if number > newest:
                await _apply(connection, number, name, statements)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)


def _migrations() -> list[tuple[int, str, str]]:
    """Return number, name and statements of each file, in order."""
    files = sorted(FOLDER.glob("*.sql"))
    return [(int(file.name.split("_")[0]), file.stem, file.read_text(encoding="utf-8")) for file in files]


async def _apply(connection: asyncpg.Connection, number: int, name: str, statements: str) -> None:
    log.info("Applying database migration %s", name)
    async with connection.transaction():
        await connection.execute(statements)
        await connection.execute("INSERT INTO chatterd_migrations (number, name) VALUES ($1, $2)", number, name)
