"""The HTTP server: takes connections, and looks after them all now and then."""

import asyncio
from collections.abc import Iterable
from socket import socket
from typing import Any, cast

from tornado.httpserver import HTTPServer, _HTTPRequestContext
from tornado.iostream import IOStream
from tornado.netutil import add_accept_handler

from handlers.connection import DROP_LIMIT, Connection
from handlers.listening import PAUSE_SECONDS, Listener, most_clients
from relay.metrics import Metrics
from settings import Settings

CHECK_SECONDS = 1.0
"""Seconds between two looks at all connections, at most; a quarter of the shortest timeout if that is less."""


class Server(HTTPServer):
    """Tornado's server with connections of our own. Made where the event loop runs; takes ``settings=`` besides, and
    ``metrics=`` to count what is refused."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Set it up (called by Tornado)."""
        settings = self._settings = cast(Settings, kwargs.pop("settings"))
        self._metrics = cast(Metrics, kwargs.pop("metrics"))
        super().initialize(*args, **kwargs)
        self.conn_params.max_body_size = settings.max_body_bytes + DROP_LIMIT
        self.conn_params.max_header_size = settings.max_header_bytes
        self.conn_params.header_timeout = None  # time is ours to look after
        timeouts = (settings.header_timeout, settings.body_timeout, settings.keep_alive_timeout)
        self._interval = min(CHECK_SECONDS, *(max(timeout, 0.04) / 4 for timeout in timeouts))
        self._most = most_clients(settings.max_replies + settings.pool_size)
        self._next_check = asyncio.get_running_loop().call_later(self._interval, self._check)

    def add_sockets(self, sockets: Iterable[socket]) -> None:
        """Take clients from sockets that listen."""
        for listening in sockets:
            self._sockets[listening.fileno()] = listening
            self._accept_from(Listener(listening, self._has_room, self._pause))

    def _has_room(self) -> bool:
        return len(self._connections) < self._most

    def _accept_from(self, listener: Listener) -> None:
        if not self._stopped:
            handler = add_accept_handler(cast(socket, listener), self._handle_connection)
            self._handlers[listener.fileno()] = handler

    def _pause(self, listener: Listener) -> None:
        self._handlers[listener.fileno()]()
        asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._accept_from, listener)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Serve a new connection (called by Tornado)."""
        context = _HTTPRequestContext(stream, address, self.protocol)
        connection = Connection(stream, self.conn_params, context, self._settings, self._metrics)
        self._connections.add(connection)
        connection.start_serving(self)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_check = loop.call_later(self._interval, self._check)
        now = loop.time()
        for connection in list(self._connections):
            cast(Connection, connection).check(now)

    async def close_all_connections(self) -> None:
        """Close them, and wait until their requests have ended."""
        self._next_check.cancel()
        await super().close_all_connections()
