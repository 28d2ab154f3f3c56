"""The memory that large parts of responses may take together."""

import asyncio
from collections import deque

from errors import ServiceUnavailable

WAIT_TIMEOUT = 30.0
"""Seconds until a response that waits for memory fails."""

LOADS = 2
"""Large values that are read at the same time."""


class MemoryBudget:
    """Bounds the bytes of the large values that responses hold at the same time. First come, first served.

    :param limit: bytes. A value that is larger is held alone.
    :ivar loading: held while a value is read, which takes some times its size: :data:`LOADS` at the same time.
    """

    def __init__(self, limit: int) -> None:
        self.loading = asyncio.Semaphore(LOADS)
        self._limit = limit
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def contended(self) -> bool:
        """Whether a response waits for memory."""
        return bool(self._waiting)

    def hold(self, size: int) -> "HeldMemory":
        """Return a context manager that waits for ``size`` bytes and holds them within its block."""
        return HeldMemory(self, min(size, self._limit))

    async def acquire(self, size: int) -> None:
        """Wait for ``size`` bytes, which are at most the limit.

        :raises ServiceUnavailable: they were not available within :data:`WAIT_TIMEOUT`.
        """
        if not self._waiting and self._used + size <= self._limit:
            self._used += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(WAIT_TIMEOUT):
                await turn
        except BaseException as error:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:  # its turn came in the same moment
                self._used -= size
            self._grant()
            if isinstance(error, TimeoutError):
                raise ServiceUnavailable("Too many large responses are being read. Try again in a moment.") from error
            raise

    def release(self, size: int) -> None:
        """Give bytes back."""
        self._used -= size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._used + self._waiting[0][0] <= self._limit:
            size, turn = self._waiting.popleft()
            self._used += size
            turn.set_result(None)


class HeldMemory:
    """Bytes of a :class:`MemoryBudget`, held within a block."""

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self._budget = budget
        self._size = size

    async def __aenter__(self) -> "HeldMemory":
        """Wait for the bytes.

        :raises ServiceUnavailable: see :meth:`MemoryBudget.acquire`.
        """
        await self._budget.acquire(self._size)
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Give the bytes back."""
        self._budget.release(self._size)
