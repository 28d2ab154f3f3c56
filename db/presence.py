"""Which processes live, as PostgreSQL knows it: each holds an advisory lock for as long as its session lives."""

import asyncpg


async def announce(connection: asyncpg.Connection, owner: int) -> None:
    """Take the lock ``owner`` for the life of ``connection``'s session; PostgreSQL frees it when the session ends."""
    await connection.execute("SELECT pg_advisory_lock($1)", owner)
