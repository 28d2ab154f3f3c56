"""Writes events to viewers' connections: small ones together, large ones in turns."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from tornado.iostream import IOStream, StreamClosedError

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError)
"""Raised by a socket that takes nothing now. OpenSSL expects the same bytes next; IOStream writes them."""

WRITES_PER_ITERATION = 16
"""Large writes in one iteration of the event loop: about 2 ms."""


class ClientWriter:
    """Writes to one client's socket directly, which costs a third of ``RequestHandler.write`` and ``flush``.

    :param stream: a connection that has taken everything written to it so far.
    :ivar pending: IOStream's write of what the socket did not take; None if it took everything.
    :raises StreamClosedError: the client has disconnected.
    """

    __slots__ = ("pending", "send", "stream")

    def __init__(self, stream: IOStream) -> None:
        if stream.closed():
            raise StreamClosedError
        self.stream = stream
        self.send: Callable[[bytes], int] = stream.socket.send
        self.pending: asyncio.Future[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether the socket has taken everything written before."""
        if self.pending is not None and self.pending.done():
            self.pending = None
        return self.pending is None

    def write_later(self, data: bytes) -> None:
        """Let IOStream write ``data`` when the socket takes more."""
        with suppress(StreamClosedError):  # the handler's on_connection_close is called
            self.pending = self.stream.write(data)

    def close(self, error: OSError) -> None:
        """Close the broken connection."""
        self.stream.close((type(error), error, error.__traceback__))


class BatchedWriter:
    """Sends what was queued in one iteration of the event loop together, in the order of queueing.

    Creating and sending events alternately costs a quarter more: each switch evicts the other's code and data from the
    processor's caches.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[Callable[[bytes], int], bytes, ClientWriter]] = []

    def queue(self, client: ClientWriter, data: bytes) -> None:
        """Send ``data`` before the event loop waits again."""
        if not self._queue:
            self._loop.call_soon(self.send_queued)
        self._queue.append((client.send, data, client))

    def send_queued(self) -> None:
        """Send the queue now. Call this before writing to a queued connection in another way."""
        queue, self._queue = self._queue, []
        for send, data, client in queue:
            if client.pending is None:
                try:
                    sent = send(data)
                except WOULD_BLOCK:
                    sent = 0
                except OSError as error:
                    client.close(error)
                    continue
                if sent == len(data):
                    continue
                data = data[sent:]
            client.write_later(data)


class WriteScheduler:
    """Lets :data:`WRITES_PER_ITERATION` large writes go on in each iteration of the event loop, in order.

    Without it, many viewers with a backlog would delay all other work of the process.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait for a turn, which comes in the next iteration at the earliest."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._release)
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _release(self) -> None:
        for _ in range(min(WRITES_PER_ITERATION, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._release)
