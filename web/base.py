"""The base class of all handlers: authentication before the method runs, errors as JSON, streams."""

import asyncio
import http.client
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar, cast

import msgspec
from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream, StreamClosedError
from tornado.web import HTTPError, RequestHandler

from auth.principal import UNAUTHENTICATED, Access, Principal
from auth.rate_limit import network_of
from errors import ChatterdError, HeadersTooLarge, URITooLong
from relay.sender_shares import Charge
from web import access_log, authentication, cors
from web.request_body import IGNORED_BODY_LIMIT, METHODS_WITH_BODY, RequestBodyMixin
from web.services import Services

log = logging.getLogger("chatterd.http")

FIELD_OVERHEAD = 4
"""Bytes of a header field besides its name and value: colon, space, CR and LF."""

MIN_WRITE_RATE = 1_024
"""Bytes a second that a client must read of a response, beyond ``--client-write-timeout``."""


MAX_USER_TIMEOUT = 2**31 - 1
"""Milliseconds; the largest value of Linux's TCP_USER_TIMEOUT (an int)."""

LOCATIONS = ("Location", "Content-Location")
"""Headers that contain a path of this server."""


class BaseHandler(RequestBodyMixin, RequestHandler):
    """A handler of the API. Errors raised in its methods become JSON.

    :cvar access: who may call it. The server does not start with a handler that does not declare it.
    :cvar rate_limited: whether its requests count towards the limits of requests per minute.
    :cvar route: its path as ``static/openapi.json`` has it, for the metrics.
    :ivar principal: the authenticated sender.
    :ivar streams: whether the response is written over a longer time as data becomes available.
    :ivar log_fields: further fields of the request's line in the log.
    """

    access: ClassVar[Access]
    rate_limited: ClassVar[bool] = True
    route: ClassVar[str] = "unknown"
    services: Services
    streams = False
    _prepared = False

    def initialize(self) -> None:
        """Set up the handler before its request is checked (called by Tornado)."""
        self.services = self.settings["services"]
        self.principal: Principal = UNAUTHENTICATED
        self.log_fields: dict[str, object] = {}
        proxies, request = self.services.proxies, self.request
        if proxies:
            peer = str(request.remote_ip)
            request.protocol = proxies.scheme(peer, request.protocol, request.headers.get_list("X-Forwarded-Proto"))
            request.remote_ip = proxies.client_address(peer, request.headers.get_list("X-Forwarded-For"))

    async def prepare(self) -> None:
        """Check limits, origin, authentication and authorization before the method runs (called by Tornado).

        :raises ChatterdError, HTTPError: the request is rejected, and its client waits for permission to send the body,
            or announces one that is far too large.
        """
        self.check_framing(self.services.body_limits)
        try:
            await self._check_request()
            self.check_route()
            if self.has_body:
                self._accept_body()
        except (ChatterdError, HTTPError) as error:
            self.reject(error)
        self.start_body_timer()
        self._prepared = True

    def _accept_body(self) -> None:
        """Let the body of a request arrive whose sender is known. It is kept where its method has one.

        :raises ContentTooLarge, UnsupportedMediaType: it is announced to be too large, or not to be JSON.
        """
        if self.request.method not in METHODS_WITH_BODY:
            self.limit_body(IGNORED_BODY_LIMIT)
            return
        limits = self.services.body_limits
        self.limit_body(limits.max_bytes if self.body_limit is None else self.body_limit)
        self.check_media_type()
        self.keep_body(self.new_charge())

    def new_charge(self) -> Charge:
        """Return an empty charge of the sender's share of memory: a tenant's or, of strangers and with ``--auth=none``,
        an address's."""
        limits = self.services.body_limits
        budget = limits.strangers if self.access is Access.PUBLIC else limits.senders
        by_address = self.access is Access.PUBLIC or self.services.identity is None
        return budget.charge(network_of(str(self.request.remote_ip)) if by_address else self.tenant)

    async def _check_request(self) -> None:
        if self.rate_limited:
            self.services.limits.check_address(str(self.request.remote_ip))
        if cors.is_preflight(self.request, self.services.origins):
            return  # even of a URL that is too long: a page cannot read why its preflight request failed
        self._check_head()
        cors.check_origin(self.request, self.services.origins)
        self.principal = await authentication.authenticate(
            self.request, self.access, self.services.identity, self.services.settings.base_path
        )
        if self.rate_limited and self.principal is not UNAUTHENTICATED:
            self.services.limits.check_tenant(self.principal)
        authentication.authorize(self.access, self.principal)

    def _check_head(self) -> None:
        request, settings = self.request, self.services.settings
        url_size = len(str(request.uri))
        if url_size > settings.max_url_bytes:
            raise URITooLong(f"The URL is longer than {settings.max_url_bytes} bytes.")
        size = url_size + sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in request.headers.get_all())
        if size > settings.max_header_bytes:
            raise HeadersTooLarge(
                f"The request's headers are larger than {settings.max_header_bytes} bytes; delete this site's cookies."
            )

    def check_route(self) -> None:
        """Reject a request that is wrong whatever its body, of which nothing is kept then.

        :raises HTTPError: 405.
        """
        method = str(self.request.method).lower()
        implemented = getattr(type(self), method) is not getattr(BaseHandler, method)
        if not implemented and not cors.is_preflight(self.request, self.services.origins):
            raise HTTPError(405)

    @property
    def tenant(self) -> str:
        """The tenant whose conversations and replies exist for this request."""
        return self.principal.tenant

    @cached_property
    def request_id(self) -> str:
        """The request's id in the log and in ``X-Request-ID``."""
        return access_log.request_id(self.request)

    def set_default_headers(self) -> None:
        """Set the headers of every response, errors included (called by Tornado, before ``initialize``)."""
        self.set_header("X-Request-ID", self.request_id)
        self.set_header("Server", "chatterd")
        self.set_header("Cache-Control", "no-store")
        if origins := self.settings["services"].origins:
            cors.set_headers(self, origins)

    def allowed_methods(self) -> list[str]:
        """Return the methods that the handler implements."""
        return [
            name
            for name in self.SUPPORTED_METHODS
            if getattr(type(self), name.lower()) is not getattr(BaseHandler, name.lower())
        ]

    def options(self, *_path: str) -> None:
        """Respond to a browser's preflight request.

        :raises HTTPError: it is none, or of an origin that is not allowed: 405.
        """
        if not cors.is_preflight(self.request, self.services.origins):
            raise HTTPError(405)
        cors.answer_preflight(self, self.allowed_methods())

    def _unsupported(self, *_path: str) -> None:
        raise HTTPError(405)

    # Not Tornado's own, which would respond before the request is authenticated.
    get: Callable[..., Awaitable[None] | None] = _unsupported
    head: Callable[..., Awaitable[None] | None] = _unsupported
    post: Callable[..., Awaitable[None] | None] = _unsupported
    put: Callable[..., Awaitable[None] | None] = _unsupported
    patch: Callable[..., Awaitable[None] | None] = _unsupported
    delete: Callable[..., Awaitable[None] | None] = _unsupported

    # Responses.

    def set_header(self, name: str, value: Any) -> None:
        """Set a header of the response; the path in ``Location`` or ``Content-Location`` is one of this server."""
        super().set_header(name, self.public_path(value) if name in LOCATIONS else value)

    def public_path(self, path: str) -> str:
        """Return a path of this server as clients see it, below ``--base-path``; a relative one unchanged."""
        base: str = self.settings["services"].settings.base_path
        return base + path if path.startswith("/") else path

    def write_json(self, value: object, status: int = 200) -> None:
        """Respond with JSON, and end the request."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(msgspec.json.encode(value))

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> "asyncio.Future[None]":
        """End the response, and close the connection of a client that does not read it in time (called by Tornado)."""
        written = super().finish(chunk)
        stream = self._connection.stream
        if not self._prepared:
            self._end_connection(stream)
        if stream.writing() and not stream.closed():
            seconds = self.services.settings.client_write_timeout + len(chunk or b"") / MIN_WRITE_RATE
            timer = asyncio.get_running_loop().call_later(seconds, stream.close)
            # Not Tornado's future, which is not always done: neither after HTTP1Connection.close(), nor with the last
            # chunk of a stream.
            stream.write(b"").add_done_callback(lambda _: timer.cancel())
        return written

    def _end_connection(self, stream: IOStream) -> None:
        """Close the connection once the response is written, and process no more of what was received.

        Tornado would parse requests that it has in its buffer even after a response with ``Connection: close``, which
        RFC 9112, section 9.6, forbids. This runs within ``headers_received``, as ``HTTP1Connection.detach`` requires.
        """
        self._connection.detach()
        if not stream.closed():
            stream.write(b"").add_done_callback(lambda _: stream.close())

    def start_stream(self, content_type: str) -> None:
        """Prepare a response that is read while it is written: no proxy may store, compress or delay it."""
        self.streams = True
        # Compressors such as Express' hold back what they were given until they have a block of it, or see no-transform
        # (RFC 9111, section 5.2.2.6).
        self.set_header("Cache-Control", "no-store, no-transform")
        self.set_header("Content-Type", content_type)
        self.set_header("X-Accel-Buffering", "no")  # nginx
        # Nagle's algorithm (RFC 896) would hold back each small event until the previous one is acknowledged: 40 ms.
        # Tornado turns it on again at the end of a request.
        self._connection.stream.set_nodelay(True)
        self._limit_unacknowledged_time()
        if self.request.version == "HTTP/1.0":
            # Without chunks only the end of the connection ends the body, even if the client asked to keep it open.
            self.request.headers.pop("Connection", None)

    def _limit_unacknowledged_time(self) -> None:
        """Let the kernel close the connection of a client that has vanished, as a phone without network.

        What is written to it, heartbeats too, fits into the socket's buffer until TCP gives up, after a quarter of an
        hour (Linux tcp(7), ``tcp_retries2``). Meanwhile it would count as a viewer.
        """
        stream = self._connection.stream
        if sys.platform == "linux" and not stream.closed():
            # Later than the timeout of writing, which notices a client that acknowledges but does not read.
            milliseconds = round(2_000 * self.services.settings.client_write_timeout)
            stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(milliseconds, MAX_USER_TIMEOUT))

    async def finish_stream(self) -> None:
        """End a response begun with :meth:`start_stream`."""
        connection = self._connection
        self.finish()
        if self.request.version == "HTTP/1.0":
            with suppress(StreamClosedError):
                await connection.stream.write(b"")  # done when everything before is written
            connection.close()

    def abort_stream(self, reason: str) -> None:
        """Close the connection without the end that would make the response look complete.

        :param reason: for the log.
        """
        self.log_fields["abort_reason"] = reason
        access_log.log_request(self)
        self.detach().close()
        self.on_finish()
        self.ui = None  # type: ignore[assignment]  # break a reference cycle, as Tornado's finish() does

    @property
    def _connection(self) -> HTTP1Connection:
        return cast(HTTP1Connection, self.request.connection)

    # Errors and the log.

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Respond with ``{"error": "<one clear sentence>"}`` (called by Tornado)."""
        if self.body_pending:
            self.set_header("Connection", "close")
            self.request.headers.pop("Connection", None)  # Tornado would repeat an HTTP/1.0 client's keep-alive
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, ChatterdError):
            for name, value in error.headers.items():
                self.set_header(name, value)
            self.write_json({"error": str(error)}, error.status)
            return
        if status_code == 405:
            self.set_header("Allow", ", ".join(self.allowed_methods()))
        self.write_json({"error": self._error_sentence(status_code)}, status_code)

    def _error_sentence(self, status_code: int) -> str:
        if status_code == 405:
            return f"{self.request.method} is not supported here; use {' or '.join(self.allowed_methods())}."
        if status_code >= 500:
            return f"Internal server error. The server's log has the details under the request id {self.request_id}."
        return f"{http.client.responses.get(status_code, 'Error')}."

    def on_finish(self) -> None:
        """Count the completed request (called by Tornado)."""
        super().on_finish()
        access_log.count_request(self.services.metrics, self.request, self.route, self.get_status(), self.streams)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log an error once: an expected one in the request's line, an unexpected one with a stack trace (called by
        Tornado)."""
        if isinstance(value, ChatterdError):
            self.log_fields["error"] = str(value)
        elif not isinstance(value, HTTPError):
            fields = {"request": self.request_id, "method": self.request.method, "path": self.request.path}
            log.error("A request failed.", exc_info=(typ, value, tb), extra={"fields": fields})
