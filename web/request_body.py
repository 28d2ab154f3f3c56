"""Request bodies: kept up to a limit, or read and dropped so that the client can read why its request is rejected.

A client that is still sending when the connection closes sees a reset connection instead of the response (RFC 9112,
section 9.6). A rejected request's body is therefore read and dropped, up to :data:`DROP_LIMIT`, and the error is raised
in place of the handler's method.
"""

import asyncio
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any, ClassVar, cast

from tornado.http1connection import HTTP1Connection
from tornado.web import HTTPError, RequestHandler, stream_request_body

from errors import (
    BadRequest,
    ChatterdError,
    ContentTooLarge,
    RequestTimeout,
    ServiceUnavailable,
    UnsupportedMediaType,
)
from relay.sender_shares import Charge, SenderShares
from settings import Settings
from web.connections.counting_stream import CountingSSLStream, CountingStream

DROP_LIMIT = 67_108_864
"""Bytes of a rejected request's body that are read and dropped; then the connection is closed."""

DROP_INTERVALS = 3
"""Intervals of ``--body-timeout`` for which a rejected request's body is read and dropped; then the connection is
closed. nginx (``lingering_time``) reads for 30 s, too."""

IGNORED_BODY_LIMIT = 16_384
"""Bytes of the body of a request that takes none, such as GET, which some clients send: they are read and dropped."""

MAX_DIGITS = 15
"""Digits of a Content-Length; a longer number is larger than any limit, and slow to convert."""

MAX_CODING_LENGTH = 50
"""Characters of a content coding that an error repeats."""

METHODS_WITH_BODY = ("POST", "PUT", "PATCH")
"""Methods whose bodies are kept. That of another method has no meaning (RFC 9110, section 9.3) and is dropped."""

MAX_FRAMING = 131_072
"""Bytes by which what was read of a request may exceed its body and a sixteenth of it: the sizes of chunks, and what
Tornado has read ahead, 64 KiB. Each chunk takes 10 us of CPU time, be it one byte long."""

MIN_BODY_RATE = 1_024
"""Bytes a second at which a body must arrive in each interval of the timeout: it is in memory until it is complete."""

STRANGERS_PART = 16
"""One in so many bytes of ``--max-total-body-bytes`` is for routes that anyone may call."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The limits of all bodies.

    :param max_bytes: size of a body at most, on any route.
    :param timeout: seconds without data after which a request is rejected.
    :param strangers: bytes of bodies on routes that anyone may call.
    :param senders: bytes of bodies on the other routes.
    """

    max_bytes: int
    timeout: float
    strangers: SenderShares
    senders: SenderShares


def create_limits(settings: Settings) -> BodyLimits:
    """Return the limits that follow from the settings."""
    total = settings.max_total_body_bytes
    of_strangers = total // STRANGERS_PART
    return BodyLimits(
        settings.max_body_bytes, settings.body_timeout, SenderShares(of_strangers), SenderShares(total - of_strangers)
    )


