"""Exceptions raised while a connection of the pool is acquired."""

import asyncio

import pytest

from db.pool import Database
from errors import ConnectionLost


@pytest.mark.expects_log("database is unavailable")
def test_any_exception_on_a_lost_connection_becomes_connection_lost(database_url: str) -> None:
    """asyncpg raises AttributeError if the connection is lost between two steps of a statement."""

    async def run() -> None:
        database = Database(database_url, 1, 5.0)
        await database.open()
        try:
            with pytest.raises(ConnectionLost):
                async with database.acquire() as connection:
                    connection.terminate()
                    raise AttributeError("'NoneType' object has no attribute 'bind_execute'")
            async with database.acquire() as connection:
                assert await connection.fetchval("SELECT 1") == 1
        finally:
            await database.close()

    asyncio.run(run())


def test_exceptions_on_a_working_connection_are_not_changed(database_url: str) -> None:
    async def run() -> None:
        database = Database(database_url, 1, 5.0)
        await database.open()
        try:
            with pytest.raises(AttributeError):
                async with database.acquire():
                    raise AttributeError("a defect in the caller")
        finally:
            await database.close()

    asyncio.run(run())
