"""Tornado's HTTP server with a limit on connections, a timeout for TLS handshakes and a replaceable certificate."""

import asyncio
import errno
import logging
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from typing import Any, cast

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, SSLIOStream
from tornado.netutil import add_accept_handler, ssl_wrap_socket
from tornado.web import Application

from settings import Settings
from web.connections.counting_stream import CountingSSLStream, CountingStream
from web.connections.tls import KeyPair

log = logging.getLogger("chatterd.http")

RESERVED_FILES = 64
"""File descriptors left for the log, the process itself and its diagnosis."""

ACCEPT_PAUSE = 0.1
"""Seconds after which accepting is tried again when no file descriptor was available."""

WARNING_INTERVAL = 60.0
"""Seconds between two warnings that clients are waiting for a file descriptor."""

NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors of accept(2) when resources are exhausted; the client keeps waiting in the backlog."""

HARD_LIMIT_FACTOR = 2
"""How many times ``--max-header-bytes`` are read, so that a client can be told that it exceeds them."""

MAX_HOST_LENGTH = 1_024
"""Characters of a Host header. Tornado converts its port to a number, which Python does not do with 4,301 digits."""

KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds without a packet after which TCP probes whether the client is there, seconds between two probes, and the
number of probes without answer after which the connection is closed (Linux tcp(7))."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds for a client to complete the TLS handshake."""