@stream_request_body
class RequestBodyMixin(RequestHandler):
    """Receives the request's body up to its route's limit, within its timeout and its sender's share of memory.

    Subclasses call in ``prepare`` first :meth:`check_framing`, then, if the request has a body, :meth:`limit_body` and
    :meth:`keep_body`, or :meth:`reject` if the request must not be processed, and at its end :meth:`start_body_timer`.
    A body that none of them kept is read and dropped.

    :cvar body_limit: bytes of a body at most; None: ``--max-body-bytes``. By default the route takes no body.
    """

    body_limit: ClassVar[int | None] = 0
    _body_limits: BodyLimits
    _max_bytes = 0
    _rejection: ChatterdError | HTTPError | None = None
    _body: BytesIO | None = None
    _charge: Charge | None = None
    _read_before = 0
    _received = 0
    _seen = 0
    _dropped = 0
    _dropped_intervals = 0
    _body_complete = False
    _body_timer: asyncio.TimerHandle | None = None

    def __init_subclass__(cls) -> None:
        """Let every HTTP method of a subclass raise the rejection of its request first."""
        for name in map(str.lower, cls.SUPPORTED_METHODS):
            if method := cls.__dict__.get(name):
                setattr(cls, name, _unless_rejected(method))

    @cached_property
    def has_body(self) -> bool:
        """Whether the request announces a body (RFC 9112, section 6)."""
        headers = self.request.headers
        return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers

    @property
    def awaits_permission(self) -> bool:
        """Whether the client waits for permission to send the body (RFC 9110, section 10.1.1)."""
        return self.request.headers.get("Expect", "").lower() == "100-continue"

    @property
    def body_pending(self) -> bool:
        """Whether the request was not read to its end. Tornado closes the connection after a response sent then."""
        return not self._body_complete

    @property
    def _announced(self) -> int:
        """The body's size by ``Content-Length``; 0 if it says nothing, or no number, which Tornado rejects."""
        length = self.request.headers.get("Content-Length", "")
        if not length.isdecimal():
            return 0
        return int(length) if len(length) <= MAX_DIGITS else sys.maxsize

    def check_framing(self, limits: BodyLimits) -> None:
        """Check how the end of the request is marked.

        :raises BadRequest: chunks in HTTP/1.0, which a proxy in front may not understand (RFC 9112, section 6.1).
        """
        self._body_limits = limits
        if self.request.version == "HTTP/1.0" and "Transfer-Encoding" in self.request.headers:
            raise BadRequest("HTTP/1.0 has no chunked encoding: send the body's length in Content-Length.")

    def limit_body(self, max_bytes: int) -> None:
        """Let the body have ``max_bytes`` at most, and never more than ``--max-body-bytes``.

        :raises ContentTooLarge: it is announced to be larger.
        """
        self._max_bytes = min(max_bytes, self._body_limits.max_bytes)
        if self._announced > self._max_bytes:
            raise self._too_large()

    def keep_body(self, charge: Charge) -> None:
        """Keep the body for :meth:`json_body`, and charge its bytes as they arrive."""
        self._body = BytesIO()
        self._charge = charge

    def reject(self, error: ChatterdError | HTTPError) -> None:
        """Raise ``error`` in place of the HTTP method, once the body has been read and dropped.

        Tornado closes the connection after a response that is sent before the body was read, even if there is none.

        :raises ChatterdError, HTTPError: ``error`` at once, if the client waits for permission to send the body, or
            announces one that is larger than what would be dropped.
        """
        if self.awaits_permission or self._announced > DROP_LIMIT:
            raise error
        self._drop_body(error)

    def _drop_body(self, error: ChatterdError | HTTPError) -> None:
        self._rejection = self._rejection or error
        self._release_body()

    def data_received(self, chunk: bytes) -> None:
        """Keep or drop a part of the body (called by Tornado)."""
        self._received += len(chunk)
        if self._bytes_read - self._read_before > self._received + self._received // 16 + MAX_FRAMING:
            self._respond_early(BadRequest("The body's chunks are too small: send chunks of 1 kB or more."))
        elif self._rejection is not None:
            self._dropped += len(chunk)
            if self._dropped > DROP_LIMIT:
                self._respond_early(self._rejection)
        elif self._received > self._max_bytes:
            self._drop_body(self._too_large())
        elif self._body is not None and self._charge is not None:
            self._keep(chunk, self._body, self._charge)

    def _keep(self, chunk: bytes, body: BytesIO, charge: Charge) -> None:
        if charge.grow(len(chunk)):
            body.write(chunk)
        else:
            self._drop_body(
                ServiceUnavailable("The server is receiving too many large requests. Try again in a moment.")
            )

    def _release_body(self) -> None:
        self._body = None
        if self._charge is not None:
            self._charge.release()

    def check_media_type(self) -> None:
        """Check that the body is declared as JSON without a content coding.

        :raises UnsupportedMediaType: it is not. The response names what is accepted (RFC 9110, section 15.5.16).
        """
        headers = self.request.headers
        codings = [coding.strip().lower() for coding in headers.get("Content-Encoding", "").split(",")]
        if coding := ", ".join(coding for coding in codings if coding not in ("", "identity")):
            raise UnsupportedMediaType(
                f"The body has the content encoding {coding[:MAX_CODING_LENGTH]}. Send it uncompressed.",
                {"Accept-Encoding": "identity"},
            )
        if headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMediaType(
                "Send the body as JSON, with the header Content-Type: application/json.", {"Accept": "application/json"}
            )

    @property
    def _bytes_read(self) -> int:
        stream = cast(HTTP1Connection, self.request.connection).stream
        return stream.bytes_read if isinstance(stream, CountingStream | CountingSSLStream) else 0

    def start_body_timer(self) -> None:
        """Start the timeout of the body, which Tornado reads once ``prepare`` has returned."""
        if not self.has_body:
            return
        loop = asyncio.get_running_loop()
        self._read_before = self._read_before or self._bytes_read
        self._seen = self._received
        self._body_timer = loop.call_later(self._body_limits.timeout, self._check_progress)

    def _check_progress(self) -> None:
        timeout = self._body_limits.timeout
        arrived = self._received - self._seen
        if not arrived:
            self._respond_early(RequestTimeout(f"Nothing of the request's body arrived for {timeout:g} seconds."))
        elif arrived < MIN_BODY_RATE * timeout:
            self._respond_early(
                RequestTimeout(f"The request's body arrives too slowly: less than {MIN_BODY_RATE} bytes a second.")
            )
        elif self._rejection is not None and self._dropped_intervals == DROP_INTERVALS - 1:
            self._respond_early(self._rejection)
        else:
            self._dropped_intervals += self._rejection is not None
            self.start_body_timer()

    def stop_body_timer(self) -> None:
        """Stop the timeout of the body, which has arrived completely or does not matter any more."""
        if self._body_timer:
            self._body_timer.cancel()
            self._body_timer = None

    def _respond_early(self, error: ChatterdError | HTTPError) -> None:
        """Respond before the body is complete; Tornado then closes the connection."""
        self._rejection = error  # should the rest of the body arrive before that
        self.stop_body_timer()
        self._release_body()
        status = error.status if isinstance(error, ChatterdError) else error.status_code
        self.send_error(status, exc_info=(type(error), error, error.__traceback__))

    def on_connection_close(self) -> None:
        """Release the body of a request whose client has disconnected (called by Tornado).

        The handler itself stays in memory until Python's cyclic garbage collector runs, which ignores sizes. A body
        that the HTTP method has taken is charged until the method ends.
        """
        self.stop_body_timer()
        if self._body is not None:
            self._release_body()
        super().on_connection_close()

    def on_finish(self) -> None:
        """Release a body whose charge the handler has not handed over (called by Tornado)."""
        self.stop_body_timer()
        self._release_body()
        super().on_finish()

    def json_body(self) -> bytes:
        """Return the request's body, which is declared as JSON.

        It is charged to its sender until the request ends, or :meth:`take_charge` is called.

        :raises UnsupportedMediaType: the content type is another.
        """
        body, self._body = self._body, None
        if body is None:  # else it was checked before the body arrived
            self.check_media_type()
            return b""
        return body.getvalue()

    def take_charge(self) -> Charge:
        """Hand over the charge of the request's body. The caller releases it when the body is not in memory any more:
        a reply may be shown for half an hour."""
        charge, self._charge = self._charge, None
        return charge or SenderShares(0).charge("")

    def _too_large(self) -> ContentTooLarge:
        return ContentTooLarge(f"The body is larger than {self._max_bytes} bytes.")


def _unless_rejected(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def checked(self: RequestBodyMixin, *args: Any, **kwargs: Any) -> Any:
        self._body_complete = True
        self.stop_body_timer()
        if self._rejection is not None:
            rejection, self._rejection = self._rejection, None
            try:
                raise rejection
            finally:
                del rejection  # its traceback refers to this frame: a reference cycle
        return method(self, *args, **kwargs)

    return checked
