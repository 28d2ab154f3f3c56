"""Looks into a test's database, past the program under test."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which something that a test polls for has failed to come true."""


def with_connection(url: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    """Run a coroutine on a connection of its own."""

    async def run() -> T:
        connection = await asyncpg.connect(url)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def rows(url: str, query: str, *arguments: Any) -> list[asyncpg.Record]:
    """The rows that a query gives."""
    return with_connection(url, lambda connection: connection.fetch(query, *arguments))


def execute(url: str, statements: str) -> None:
    """Run statements."""
    with_connection(url, lambda connection: connection.execute(statements))


def reply_row(url: str, path: str) -> dict[str, Any]:
    """The row of the reply at ``path`` in the table ``replies``."""
    [row] = rows(url, "SELECT * FROM replies WHERE id = $1", UUID(path.removeprefix("/llmchat/")))
    return dict(row)


def eventually(what: str, holds: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Poll until ``holds()`` is true, and return it; for what no moment announces.

    :raises TimeoutError: it never was within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (value := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(0.01)
    return value
