"""Tornado's curl client, made for thousands of slow streams: it reads them together, a few milliseconds apart."""

import asyncio
import select
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Any

import pycurl
from tornado.curl_httpclient import CurlAsyncHTTPClient
from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders

READ_INTERVAL = 0.004
"""Seconds between two readings of all sockets. What arrives after a pause is read at once."""

READ_SIZE = 4_096
"""Bytes that curl reads at once, and keeps room for in each connection: many lines, and a quarter of its default."""

_EVENTS = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


class StreamingClient(CurlAsyncHTTPClient):
    """An AsyncHTTPClient whose ``streaming_callback`` gets its bytes with as little in between as can be.

    Its sockets are in an epoll set of their own, which the event loop sees as one: with a thousand lines a second and
    more, waking up for each of them costs more than reading it. curl's handles are made as they are needed.
    """

    def initialize(self, max_clients: int = 10, **options: Any) -> None:  # type: ignore[override]
        """Make the client (called by Tornado).

        :param max_clients: requests at once; more of them wait for their turn.
        """
        super().initialize(max_clients=0, **options)
        self._max_clients = max_clients
        self._arrived: list[tuple[Callable[[bytes], Any], bytes]] = []
        self._loop = asyncio.get_running_loop()
        self._sockets = select.epoll()
        self._loop.add_reader(self._sockets.fileno(), self._begin_reading)
        self._next_reading: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Close all connections."""
        if self._next_reading:
            self._next_reading.cancel()
        self._loop.remove_reader(self._sockets.fileno())
        super().close()
        self._sockets.close()

    def fetch_impl(self, request: HTTPRequest, callback: Callable[[HTTPResponse], None]) -> None:
        """Begin a request (called by Tornado)."""
        if not self._free_list and len(self._curls) < self._max_clients:
            self._curls.append(self._curl_create())
            self._free_list.append(self._curls[-1])
        super().fetch_impl(request, callback)

    def _curl_setup_request(self, curl: Any, request: HTTPRequest, buffer: BytesIO, headers: HTTPHeaders) -> None:
        super()._curl_setup_request(curl, request, buffer, headers)
        curl.setopt(pycurl.NOSIGNAL, 1)  # or SIGPIPE, which Python ignores anyway, is set aside at each reading
        curl.setopt(pycurl.BUFFERSIZE, READ_SIZE)
        if callback := request.streaming_callback:
            # Not called from within curl, where its handle must not be used.
            curl.setopt(pycurl.WRITEFUNCTION, lambda chunk: self._arrived.append((callback, chunk)))

    def _handle_socket(self, event: int, fd: int, multi: Any, data: Any) -> None:
        known = self._fds.pop(fd, None) is not None
        if event == pycurl.POLL_REMOVE:
            if known:
                with suppress(OSError):  # curl closed it already
                    self._sockets.unregister(fd)
            return
        self._fds[fd] = event
        try:
            self._sockets.register(fd, _EVENTS.get(event, 0))
        except FileExistsError:
            self._sockets.modify(fd, _EVENTS.get(event, 0))

    def _begin_reading(self) -> None:
        """Read what is there; if it was part of an answer, and not only a connection that got ready, pause then."""
        if self._read():
            self._loop.remove_reader(self._sockets.fileno())
            self._next_reading = self._loop.call_later(READ_INTERVAL, self._go_on_reading)

    def _go_on_reading(self) -> None:
        if self._read():
            self._next_reading = self._loop.call_later(READ_INTERVAL, self._go_on_reading)
        else:
            self._next_reading = None
            self._loop.add_reader(self._sockets.fileno(), self._begin_reading)

    def _read(self) -> bool:
        """Have curl read and write all sockets that are ready; True if bytes of answers came."""
        for fd, events in self._sockets.poll(0, max(1, len(self._fds))):
            action = pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0
            if events & select.EPOLLOUT:
                action |= pycurl.CSELECT_OUT
            with suppress(pycurl.error):  # the request's own errors are among those finished
                self._multi.socket_action(fd, action)
        came = bool(self._arrived)
        self._finish_pending_requests()
        return came

    def _finish_pending_requests(self) -> None:
        arrived, self._arrived = self._arrived, []
        for callback, chunk in arrived:
            try:
                callback(chunk)
            except Exception:
                self.handle_callback_exception(callback)
        super()._finish_pending_requests()
