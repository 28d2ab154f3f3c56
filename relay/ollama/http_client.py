"""The HTTP client for long, slow answers: an AsyncHTTPClient with nothing between socket and ``streaming_callback``."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httptools
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders, HTTPInputError

from relay.ollama.connecting import connect, trusting_the_system
from relay.ollama.request_head import request_head
from relay.ollama.sockets import Sockets

HEAD_LIMIT = 65_536
"""Bytes of an answer that may come before its head is whole."""

BODY_LIMIT = 16_777_216
"""Bytes of a body that is collected, not streamed."""

CHUNK_LIMIT = 67_108_864
"""Bytes that may come before a chunk, or the trailer after the last, is whole: the parser keeps a trailer's."""

LOOK_AFTER = 256
"""Reads without the end of a chunk after which its bytes are counted."""


class RemoteProtocolError(Exception):
    """A connection was made and then lost or closed, or what came over it is not HTTP."""


class StreamingClient(AsyncHTTPClient):
    """Asks over a connection of its own for each request, follows no redirects, asks no proxy, decodes no body.

    Of a request's settings it heeds ``header_callback`` and ``streaming_callback``, called as bytes arrive,
    ``connect_timeout`` and ``request_timeout`` (0 for none; neither runs while the request waits for its turn). The
    method may be any but HEAD and CONNECT. A fetch fails with :class:`Broken`; with OSError if there was no connection
    or no time, or if it cannot be asked at all; with what a callback raised.
    """

    def initialize(self, max_clients: int = 10, **options: Any) -> None:  # type: ignore[override]
        """Make the client (called by Tornado).

        :param max_clients: requests at once; more of them wait for their turn.
        """
        super().initialize(**options)
        self._sockets = Sockets()
        self._free = max_clients
        self._waiting: OrderedDict[HTTPRequest, Transfer] = OrderedDict()
        self._exchanges: dict[HTTPRequest, Transfer] = {}

    def fetch_impl(self, request: HTTPRequest, callback: Callable[[HTTPResponse], None]) -> None:
        """Begin a request (called by Tornado, which puts its defaults around it).

        :raises ValueError: it is under way already.
        """
        key = getattr(request, "request", request)
        if key in self._exchanges:
            raise ValueError("a request is fetched once at a time")

        def end(response: HTTPResponse) -> None:
            del self._exchanges[key]
            if not self._waiting.pop(key, None):
                self._free += 1
            self._begin_next()
            callback(response)

        self._exchanges[key] = self._waiting[key] = Transfer(request, self._sockets, end)
        self._begin_next()

    def cancel(self, request: HTTPRequest) -> None:
        """Close a request's connection; its fetch fails if it was not over.

        In a callback of the request's own, what was read together with what the callback was given still follows.
        """
        if exchange := self._exchanges.get(request):
            exchange.end(RemoteProtocolError("cancelled"))

    def close(self) -> None:
        """Close all connections."""
        for request in [*self._waiting, *self._exchanges]:
            self.cancel(request)
        self._sockets.close()
        super().close()

    def _begin_next(self) -> None:
        while self._waiting and self._free:
            self._free -= 1
            self._waiting.popitem(last=False)[1].begin()


