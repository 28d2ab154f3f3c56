"""An HTTP client for long, slow responses: it passes each piece of a body on as soon as it is read."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse

from relay.ollama.transfer import Transfer

Callback = Callable[[HTTPResponse], None]


class StreamingClient(AsyncHTTPClient):
    """An AsyncHTTPClient with a connection per request, no redirects, no proxy and no decoding of bodies.

    Of a request's settings it uses ``body_producer``, ``header_callback``, ``streaming_callback``, ``connect_timeout``
    and ``request_timeout``, as :class:`Transfer` says; no timeout runs while a request is queued. Any method but HEAD
    and CONNECT. A fetch fails with the error that Transfer names.
    """

    def initialize(self, max_clients: int = 10, **options: Any) -> None:  # type: ignore[override]
        """Initialize the client (called by Tornado).

        :param max_clients: concurrent requests; further ones are queued.
        """
        super().initialize(**options)
        self._max_clients = max_clients
        self._queued: OrderedDict[HTTPRequest, Transfer] = OrderedDict()
        self._active: dict[HTTPRequest, Transfer] = {}
        self._callbacks: dict[HTTPRequest, Callback] = {}

    def fetch_impl(self, request: HTTPRequest, callback: Callback) -> None:
        """Queue a request (called by Tornado, with a proxy that adds its defaults to the request).

        :raises ValueError: the same object is being fetched already.
        """
        key = getattr(request, "request", request)
        if key in self._callbacks:
            raise ValueError("an HTTPRequest can be fetched only once at a time")
        self._callbacks[key] = callback
        self._queued[key] = Transfer(request, lambda response: self._on_closed(key, response))
        self._start_queued()

    def cancel(self, request: HTTPRequest) -> None:
        """Close a request's connection at once; its fetch fails with RemoteProtocolError if it is not complete."""
        if transfer := self._active.get(request) or self._queued.get(request):
            transfer.cancel()

    def close(self) -> None:
        """Cancel all requests."""
        for request in [*self._queued, *self._active]:
            self.cancel(request)
        super().close()

    def _start_queued(self) -> None:
        while self._queued and len(self._active) < self._max_clients:
            key, transfer = self._queued.popitem(last=False)
            self._active[key] = transfer
            transfer.start()

    def _on_closed(self, key: HTTPRequest, response: HTTPResponse) -> None:
        self._queued.pop(key, None)
        self._active.pop(key, None)
        self._start_queued()
        self._callbacks.pop(key)(response)
