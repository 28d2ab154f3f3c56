"""The body of a request to Ollama: in memory, and counted, until it is sent, and gone then."""

from collections.abc import Awaitable, Callable
from typing import Protocol

SMALL = 65_536
"""Bytes of a request that never waits for memory: most prompts. The limits of concurrent replies bound their sum."""

Write = Callable[[bytes], Awaitable[None]]
"""Writes bytes to a connection; returns when it has taken all of them."""


class Counted(Protocol):
    """Bytes of memory that are counted: a reservation, or the charge of a request's body."""

    def release(self) -> None:
        """Count them no more. Further calls do nothing."""


class RequestBody:
    """The body of a request, which is sent once and is gone then.

    What has to be sent again is made anew from the database.

    :param data: the body.
    :ivar reservation: of its memory, released with it; None if it is not counted.
    :ivar size: in bytes.
    """

    __slots__ = ("_data", "reservation", "size")

    def __init__(self, data: bytes, reservation: Counted | None = None) -> None:
        self.size = len(data)
        self._data: bytes | None = data
        self.reservation = reservation

    async def send(self, write: Write) -> None:
        """Send the body (called by an HTTP client as ``body_producer`` of :class:`tornado.httpclient.HTTPRequest`)."""
        data, self._data = self._data, None
        try:
            if data is not None:
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