class Transfer(asyncio.Protocol):
    """One request and its answer. (A protocol for TLS only; plain sockets are read by :class:`Sockets`.)

    :param on_end: is given the answer, once.
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
        self.over = False
        self._connecting: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._disconnect: Callable[[], None] = lambda: None
        self.on_body: Callable[[bytes], object] = request.streaming_callback or self._collect
        self._unended: list[int] = []
        self.on_chunk_complete = self._unended.clear  # called for each line, hence nothing of Python's
        self._parser = httptools.HttpResponseParser(self)

    def begin(self) -> None:
        """Connect and send."""
        self._end_after(self._request.connect_timeout, "connecting took too long")
        self._connecting = self._loop.create_task(self._ask())

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
        del (
            self.on_body,
            self.on_chunk_complete,
            self._parser,
            self._disconnect,
        )  # they lead back here: nobody has to find a cycle
        code = 599 if error else self._status
        self._on_end(HTTPResponse(self._request, code, self._headers, BytesIO(self._body), error=error))

    async def _ask(self) -> None:
        try:
            url = urlsplit(self._request.url)
            message = self._message(url)
            if url.scheme == "https":
                await self._ask_with_tls(url.hostname or "", url.port or 443, message)
            elif url.scheme == "http":
                await self._ask_plainly(url.hostname or "", url.port or 80, message)
            else:
                raise ValueError(f"not a URL of HTTP: {self._request.url}")
        except (OSError, ValueError) as error:
            self._connecting = None
            self.end(error if isinstance(error, OSError) else OSError(str(error)))
        self._connecting = None

    def _message(self, url: SplitResult) -> bytes:
        body = self._request.body
        length = None if body is None else len(body)
        return request_head(self._request.method, url, self._request.headers, length) + (body or b"")

    async def _ask_with_tls(self, host: str, port: int, message: bytes) -> None:
        transport, _ = await self._loop.create_connection(lambda: self, host, port, ssl=trusting_the_system())
        self._end_after(self._request.request_timeout, "the answer took too long")
        transport.write(message)

    async def _ask_plainly(self, host: str, port: int, message: bytes) -> None:
        connection = await connect(host, port)

        def disconnect() -> None:
            self._sockets.remove(connection)
            if self._connecting:
                self._loop.remove_writer(connection)  # asyncio's own loop would do it too late, for a closed socket
            connection.close()

        self._disconnect = disconnect
        self._sockets.add(connection, self.take)  # before all is sent: an answer may come first
        self._end_after(self._request.request_timeout, "the answer took too long")
        with suppress(OSError):  # who closes early may have answered before: what is read tells
            await self._loop.sock_sendall(connection, message)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note that a TLS connection is made (called by asyncio)."""
        if self.over:
            transport.abort()
        else:
            self._disconnect = transport.abort

    def take(self, data: bytes | None) -> None:
        """Take bytes of the answer; none at the connection's end, None if it broke."""
        if self.over:
            return
        if not data:
            self._take_end(broken=data is None)
            return
        if not self._status:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self._take_failure(error.__context__ or error)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.end(RemoteProtocolError(f"not HTTP: {error}"))
        if not self._status and self._head_size > HEAD_LIMIT:
            self.end(RemoteProtocolError("an endless head"))
        self._unended.append(len(data))
        if len(self._unended) > LOOK_AFTER:
            self._look_for_end()

    def _look_for_end(self) -> None:
        """End an answer of which no chunk ends."""
        self._unended[:] = [sum(self._unended)]
        if self._unended[0] > CHUNK_LIMIT and "Transfer-Encoding" in self._headers:
            self.end(RemoteProtocolError("an endless chunk"))

    data_received = take

    def connection_lost(self, error: Exception | None) -> None:
        """Note that a TLS connection has ended (called by asyncio)."""
        self.take(None if error else b"")

    def _take_end(self, broken: bool) -> None:
        # Without a length the connection's end is the answer's (RFC 9112, section 6.3).
        whole = self._status and not broken and not {"Content-Length", "Transfer-Encoding"} & self._headers.keys()
        self.end(None if whole else RemoteProtocolError("closed before the answer was whole"))

    def _take_failure(self, error: BaseException) -> None:
        """End with what a callback raised; after the end, what we raised ourselves means nothing."""
        if isinstance(error, Exception) and not self.over:
            self.end(error)
        elif not isinstance(error, RemoteProtocolError):
            raise error

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header, but no trailer (called by the parser)."""
        if self._status:
            return
        try:
            self._headers.add(name.decode("latin1"), value.decode("latin1"))
        except HTTPInputError as error:
            raise RemoteProtocolError(f"not HTTP: {error}") from error

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
        """End with a whole answer, unless it was only an interim one (called by the parser).

        :raises Broken: always at the end, for that is what stops the parser: what follows is nobody's answer.
        """
        if self._status:
            self.end(None)
            raise RemoteProtocolError("over")

    def _collect(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > BODY_LIMIT:
            raise RemoteProtocolError("an endless body")
