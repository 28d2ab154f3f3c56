"""One HTTP request and its response, over a connection of its own."""

import asyncio
import ssl
from collections.abc import Callable
from enum import Enum, auto
from functools import cache
from io import BytesIO
from urllib.parse import urlsplit

from tornado.httpclient import HTTPRequest, HTTPResponse

from relay.ollama.request_head import request_head
from relay.ollama.response_parser import RemoteProtocolError, ResponseParser

BODY_LIMIT = 16_777_216
"""Largest body in bytes that is collected. A body that is streamed has no limit here."""

SLICE_SIZE = 16_384
"""Bytes of a response that are processed in one iteration of the event loop."""

SLICE_INTERVAL = 0.004
"""Seconds between two slices of bytes that were received at once.

A server that sends without pause is thus read at 4 MB/s: at a higher rate, tiny lines of one reply would keep the event
loop and the database busy. Models send some tens of kilobytes per second.
"""

PORTS = {"http": 80, "https": 443}


class State(Enum):
    """The states of a transfer, in this order. From each of them it may become CLOSED: cancelled, or failed."""

    WAITING = auto()
    CONNECTING = auto()
    RECEIVING = auto()
    CLOSED = auto()


class Transfer(asyncio.Protocol):
    """Send a request and receive its response.

    Bytes of the response are processed as they arrive, but at most :data:`SLICE_SIZE` per :data:`SLICE_INTERVAL` of
    what was received at once. The response is complete where HTTP says so, whether or not the server closes the
    connection or has read the whole request.

    :param request: a ``body_producer`` needs the length of what it writes in ``Content-Length``; what it awaits is done
        when the socket has taken all of it. ``header_callback`` and ``streaming_callback`` are called as bytes arrive;
        without the latter the body is collected, up to :data:`BODY_LIMIT`. ``connect_timeout`` and ``request_timeout``
        are seconds, 0 for none; the second one runs from when the connection is made.
    :param on_closed: called once, with the response. Its ``error`` is None if it is complete, an OSError if the
        connection was not made or a timeout expired, a RemoteProtocolError, or what a callback raised.
    """

    def __init__(self, request: HTTPRequest, on_closed: Callable[[HTTPResponse], None]) -> None:
        self._request = request
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._state = State.WAITING
        self._parser = ResponseParser(self._on_head, request.streaming_callback or self._collect)
        self._body = bytearray()
        self._sending: asyncio.Task[None] | None = None
        self._paused: asyncio.Future[None] | None = None
        self._timeout: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._unprocessed = b""
        self._next_slice: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Connect, send the request, and receive the response."""
        self._state = State.CONNECTING
        self._set_timeout(self._request.connect_timeout)
        self._sending = self._loop.create_task(self._connect_and_send())

    def cancel(self) -> None:
        """Close the connection at once. The callbacks of the request are not called any more."""
        self._close(RemoteProtocolError("cancelled"))

    # Sending.

    async def _connect_and_send(self) -> None:
        try:
            url = urlsplit(self._request.url)
            if url.scheme not in PORTS or not url.hostname:
                raise ValueError(f"not an HTTP URL: {self._request.url!r}")
            head = request_head(self._request.method, url, self._request.headers, self._body_length())
            tls = default_ssl_context() if url.scheme == "https" else None
            transport, _ = await self._loop.create_connection(
                lambda: self, url.hostname, url.port or PORTS[url.scheme], ssl=tls
            )
            await self._send(transport, head)
        except Exception as error:
            self._close(error if isinstance(error, OSError) else OSError(f"cannot send the request: {error!r}"))

    def _body_length(self) -> int | None:
        if self._request.body_producer:
            return int(self._request.headers["Content-Length"])
        return None if self._request.body is None else len(self._request.body)

    async def _send(self, transport: asyncio.Transport, head: bytes) -> None:
        producer = self._request.body_producer
        if producer is None:
            transport.writelines([head, self._request.body or b""])
            return
        transport.set_write_buffer_limits(high=0)  # the protocol is paused while any byte is not sent
        unsent = [head]

        async def write(body: bytes) -> None:
            transport.writelines([*unsent, body])
            unsent.clear()
            if self._paused:
                await self._paused

        await producer(write)  # type: ignore[arg-type]  # Tornado awaits what write returns, but declares nothing

    def pause_writing(self) -> None:
        """Note that the socket does not take all of the request (called by asyncio)."""
        self._paused = self._loop.create_future()

    def resume_writing(self) -> None:
        """Note that the socket has taken all of it (called by asyncio)."""
        if self._paused and not self._paused.done():
            self._paused.set_result(None)
        self._paused = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note the connection (called by asyncio; with TLS, after the handshake)."""
        if self._state is State.CLOSED:
            transport.abort()
            return
        self._state = State.RECEIVING
        self._transport = transport
        self._set_timeout(self._request.request_timeout)

    def _set_timeout(self, seconds: float | None) -> None:
        """Replace the timeout of the previous state."""
        if self._timeout:
            self._timeout.cancel()
        self._timeout = self._loop.call_later(seconds, self._on_timeout) if seconds else None

    def _on_timeout(self) -> None:
        what = "the connection was not made" if self._state is State.CONNECTING else "the response was not complete"
        self._close(TimeoutError(f"{what} in time"))

    # Receiving.

    def data_received(self, data: bytes) -> None:
        """Process bytes of the response (called by asyncio)."""
        if len(data) <= SLICE_SIZE:
            self._process(data)
        else:
            self._process_slices(data)

    def _process_slices(self, data: bytes) -> None:
        """Process one slice now and the others later. Reading is paused meanwhile."""
        self._unprocessed = data[SLICE_SIZE:]
        self._process(data[:SLICE_SIZE])
        if not self._transport:
            return
        if self._unprocessed:
            self._transport.pause_reading()
            self._next_slice = self._loop.call_later(SLICE_INTERVAL, self._process_slices, self._unprocessed)
        else:
            self._transport.resume_reading()

    def _process(self, data: bytes) -> None:
        """Parse bytes and pass on what they contain."""
        try:
            self._parser.feed(data)
        except Exception as error:
            self._close(error)
        else:
            if self._parser.complete:
                self._close(None)

    def _on_head(self) -> None:
        if not self._request.header_callback:
            return
        fields = [f"{name}: {value}\r\n" for name, value in self._parser.headers.get_all()]
        for line in [f"HTTP/1.1 {self._parser.status}\r\n", *fields, "\r\n"]:
            if self._state is not State.CLOSED:  # the callback may cancel the request
                self._request.header_callback(line)

    def _collect(self, piece: bytes) -> None:
        self._body += piece
        if len(self._body) > BODY_LIMIT:
            raise RemoteProtocolError(f"the body is larger than {BODY_LIMIT} bytes")

    # The end.

    def eof_received(self) -> None:
        """Close at the end of the response, even if the request is not sent completely (called by asyncio)."""
        self._process(self._unprocessed)
        self._on_connection_end()

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the connection is closed or broken (called by asyncio)."""
        self._process(self._unprocessed)
        if error:
            self._close(RemoteProtocolError(f"connection lost: {error}"))
        else:
            self._on_connection_end()

    def _on_connection_end(self) -> None:
        if self._parser.ends_with_connection:
            self._close(None)
        else:
            self._close(RemoteProtocolError("the connection was closed before the response was complete"))

    def _close(self, error: Exception | None) -> None:
        """Close the connection and report the response; does nothing if it is closed.

        :param error: None if the response is complete.
        """
        if self._state is State.CLOSED:
            return
        self._state = State.CLOSED
        self._set_timeout(None)
        if self._next_slice:
            self._next_slice.cancel()
        if self._sending:
            self._sending.cancel()
        if self._transport:
            self._transport.abort()
        self._sending = self._transport = None  # break the reference cycles with them
        self._parser.close()
        code = 599 if error else self._parser.status
        self._on_closed(HTTPResponse(self._request, code, self._parser.headers, BytesIO(self._body), error=error))


@cache
def default_ssl_context() -> ssl.SSLContext:
    """Return the context of TLS connections: trusts the system's certificates, or those in ``SSL_CERT_FILE``."""
    return ssl.create_default_context()
