"""Memory that large values share: each waits until there is room for it, in the order of arrival."""

import asyncio
from collections import deque


class Reservation:
    """Bytes of a :class:`MemoryBudget`, until they are released or, as a context manager, to the end of its block.

    :ivar size: in bytes; 0 once they were released.
    """

    __slots__ = ("_budget", "size")

    def __init__(self, budget: "MemoryBudget", size: int) -> None:
        self._budget = budget
        self.size = size

    def release(self) -> None:
        """Give the bytes back. Further calls do nothing."""
        size, self.size = self.size, 0
        self._budget.give_back(size)

    def __enter__(self) -> "Reservation":
        """Return the reservation."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Give the bytes back."""
        self.release()


class MemoryBudget:
    """Bounds the bytes of the values in memory.

    :param limit: bytes. A value that is larger counts as so many; beside small ones, which may always be there, as half
        of them, so that it does not wait forever.
    :param small: bytes of a value that never waits, though it counts; 0: there is none.
    :ivar used: bytes in use now.
    """

    def __init__(self, limit: int, small: int = 0) -> None:
        self.used = 0
        self._limit = limit
        self._most = limit // 2 if small else limit
        self._small = small
        self._waiting: deque[tuple[int, asyncio.Future[Reservation]]] = deque()

    @property
    def contended(self) -> bool:
        """Whether a value waits for memory."""
        return bool(self._waiting)

    def try_reserve(self, size: int) -> Reservation | None:
        """Take ``size`` bytes if they are free and no other value waits."""
        size = min(size, self._most)
        if size > self._small and (self._waiting or not self._fits(size)):
            return None
        return self._reserve(size)

    async def reserve(self, size: int) -> Reservation:
        """Take ``size`` bytes as soon as they are free."""
        if reservation := self.try_reserve(size):
            return reservation
        granted: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        self._waiting.append((min(size, self._most), granted))
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._grant()  # to those behind it
            else:
                granted.result().release()
            raise

    def give_back(self, size: int) -> None:
        """Free bytes (called by :class:`Reservation`)."""
        self.used -= size
        self._grant()

    def _fits(self, size: int) -> bool:
        return self.used + size <= self._limit

    def _reserve(self, size: int) -> Reservation:
        self.used += size
        return Reservation(self, size)

    def _grant(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            size, granted = self._waiting.popleft()
            if not granted.done():
                granted.set_result(self._reserve(size))
