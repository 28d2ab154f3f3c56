"""What every handler shares: bodies in, errors to JSON out, the request's id, and who is asking."""

import http.client
import logging
import random
import re
from collections.abc import Awaitable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NoReturn, cast

import msgspec
from tornado.http1connection import HTTP1Connection
from tornado.web import HTTPError, RequestHandler, stream_request_body

from access.asker import NOBODY, Asker
from access.identity import Identity
from access.limits import RequestLimits
from access.needs import Need
from access.origins import Origins
from access.proxies import Proxies
from db.pool import Database
from errors import BadRequest, ChatterdError, NotFound, TooLarge, Unavailable, UnsupportedMediaType
from handlers import doorkeeper
from handlers.bodies import Bodies
from handlers.connection import DROP_LIMIT
from handlers.outbox import Outbox
from handlers.turns import Turns
from relay.ollama import Ollama
from relay.replies import Replies
from relay.status import Status
from settings import Settings

log = logging.getLogger("chatterd.http")

REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
"""Which ``X-Request-ID`` is taken over from a client or balancer."""

CONTENT_LENGTH = re.compile(r"[0-9]{1,99}")


@dataclass(frozen=True, slots=True)
class Services:
    """What the handlers call."""

    settings: Settings
    database: Database
    ollama: Ollama
    replies: Replies
    status: Status
    identity: Identity | None
    origins: Origins
    outbox: Outbox = field(default_factory=Outbox)
    turns: Turns = field(default_factory=Turns)
    limits: RequestLimits = field(init=False)
    proxies: Proxies = field(init=False)
    bodies: Bodies = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", RequestLimits(self.settings))
        object.__setattr__(self, "proxies", Proxies(self.settings.trusted_proxies))
        object.__setattr__(self, "bodies", Bodies(self.settings.max_bodies_bytes))


