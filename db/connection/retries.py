"""Connections on which a statement that PostgreSQL has rolled back is executed again."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

import asyncpg

from db.connection.sqlstates import RECONNECT, UNCERTAIN, Verdict, is_of, verdict_of

Result = TypeVar("Result")

RETRY_TIMEOUT = 2.0
"""Seconds from the first attempt after which no further one is made. A client waits for them, and a connection of the
pool is occupied; what must be stored is tried again by its caller for longer."""

FIRST_PAUSE = 0.01
"""Seconds between the first two attempts; each further pause is twice as long, and varies by half."""

MAX_PAUSE = 0.25
"""Seconds between two attempts at most."""


def always() -> bool:
    """Be the default of :attr:`RetryingConnection.in_service`."""
    return True


class RetryingConnection(asyncpg.Connection):
    """A connection that executes a statement again if PostgreSQL has rolled it back for a reason that may pass.

    Only single statements, outside of a transaction: they are rolled back as a whole, so nothing is done twice.

    :ivar in_service: whether the database is available, as far as known. During an outage statements fail at once.
    """

    in_service: Callable[[], bool] = staticmethod(always)

    def get_reset_query(self) -> str:
        """Return nothing to execute when the connection returns to the pool: no statement changes its session."""
        return ""

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """Execute a statement; see asyncpg."""
        parent = super().execute
        return await self._with_retries(lambda: parent(query, *args, **options))

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """Execute a statement and return its rows; see asyncpg."""
        parent = super().fetch
        return await self._with_retries(lambda: parent(query, *args, **options))

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """Execute a statement and return its first row; see asyncpg."""
        parent = super().fetchrow
        return await self._with_retries(lambda: parent(query, *args, **options))

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """Execute a statement and return a value of its first row; see asyncpg."""
        parent = super().fetchval
        return await self._with_retries(lambda: parent(query, *args, **options))

    async def _with_retries(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        give_up_at, pause = monotonic() + RETRY_TIMEOUT, FIRST_PAUSE
        while True:
            try:
                return await attempt()
            except asyncpg.PostgresError as error:
                if not self._may_retry(error) or monotonic() + pause > give_up_at:
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - not used for security
            pause = min(MAX_PAUSE, 2 * pause)

    def _may_retry(self, error: asyncpg.PostgresError) -> bool:
        if self.is_closed() or self.is_in_transaction() or is_of(error, RECONNECT) or is_of(error, UNCERTAIN):
            return False
        verdict = verdict_of(error)
        return verdict is Verdict.CONFLICT or (verdict is Verdict.OUTAGE and self.in_service())
