"""What becomes of a connection that is lost while it is lent."""

import asyncio

import pytest

from db.pool import Database
from errors import ConnectionLost


@pytest.mark.expects_log("connection to the database was lost")
def test_whatever_is_raised_on_a_connection_that_was_lost_says_so(database_url: str) -> None:
    """asyncpg trips over its own feet when one is cut between two steps of a statement."""

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


def test_what_is_raised_on_a_good_connection_is_left_alone(database_url: str) -> None:
    async def run() -> None:
        database = Database(database_url, 1, 5.0)
        await database.open()
        try:
            with pytest.raises(AttributeError):
                async with database.acquire():
                    raise AttributeError("a mistake of ours")
        finally:
            await database.close()

    asyncio.run(run())