@stream_request_body
class BaseHandler(RequestHandler):
    """A handler of the API. Its body is read up to ``--max-body-bytes``; errors raised in it become JSON.

    :cvar route: its path as ``static/openapi.json`` writes it, under which its requests are counted.
    :cvar counted: whether its requests count towards those that one tenant or one address may send in a minute.
    :cvar needs: who may call it. Each route's handler says it; the server does not start otherwise.
    """

    route: ClassVar[str] = "unknown"
    counted: ClassVar[bool] = True
    needs: ClassVar[Need]

    def initialize(self) -> None:
        """Find the services (called by Tornado)."""
        self.services: Services = self.settings["services"]
        self.asker = NOBODY
        self._streams = False
        self._refused = False
        self._body = bytearray()
        self.log_fields: dict[str, object] = {}
        if self.services.proxies:
            self._look_behind_proxies(self.services.proxies)

    def _look_behind_proxies(self, proxies: Proxies) -> None:
        request, headers = self.request, self.request.headers
        peer = str(request.remote_ip)
        request.protocol = proxies.scheme(peer, request.protocol, headers.get_list("X-Forwarded-Proto"))
        request.remote_ip = proxies.client(peer, headers.get_list("X-Forwarded-For"))

    @property
    def tenant(self) -> str:
        """Whose conversations and replies exist for this request."""
        return self.asker.tenant

    @cached_property
    def request_id(self) -> str:
        """The client's ``X-Request-ID``, or one made here."""
        given = self.request.headers.get("X-Request-ID", "")
        return given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"

    def set_default_headers(self) -> None:
        """Name the request in every answer, errors included, and let no cache keep it."""
        self.set_header("X-Request-ID", self.request_id)
        self.set_header("Server", "chatterd")
        self.set_header("Cache-Control", "no-store")
        if origins := self.settings["services"].origins:
            self.set_header("Vary", "Origin")
            if (origin := self.request.headers.get("Origin", "")) in origins:
                self.set_header("Access-Control-Allow-Origin", origin)
                for name, value in doorkeeper.CORS_HEADERS.items():
                    self.set_header(name, value)

    def prepare(self) -> Awaitable[None] | None:
        """Let the request in: it may not be one too many, nor its body too large, and its sender must be known, and
        allowed what it asks for."""
        if self.counted:
            self.services.limits.admit_address(str(self.request.remote_ip))
        self._check_length()
        if self._is_preflight():
            self._answer_preflight()
            return None
        try:
            doorkeeper.check_origin(self.request, self.services.origins)
            asker = doorkeeper.who_asks(self.request, self.needs, self.services.identity)
            if not isinstance(asker, Asker):
                return self._let_in_later(asker)
            self._let_in(asker)
        except ChatterdError as error:
            self._refuse(error)
        return None

    async def _let_in_later(self, asking: Awaitable[Asker]) -> None:
        try:
            self._let_in(await asking)
        except ChatterdError as error:
            self._refuse(error)

    def _let_in(self, asker: Asker) -> None:
        self.asker = asker
        if self.counted and asker is not NOBODY:
            self.services.limits.admit_tenant(asker)
        doorkeeper.check_need(self.needs, asker)

    def _refuse(self, error: ChatterdError) -> None:
        """Raise ``error`` in the place of the request's method, when its body has been read and dropped; at once if
        its client waits for leave to send one."""
        if self._waits_for_leave:
            raise error
        self._refuse_when_read(error)

    def _refuse_when_read(self, error: ChatterdError) -> None:
        def refuse(*_args: object) -> NoReturn:
            raise error

        self._refused = True
        setattr(self, str(self.request.method).lower(), refuse)

    @property
    def _waits_for_leave(self) -> bool:
        return self.request.headers.get("Expect", "").lower() == "100-continue"

    def _is_preflight(self) -> bool:
        """Whether a browser asks if a page of an allowed origin may use this (WHATWG Fetch, "CORS-preflight")."""
        headers = self.request.headers
        return (
            self.request.method == "OPTIONS"
            and "Access-Control-Request-Method" in headers
            and headers.get("Origin") in self.services.origins
        )

    def _answer_preflight(self) -> None:
        self.set_header("Access-Control-Allow-Methods", ", ".join(self._allowed_methods()))
        for name, value in doorkeeper.PREFLIGHT_HEADERS.items():
            self.set_header(name, value)
        self.set_status(204)
        self.finish()

    def _check_length(self) -> None:
        """Refuse a body that says it is too large before it is sent, if its client waits for that or it is far too
        large (RFC 9110, section 10.1.1).

        Any other is read and dropped first: a client that is still sending would see no answer, only a cut connection.
        """
        length = self.request.headers.get("Content-Length", "")
        limit = self.services.settings.max_body_bytes + (0 if self._waits_for_leave else DROP_LIMIT)
        if CONTENT_LENGTH.fullmatch(length) and int(length) > limit:
            raise self._too_large()

    def data_received(self, chunk: bytes) -> None:
        """Keep a part of the body; beyond the limit by one byte only, so that :meth:`json_body` sees the excess."""
        if self._refused:
            return
        kept = chunk[: self.services.settings.max_body_bytes + 1 - len(self._body)]
        if self.services.bodies.take(len(kept)):
            self._body += kept
        else:
            self._drop_body()
            self._refuse_when_read(
                Unavailable("The server is reading as many large requests as it can. Try again in a moment.")
            )

    def _drop_body(self) -> None:
        self.services.bodies.give_back(len(self._body))
        self._body = bytearray()

    def on_connection_close(self) -> None:
        """Keep nothing of a body that will not be whole (called by Tornado): what is left of the request waits for
        Python's cyclic garbage collector, which knows nothing of sizes."""
        if not self.request._body_future.done():
            self._refused = True
            self._drop_body()
        super().on_connection_close()

    def json_body(self) -> bytes:
        """The request's body, which claims to be JSON. It is kept no longer: a reply may be shown for half an hour.

        :raises UnsupportedMediaType: the content type is another.
        :raises TooLarge: it exceeds ``--max-body-bytes``.
        """
        media_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaType("Send the body as JSON, with the header Content-Type: application/json.")
        if len(self._body) > self.services.settings.max_body_bytes:
            raise self._too_large()
        body = bytes(self._body)
        self._drop_body()
        return body

    def query(self, name: str) -> str | None:
        """A value from the query, exactly as it was sent (Tornado's own reading drops control characters).

        :raises BadRequest: it is not UTF-8.
        """
        values = self.request.query_arguments.get(name)
        if not values:
            return None
        try:
            return values[-1].decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"{name} is not valid UTF-8.") from error

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self.services.settings.max_body_bytes} bytes.")

    def write_json(self, value: object, status: int = 200) -> None:
        """Answer with JSON and end the request."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(msgspec.json.encode(value))

    def start_stream(self, content_type: str) -> None:
        """Set what an answer needs that is read while it is written: nothing on the way may keep or collect it."""
        self._streams = True
        self.set_header("Content-Type", content_type)
        self.set_header("X-Accel-Buffering", "no")  # nginx
        connection = cast(HTTP1Connection, self.request.connection)
        # Nagle's algorithm (RFC 896) would hold each small event back until the last one is acknowledged: 40 ms.
        # Tornado turns it on again at the end of a request.
        connection.stream.set_nodelay(True)
        if self.request.version == "HTTP/1.0":
            # No chunk tells where such an answer ends, only the connection's end does, also for a client that asked to
            # keep it. Tornado would keep it (HTTP1Connection.write_headers).
            self.request.headers.pop("Connection", None)
            connection._disconnect_on_finish = True

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with ``{"error": "<one clear sentence>"}`` (called by Tornado)."""
        if not self.request._body_future.done():
            self.set_header("Connection", "close")  # as Tornado will, when it answers before it has read all
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, ChatterdError):
            for name, value in error.headers.items():
                self.set_header(name, value)
            self.write_json({"error": str(error)}, error.status)
            return
        if status_code == 405:
            self.set_header("Allow", ", ".join(self._allowed_methods()))
        self.write_json({"error": self._sentence(status_code)}, status_code)

    def _sentence(self, status_code: int) -> str:
        if status_code == 405:
            return f"{self.request.method} is not possible here; use {' or '.join(self._allowed_methods())}."
        if status_code >= 500:
            return f"Something went wrong in the server. Its log has it under {self.request_id}."
        return f"{http.client.responses.get(status_code, 'Error')}."

    def _allowed_methods(self) -> list[str]:
        missing = RequestHandler._unimplemented_method
        return [name for name in self.SUPPORTED_METHODS if getattr(type(self), name.lower()) is not missing]

    def on_finish(self) -> None:
        """Count the answered request (called by Tornado)."""
        self._drop_body()
        method = self.request.method if self.request.method in self.SUPPORTED_METHODS else "other"
        figures = self.services.status.figures
        figures.requests[method or "", self.route, self.get_status()] += 1
        if not self._streams:
            figures.request_duration[self.route].observe(self.request.request_time())

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log an error once: what the client was told in the request's line, what is ours with a stack trace (called
        by Tornado)."""
        if isinstance(value, ChatterdError):
            self.log_fields["error"] = str(value)
        elif not isinstance(value, HTTPError):
            fields = {"request": self.request_id, "method": self.request.method, "path": self.request.path}
            log.error("A request failed inside chatterd.", exc_info=(typ, value, tb), extra={"fields": fields})

    def break_off(self, why: str) -> None:
        """Close the connection without the end that would make the answer look whole.

        :param why: for the log.
        """
        self.log_fields["end"] = why
        log_request(self)
        self.detach().close()


def whole_number(name: str, text: str) -> int:
    """Read a whole number of 0 or more that fits a bigint.

    :raises BadRequest: it is not one; the sentence says ``name``.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
        raise BadRequest(f"{name} must be a whole number of 0 or more.")
    return int(text)


class UnknownPath(BaseHandler):
    """Any path that no route knows."""

    needs = Need.ANYONE

    def refuse(self) -> None:
        """Refuse it, whatever the method, when its body has been read."""
        raise NotFound("There is nothing at this address.")

    get = head = post = put = patch = delete = options = refuse


def log_request(handler: RequestHandler) -> None:
    """Log a request in one line at the end of its answer, without its query and body (Tornado's ``log_function``).

    A stream's line comes when it was shown to its end or its client has left; its duration is the view's.
    """
    if not isinstance(handler, BaseHandler):
        raise TypeError("every route has a handler of ours")
    request = handler.request
    fields = {
        "request": handler.request_id,
        "method": request.method,
        "path": request.path,
        "status": handler.get_status(),
        "duration_ms": round(1000 * request.request_time(), 1),
        "tenant": handler.tenant,
        "address": request.remote_ip,
        **handler.log_fields,
    }
    log.info("answered", extra={"fields": fields})
