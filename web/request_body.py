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
from typing import Any

from tornado.web import RequestHandler, stream_request_body

from errors import (
    BadRequest,
    ChatterdError,
    ContentTooLarge,
    RequestTimeout,
    ServiceUnavailable,
    UnsupportedMediaType,
)

DROP_LIMIT = 67_108_864
"""Bytes of a rejected request's body that are read and dropped; then the connection is closed."""

MAX_DIGITS = 15
"""Digits of a Content-Length; a longer number is larger than any limit, and slow to convert."""

MAX_CODING_LENGTH = 50
"""Characters of a content coding that an error repeats."""

METHODS_WITH_BODY = ("POST", "PUT", "PATCH")
"""Methods whose bodies are kept. That of another method has no meaning (RFC 9110, section 9.3) and is dropped."""

MIN_BODY_RATE = 1_024
"""Bytes a second at which a body must arrive in each interval of the timeout: it is in memory until it is complete."""


class ByteBudget:
    """Limits the bytes of all request bodies in memory.

    :param limit: maximum number of reserved bytes.
    :ivar reserved: number of bytes reserved now.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.reserved = 0

    def reserve(self, size: int) -> bool:
        """Reserve ``size`` bytes; return False if they exceed the limit."""
        if self.reserved + size > self._limit:
            return False
        self.reserved += size
        return True

    def release(self, size: int) -> None:
        """Release reserved bytes."""
        self.reserved -= size


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The limits of one request's body.

    :param max_bytes: size at most.
    :param timeout: seconds without data after which the request is rejected.
    :param budget: bytes of all bodies.
    """

    max_bytes: int
    timeout: float
    budget: ByteBudget


@stream_request_body
class RequestBodyMixin(RequestHandler):
    """Receives the request's body up to ``--max-body-bytes``, within its timeout and the budget of all bodies.

    Subclasses call in ``prepare`` first :meth:`check_body`, then :meth:`reject` if the request must not be processed,
    and at its end :meth:`start_body_timer`.
    """

    _body_limits: BodyLimits
    _rejection: ChatterdError | None = None
    _body: bytearray | None = None
    _received = 0
    _seen = 0
    _body_complete = False
    _body_timer: asyncio.TimerHandle | None = None

    def __init_subclass__(cls) -> None:
        """Let every HTTP method of a subclass raise the rejection of its request first."""
        for name in map(str.lower, cls.SUPPORTED_METHODS):
            if method := cls.__dict__.get(name):
                setattr(cls, name, _unless_rejected(method))

    @property
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

    def check_body(self, limits: BodyLimits) -> None:
        """Check the request's framing and announced length.

        :raises BadRequest: chunks in HTTP/1.0, which a proxy in front may not understand (RFC 9112, section 6.1).
        :raises ContentTooLarge: the body is larger than what would be dropped.
        """
        self._body_limits = limits
        headers = self.request.headers
        if self.request.version == "HTTP/1.0" and "Transfer-Encoding" in headers:
            raise BadRequest("HTTP/1.0 has no chunked encoding: send the body's length in Content-Length.")
        if not self.has_body:
            return
        length = headers.get("Content-Length", "")
        if length.isdecimal():
            size = int(length) if len(length) <= MAX_DIGITS else sys.maxsize
            if size > limits.max_bytes + DROP_LIMIT:
                raise self._too_large()
            if size > limits.max_bytes:
                self.reject(self._too_large())

    def reject(self, error: ChatterdError) -> None:
        """Raise ``error`` in place of the HTTP method, once the body has been read and dropped.

        Tornado closes the connection after a response that is sent before the body was read, even if there is none.

        :raises ChatterdError: ``error`` at once, if the client waits for permission to send the body.
        """
        if self.awaits_permission:
            raise error
        self._drop_body(error)

    def _drop_body(self, error: ChatterdError) -> None:
        self._rejection = self._rejection or error
        self._release_body()

    def data_received(self, chunk: bytes) -> None:
        """Keep or drop a part of the body (called by Tornado)."""
        self._received += len(chunk)
        if self._rejection is None:
            self._keep(chunk)
        elif self._received > self._body_limits.max_bytes + DROP_LIMIT:
            self._respond_early(self._rejection)

    def _keep(self, chunk: bytes) -> None:
        if self._received > self._body_limits.max_bytes:
            self._drop_body(self._too_large())
        elif self.request.method not in METHODS_WITH_BODY:
            return
        elif self._body_limits.budget.reserve(len(chunk)):
            self._body = self._body or bytearray()
            self._body += chunk
        else:
            self._drop_body(
                ServiceUnavailable("The server is receiving too many large requests. Try again in a moment.")
            )

    def _release_body(self) -> None:
        if self._body is not None:
            self._body_limits.budget.release(len(self._body))
            self._body = None

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

    def start_body_timer(self) -> None:
        """Start the timeout of the body, which Tornado reads once ``prepare`` has returned."""
        if not self.has_body:
            return
        loop = asyncio.get_running_loop()
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
        else:
            self.start_body_timer()

    def stop_body_timer(self) -> None:
        """Stop the timeout of the body, which has arrived completely or does not matter any more."""
        if self._body_timer:
            self._body_timer.cancel()
            self._body_timer = None

    def _respond_early(self, error: ChatterdError) -> None:
        """Respond before the body is complete; Tornado then closes the connection."""
        self._rejection = error  # should the rest of the body arrive before that
        self.stop_body_timer()
        self._release_body()
        self.send_error(error.status, exc_info=(type(error), error, error.__traceback__))

    def on_connection_close(self) -> None:
        """Release the body of a request whose client has disconnected (called by Tornado).

        The handler itself stays in memory until Python's cyclic garbage collector runs, which ignores sizes.
        """
        self.stop_body_timer()
        self._release_body()
        super().on_connection_close()

    def on_finish(self) -> None:
        """Release a body that the handler did not use (called by Tornado)."""
        self.stop_body_timer()
        self._release_body()
        super().on_finish()

    def json_body(self) -> bytes:
        """Return the request's body, which is declared as JSON, and release it: a reply may be shown for half an hour.

        :raises UnsupportedMediaType: the content type is another.
        """
        self.check_media_type()
        body = bytes(self._body or b"")
        self._release_body()
        return body

    def _too_large(self) -> ContentTooLarge:
        return ContentTooLarge(f"The body is larger than {self._body_limits.max_bytes} bytes.")


def _unless_rejected(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def checked(self: RequestBodyMixin, *args: Any, **kwargs: Any) -> Any:
        self._body_complete = True
        self.stop_body_timer()
        if self._rejection is not None:
            raise self._rejection
        return method(self, *args, **kwargs)

    return checked
