"""The HTTP client for long, slow answers: an AsyncHTTPClient with nothing between socket and ``streaming_callback``."""

import asyncio
import ssl
from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from errno import EINPROGRESS
from functools import cache, partial
from io import BytesIO
from os import strerror
from socket import (
    AI_NUMERICHOST,
    IPPROTO_TCP,
    SO_ERROR,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
    gaierror,
    getaddrinfo,
    socket,
)
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import httptools
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders

from relay.sockets import Sockets

HEAD_LIMIT = 65_536
"""Bytes of an answer that may come before its head is whole."""

BODY_LIMIT = 67_108_864
"""Bytes of a body that is collected, not streamed."""


Send = Callable[[bytes], Awaitable[None]]


class Broken(Exception):
    """A connection was made and then lost or closed, or what came over it is not HTTP."""


class StreamingClient(AsyncHTTPClient):
    """Asks over a connection of its own for each request, follows no redirects, asks no proxy.

    Of a request's settings it heeds ``header_callback`` and ``streaming_callback``, called as bytes arrive,
    ``connect_timeout`` and ``request_timeout`` (0 for none). A fetch fails with :class:`Broken`, or with OSError if
    there was no connection or no time.
    """

    def initialize(self, max_clients: int = 10, **options: Any) -> None:  # type: ignore[override]
        """Make the client (called by Tornado).

        :param max_clients: requests at once; more of them wait for their turn.
        """
        super().initialize(**options)
        self._sockets = Sockets()
        self._free = max_clients
        self._waiting: deque[Exchange] = deque()
        self._exchanges: dict[HTTPRequest, Exchange] = {}

    def fetch_impl(self, request: HTTPRequest, callback: Callable[[HTTPResponse], None]) -> None:
        """Begin a request (called by Tornado, which puts its defaults around it)."""
        key = getattr(request, "request", request)

        def end(response: HTTPResponse) -> None:
            exchange = self._exchanges.pop(key)
            if exchange.begun:
                self._free += 1
            self._begin_next()
            callback(response)

        self._exchanges[key] = Exchange(request, self._sockets, end)
        self._waiting.append(self._exchanges[key])
        self._begin_next()

    def cancel(self, request: HTTPRequest) -> None:
        """Close a request's connection; its fetch fails if it was not over."""
        if exchange := self._exchanges.get(request):
            exchange.end(Broken("cancelled"))

    def close(self) -> None:
        """Close all connections."""
        for request in list(self._exchanges):
            self.cancel(request)
        self._sockets.close()
        super().close()

    def _begin_next(self) -> None:
        while self._waiting and self._free:
            exchange = self._waiting.popleft()
            if not exchange.over:
                self._free -= 1
                exchange.begin()


