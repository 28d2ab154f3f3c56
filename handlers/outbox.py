"""Where viewers' events wait, for the blink of an eye, until all events of a round are made: then they are sent."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress

from tornado.iostream import IOStream, StreamClosedError

FULL = (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError)
"""What a socket raises that takes nothing now. OpenSSL then wants the same bytes first; Tornado offers them."""


class Outlet:
    """One viewer's connection, written to past Tornado: a third of what write() and flush() cost.

    :param stream: a connection that has taken all that was written to it so far.
    :ivar rest: Tornado's writing of what the socket did not take; None if it took all.
    :raises StreamClosedError: its client has gone.
    """

    __slots__ = ("rest", "send", "stream")

    def __init__(self, stream: IOStream) -> None:
        if stream.closed():
            raise StreamClosedError
        self.stream = stream
        self.send: Callable[[bytes], int] = stream.socket.send
        self.rest: asyncio.Future[None] | None = None

    @property
    def free(self) -> bool:
        """Whether the socket has taken all before."""
        if self.rest is not None and self.rest.done():
            self.rest = None
        return self.rest is None

    def keep(self, data: bytes) -> None:
        """Have Tornado write ``data`` when the socket takes more."""
        with suppress(StreamClosedError):  # the handler hears of it, as of any end of its connection
            self.rest = self.stream.write(data)

    def close(self, error: OSError) -> None:
        """Close the connection, which is broken."""
        self.stream.close((type(error), error, error.__traceback__))


class Outbox:
    """Sends what viewers are given in one turn of the event loop all together, in the order it was given.

    To make an event, send it, make the next one costs a quarter more: at each change a processor has to find its way
    into the other work again.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[Callable[[bytes], int], bytes, Outlet]] = []

    def put(self, outlet: Outlet, data: bytes) -> None:
        """Send ``data`` before the event loop waits again."""
        if not self._due:
            self._loop.call_soon(self.send)
        self._due.append((outlet.send, data, outlet))

    def send(self) -> None:
        """Send now what waits: whoever writes to a connection otherwise must not overtake it."""
        due, self._due = self._due, []
        for send, data, outlet in due:
            if outlet.rest is None:
                try:
                    sent = send(data)
                except FULL:
                    sent = 0
                except OSError as error:
                    outlet.close(error)
                    continue
                if sent == len(data):
                    continue
                data = data[sent:]
            outlet.keep(data)
