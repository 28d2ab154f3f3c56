"""Requests to Ollama in memory: counted until they are sent, and gone then. Larger ones wait for their turn."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

SMALL = 65_536
"""Bytes of a request that never waits for memory: most prompts. The limits of concurrent replies bound their sum."""

Write = Callable[[bytes], Awaitable[None]]
"""Writes bytes to a connection; returns when it has taken all of them."""


class Reservation:
    """Bytes of memory in use.

    :ivar size: how many; 0 once they were released.
    """

    __slots__ = ("_memory", "size")

    def __init__(self, memory: "OutgoingMemory", size: int) -> None:
        self._memory = memory
        self.size = size

    def release(self) -> None:
        """Give the bytes back. Further calls do nothing."""
        size, self.size = self.size, 0
        self._memory.give_back(size)


class OutgoingMemory:
    """Memory for requests, first come, first served.

    :param limit: in bytes. A request counts as half of it at most, so that none waits forever.
    :ivar used: bytes in use now.
    """

    def __init__(self, limit: int) -> None:
        self.used = 0
        self._limit = limit
        self._waiting: deque[tuple[int, asyncio.Future[Reservation]]] = deque()

    def try_reserve(self, size: int) -> Reservation | None:
        """Take ``size`` bytes if they are free and no request waits, or if they are few (:data:`SMALL`)."""
        size = min(size, self._limit // 2)
        if size > SMALL and (self._waiting or not self._fits(size)):
            return None
        return self._reserve(size)

    async def reserve(self, size: int) -> Reservation:
        """Take ``size`` bytes as soon as they are free."""
        if reservation := self.try_reserve(size):
            return reservation
        granted: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        self._waiting.append((min(size, self._limit // 2), granted))
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


class RequestBody:
    """The body of a request, which is sent once and is gone then.

    What has to be sent again is made anew from the database.

    :param data: the body.
    :ivar reservation: of its memory, released with it; None if it is not counted.
    :ivar size: in bytes.
    """

    __slots__ = ("_data", "reservation", "size")

    def __init__(self, data: bytes, reservation: Reservation | None = None) -> None:
        self.size = len(data)
        self._data: bytes | None = data
        self.reservation = reservation

    async def send(self, write: Write) -> None:
        """Send the body (called by an HTTP client as ``body_producer`` of :class:`tornado.httpclient.HTTPRequest`)."""
        data, self._data = self._data, None
        try:
            if data:
                await write(data)
        finally:
            del data
            self.discard()

    def discard(self) -> None:
        """Give its memory back, whether or not it was sent."""
        self._data = None
        if self.reservation:
            self.reservation.release()
            self.reservation = None
