"""Direct access to a test's database, and polling."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

T = TypeVar("T")

PATIENCE = 60.0
"""Default timeout of :func:`eventually`, in seconds."""


def with_connection(url: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    """Call a coroutine function with a new connection and return its result."""

    async def run() -> T:
        connection = await asyncpg.connect(url)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def rows(url: str, query: str, *arguments: Any) -> list[asyncpg.Record]:
    """Execute a query and return its rows."""
    return with_connection(url, lambda connection: connection.fetch(query, *arguments))


def execute(url: str, statements: str) -> None:
    """Execute statements."""
    with_connection(url, lambda connection: connection.execute(statements))


def reply_row(url: str, path: str) -> dict[str, Any]:
    """Return the row in ``replies`` of the reply at ``path``."""
    [row] = rows(url, "SELECT * FROM replies WHERE id = $1", UUID(path.removeprefix("/llmchat/")))
    return dict(row)


def postmaster_pid(folder: Path) -> int:
    """Return the process id of the PostgreSQL that runs on the data in ``folder``."""
    return int((folder / "postmaster.pid").read_text().split("\n")[0])


def eventually(what: str, holds: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Poll until ``holds()`` is true and return its value; for conditions that no event signals.

    :param what: description of the condition, for the error message.
    :raises TimeoutError: the condition was not true within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (value := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(0.01)
    return value