def connection_limit(other_connections: int) -> int:
    """Return the number of client connections that the process's limit of open files allows; at least half of it.

    :param other_connections: maximum number of connections to PostgreSQL and Ollama.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    return limit - min(limit // 2, other_connections + RESERVED_FILES)


class ChatterdServer(HTTPServer):
    """Serves the application. Create it in a running event loop, with keyword arguments as for :meth:`initialize`.

    Clients beyond the limit wait in the listening socket's backlog: running replies and PostgreSQL need file
    descriptors, too.
    """

    def initialize(self, application: Application, settings: Settings, key_pair: KeyPair | None) -> None:  # type: ignore[override]
        """Set up the server (called by Tornado).

        :param key_pair: certificate and key; None for plain HTTP.
        :raises OSError: the certificate cannot be loaded.
        """
        super().initialize(
            application,
            # Beyond this Tornado closes the connection without a response; up to it web.base responds with 431.
            max_header_size=HARD_LIMIT_FACTOR * settings.max_header_bytes,
            max_body_size=sys.maxsize,  # web.request_body has limits that are answered with JSON
            idle_connection_timeout=settings.idle_connection_timeout,
        )
        self._key_pair = key_pair
        self._base_path = settings.base_path
        self._tls = key_pair.load() if key_pair else None
        self._limit = connection_limit(settings.max_replies + settings.pool_size)
        self._open_connections = 0
        self._listening: dict[socket.socket, Callable[[], None]] = {}
        self._resumes: set[asyncio.TimerHandle] = set()
        self._last_warning = -WARNING_INTERVAL

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections from listening sockets, from which they inherit TCP's keepalive."""
        for listening in sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE.items():
                if hasattr(socket, name):  # macOS lacks some
                    listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            self._resume(listening)

    def stop(self) -> None:
        """Stop accepting connections, and close the listening sockets."""
        for timer in self._resumes:
            timer.cancel()
        for listening, remove_handler in self._listening.items():
            remove_handler()
            listening.close()
        self._listening.clear()
        super().stop()

    def reload_certificate(self) -> None:
        """Read the certificate again for new connections. If that fails the present one stays in use."""
        if self._key_pair is None:
            return
        try:
            self._tls = self._key_pair.load()
        except OSError as error:
            log.error("The certificate could not be reloaded; the present one stays in use: %s", error)
        else:
            log.info("New connections use the certificate in %s.", self._key_pair.certfile)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Serve a new connection (called for each accepted connection)."""
        self._open_connections += 1
        if isinstance(stream, SSLIOStream):
            timer = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT, stream.close)
            stream.wait_for_handshake().add_done_callback(lambda handshake: _end_handshake(timer, handshake))
        super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Return a delegate for a request (called by Tornado)."""
        return _HeadFilter(super().start_request(server_conn, request_conn), self._base_path)

    def on_close(self, server_conn: object) -> None:
        """Count a connection that has ended (called by Tornado)."""
        self._open_connections -= 1
        super().on_close(server_conn)

    def _resume(self, listening: socket.socket) -> None:
        acceptor = cast(socket.socket, _Acceptor(listening, self._has_room, self._pause))
        self._listening[listening] = add_accept_handler(acceptor, self._serve)

    def _pause(self, listening: socket.socket) -> None:
        """Stop accepting for a while: the socket stays readable, and the event loop would call us all the time."""
        self._warn()
        self._listening[listening]()
        loop = asyncio.get_running_loop()
        self._resumes = {timer for timer in self._resumes if timer.when() > loop.time()}
        self._resumes.add(loop.call_later(ACCEPT_PAUSE, self._resume, listening))

    def _has_room(self) -> bool:
        return self._open_connections < self._limit

    def _warn(self) -> None:
        if monotonic() - self._last_warning >= WARNING_INTERVAL:
            self._last_warning = monotonic()
            log.warning("Clients are waiting because too few open files are allowed. Raise the limit (ulimit -n).")

    def _serve(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        if self._tls is None:
            self.handle_stream(CountingStream(connection), address)
            return
        try:
            secure = ssl_wrap_socket(connection, self._tls, server_side=True, do_handshake_on_connect=False)
        except OSError:  # the client has disconnected already
            connection.close()
            return
        self.handle_stream(CountingSSLStream(secure), address)


class _HeadFilter(HTTPMessageDelegate):
    """Rejects a request with a Host header that Tornado would fail to parse, with an error in the log.

    Removes ``--base-path`` from the request's path; a proxy may have removed it already.
    """

    def __init__(self, delegate: HTTPMessageDelegate, base_path: str) -> None:
        self._delegate = delegate
        self._base_path = base_path
        self.data_received = delegate.data_received  # type: ignore[method-assign]
        self.finish = delegate.finish  # type: ignore[method-assign]
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Pass on the request's head.

        :raises HTTPInputError: the Host header is too long; Tornado responds with 400, and closes the connection.
        """
        if len(headers.get("Host", "")) > MAX_HOST_LENGTH:
            raise HTTPInputError("The Host header is too long")
        if self._base_path and isinstance(start_line, RequestStartLine):
            method, path, version = start_line
            rest = path.removeprefix(self._base_path)
            if rest[:1] in ("", "/", "?"):
                start_line = RequestStartLine(method, rest, version)
        return self._delegate.headers_received(start_line, headers)


class _Acceptor:
    """A listening socket as :func:`tornado.netutil.add_accept_handler` uses it, which may refuse to accept.

    :param has_room: whether another connection may be accepted.
    :param pause: called when none can be accepted now.
    """

    def __init__(
        self, listening: socket.socket, has_room: Callable[[], bool], pause: Callable[[socket.socket], None]
    ) -> None:
        self._listening = listening
        self._has_room = has_room
        self._pause = pause

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._listening.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        :raises BlockingIOError: no client is waiting, or there is no room.
        """
        if not self._has_room():
            self._pause(self._listening)
            raise BlockingIOError
        try:
            return self._listening.accept()
        except OSError as error:
            if error.errno not in NO_DESCRIPTORS:
                raise
            self._pause(self._listening)
            raise BlockingIOError from error


def _end_handshake(timer: asyncio.TimerHandle, handshake: "asyncio.Future[SSLIOStream]") -> None:
    timer.cancel()
    handshake.exception()  # Tornado has logged it; asyncio would log an exception that is never retrieved