class Exchange(asyncio.Protocol):
    """One request and its answer. (A protocol for TLS only; plain sockets are read by :class:`Sockets`.)

    :param on_end: is given the answer, once.
    :ivar begun: it has had its turn.
    :ivar over: it has ended, one way or another.
    """

    def __init__(self, request: HTTPRequest, sockets: Sockets, on_end: Callable[[HTTPResponse], None]) -> None:
        self._request = request
        self._sockets = sockets
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._status = 0
        self._headers = HTTPHeaders()
        self._head_size = 0
        self._body = bytearray()
        self.begun = False
        self.over = False
        self._connecting: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._disconnect: Callable[[], None] = lambda: None
        self.on_body: Callable[[bytes], object] = request.streaming_callback or self._collect
        self._parser = httptools.HttpResponseParser(self)

    def begin(self) -> None:
        """Connect and send."""
        self.begun = True
        self._end_after(self._request.connect_timeout, "connecting took too long")
        self._connecting = self._loop.create_task(self._connect())

    def _end_after(self, seconds: float | None, reason: str) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self.end, TimeoutError(reason)) if seconds else None

    def end(self, error: Exception | None) -> None:
        """Close the connection; ``error`` is None if the answer is whole."""
        if self.over:
            return
        self.over = True
        if self._deadline:
            self._deadline.cancel()
        if self._connecting:
            self._connecting.cancel()
        self._disconnect()
        code = 599 if error else self._status
        self._on_end(HTTPResponse(self._request, code, self._headers, BytesIO(self._body), error=error))

    async def _connect(self) -> None:
        url = urlsplit(self._request.url)
        connected = False
        try:
            send = await (self._connect_with_tls(url) if url.scheme == "https" else self._connect_plainly(url))
            connected = True
            self._end_after(self._request.request_timeout, "the answer took too long")
            await send(self._message(url))
        except OSError as error:
            self._connecting = None
            self.end(Broken(str(error)) if connected else error)
        self._connecting = None

    async def _connect_with_tls(self, url: SplitResult) -> Send:
        transport, _ = await self._loop.create_connection(
            lambda: self, url.hostname or "", url.port or 443, ssl=_trusting_the_system()
        )
        self._disconnect = transport.abort

        async def send(message: bytes) -> None:
            transport.write(message)

        return send

    async def _connect_plainly(self, url: SplitResult) -> Send:
        connection = await _connected(url.hostname or "", url.port or 80)
        self._sockets.add(connection, self.take)  # before all is sent: an answer may come first

        def disconnect() -> None:
            self._sockets.remove(connection)
            connection.close()

        self._disconnect = disconnect
        return partial(self._loop.sock_sendall, connection)

    def _message(self, url: SplitResult) -> bytes:
        body = self._request.body
        lines = [
            f"{self._request.method} {url.path or '/'}{'?' if url.query else ''}{url.query} HTTP/1.1",
            f"Host: {url.netloc.rpartition('@')[2]}",
            "Connection: close",
            *_authorization(url),
            *(f"{name}: {value}" for name, value in self._request.headers.get_all()),
        ]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin1") + (body or b"")

    def take(self, data: bytes) -> None:
        """Take bytes of the answer; none at the connection's end."""
        if self.over:
            return
        if not data:
            self._take_end()
            return
        if not self._status:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.end(Broken(f"not HTTP: {error}"))
        if not self._status and self._head_size > HEAD_LIMIT:
            self.end(Broken("an endless head"))

    data_received = take

    def connection_lost(self, error: Exception | None) -> None:
        """Note that a TLS connection has ended (called by asyncio)."""
        self.take(b"")

    def _take_end(self) -> None:
        # Without a length the connection's end is the answer's (RFC 9112, section 6.3).
        whole = self._status and not {"Content-Length", "Transfer-Encoding"} & self._headers.keys()
        self.end(None if whole else Broken("closed before the answer was whole"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header (called by the parser)."""
        self._headers.add(name.decode("latin1"), value.decode("latin1"))

    def on_headers_complete(self) -> None:
        """Tell of the head (called by the parser)."""
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = HTTPHeaders()
            return
        self._status = status
        if tell := self._request.header_callback:
            tell(f"HTTP/1.1 {status}\r\n")
            for name, value in self._headers.get_all():
                tell(f"{name}: {value}\r\n")
            tell("\r\n")

    def on_message_complete(self) -> None:
        """End with a whole answer, unless it was only an interim one (called by the parser)."""
        if self._status:
            self.end(None)

    def _collect(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > BODY_LIMIT:
            self.end(Broken("an endless body"))


async def _connected(host: str, port: int) -> socket:
    """Connect to the first of a host's addresses that can be.

    :raises OSError: none can.
    """
    failed = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await _addresses(host, port):
        connection = socket(family, kind, protocol)
        connection.setblocking(False)
        try:
            await _connect(connection, address)
            connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            return connection
        except OSError as error:
            connection.close()
            failed = error
        except BaseException:
            connection.close()
            raise
    raise failed


async def _connect(connection: socket, address: Any) -> None:
    """Connect a socket, without a turn of the event loop if that takes no time (uvloop's own ``sock_connect`` looks
    every address up in a thread).

    :raises OSError: it cannot be.
    """
    failure = connection.connect_ex(address)
    if failure == EINPROGRESS:
        try:
            connection.getpeername()
            return
        except OSError:
            await _writable(connection)
        failure = connection.getsockopt(SOL_SOCKET, SO_ERROR)
    if failure:
        raise OSError(failure, strerror(failure))


async def _writable(connection: socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def end() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(connection, end)
    try:
        await ready
    finally:
        loop.remove_writer(connection)


async def _addresses(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    """What a host's name stands for; a name that is an address needs no thread that looks it up.

    :raises OSError: nobody knows it.
    """
    try:
        return getaddrinfo(host, port, type=SOCK_STREAM, flags=AI_NUMERICHOST)
    except gaierror:
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)


def _authorization(url: SplitResult) -> list[str]:
    if url.username is None:
        return []
    credentials = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return [f"Authorization: Basic {b64encode(credentials.encode()).decode()}"]


@cache
def _trusting_the_system() -> ssl.SSLContext:
    return ssl.create_default_context()
