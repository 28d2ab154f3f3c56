"""A server in the test's own event loop with handlers of the test's own: no database, no Ollama."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from tornado.netutil import bind_sockets
from tornado.web import Application

from auth.forwarded import TrustedProxies
from auth.identity_provider import IdentityProvider
from auth.origins import AllowedOrigins, parse_origins
from auth.rate_limit import RequestLimiter
from handlers.not_found import NotFoundHandler
from relay.metrics import Metrics
from settings import Settings
from web.access_log import log_request
from web.base import BaseHandler
from web.connections.http_server import ChatterdServer
from web.connections.tls import KeyPair
from web.request_body import create_limits

TIMEOUT = 20.0
"""Seconds after which an awaited condition has failed."""

Routes = list[tuple[str, type[BaseHandler]]]


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A client's connection; the test sends any bytes and parses the responses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> Response:
        """Read a response with a Content-Length, or without body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Response(int(head[0].split()[1]), headers, body)

    async def rest(self) -> bytes:
        """Read until the server closes the connection; a reset counts as its end."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""

    def reset(self) -> None:
        """Close the connection without reading what was received."""
        self.writer.transport.abort()


class Server:
    """A running server and its components."""

    def __init__(
        self, http_server: ChatterdServer, address: tuple[str, int], services: Any, trust: ssl.SSLContext | None
    ) -> None:
        self.services = services
        self._http_server = http_server
        self._address = address
        self._trust = trust

    @property
    def reserved(self) -> int:
        """Bytes of request bodies that are charged."""
        limits = self.services.body_limits
        return int(limits.strangers.charged + limits.senders.charged)

    @property
    def open_connections(self) -> int:
        return self._http_server._open_connections

    @asynccontextmanager
    async def connect(self, limit: int = 65_536, address: str = "127.0.0.1") -> AsyncIterator[Connection]:
        """Open a connection.

        :param limit: bytes that the client buffers before it stops reading.
        :param address: the client's; Linux has all of 127.0.0.0/8.
        """
        host, port = self._address
        name = host if self._trust else None
        reader, writer = await asyncio.open_connection(
            host, port, ssl=self._trust, server_hostname=name, limit=limit, local_addr=(address, 0)
        )
        try:
            yield Connection(reader, writer)
        finally:
            writer.transport.abort()


async def until(condition: Callable[[], bool]) -> None:
    """Poll until a condition holds.

    :raises TimeoutError: it did not hold within :data:`TIMEOUT` seconds.
    """
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(
    routes: Routes,
    *,
    identity: IdentityProvider | None = None,
    origins: str = "",
    key_pair: KeyPair | None = None,
    trust: ssl.SSLContext | None = None,
    **changed: Any,
) -> AsyncIterator[Server]:
    """Serve ``routes`` on a free port.

    :param trust: the client's TLS context, with ``key_pair``.
    :param changed: settings by name.
    """
    settings = replace(Settings(), **changed)
    services = SimpleNamespace(
        settings=settings,
        identity=identity,
        limits=RequestLimiter(settings),
        metrics=Metrics(),
        origins=parse_origins(origins) if origins else AllowedOrigins(),
        proxies=TrustedProxies(settings.trusted_proxies),
        body_limits=create_limits(settings),
    )
    application = Application(
        list(routes), default_handler_class=NotFoundHandler, log_function=log_request, services=services
    )
    server = ChatterdServer(application, settings=settings, key_pair=key_pair)
    [listening] = bind_sockets(0, "127.0.0.1")
    server.add_sockets([listening])
    try:
        yield Server(server, listening.getsockname(), services, trust)
    finally:
        server.stop()
        await server.close_all_connections()


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine in an event loop of its own."""

    async def with_timeout() -> None:
        async with asyncio.timeout(3 * TIMEOUT):
            await test()

    asyncio.run(with_timeout())
