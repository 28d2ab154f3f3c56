"""What an operator sees of each request when its answer has ended: a line in the log and a count in the metrics."""

import logging
import random
import re
from functools import cached_property
from typing import Any, ClassVar

from tornado.web import HTTPError, RequestHandler

from auth.principal import Principal
from errors import ChatterdError
from handlers.services import Services
from relay.metrics import Metrics

log = logging.getLogger("chatterd.http")

REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
"""Which ``X-Request-ID`` is taken over from a client or balancer."""

REFUSED = "refused"
"""The route under which those are counted that no handler answered."""


class ObservedHandler(RequestHandler):
    """A handler whose requests are logged and counted.

    :cvar route: its path as ``static/openapi.json`` writes it, under which its requests are counted.
    :ivar asker: who sends the request.
    :ivar streams: whether its answer is read while it is written, and takes as long as it has something to show.
    :ivar log_fields: what else the request's line in the log says.
    """

    route: ClassVar[str] = "unknown"
    services: Services
    asker: Principal
    log_fields: dict[str, object]
    streams = False

    @cached_property
    def request_id(self) -> str:
        """The client's ``X-Request-ID``, or one made here."""
        given = self.request.headers.get("X-Request-ID", "")
        return given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"

    def on_finish(self) -> None:
        """Count the answered request (called by Tornado)."""
        metrics = self.services.metrics
        metrics.requests[_method(self.request.method or ""), self.route, self.get_status()] += 1
        if not self.streams:
            metrics.request_duration[self.route].observe(self.request.request_time())

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log an error once: what the client was told in the request's line, what is ours with a stack trace (called
        by Tornado)."""
        if isinstance(value, ChatterdError):
            self.log_fields["error"] = str(value)
        elif not isinstance(value, HTTPError):
            fields = {"request": self.request_id, "method": self.request.method, "path": self.request.path}
            log.error("A request failed inside chatterd.", exc_info=(typ, value, tb), extra={"fields": fields})


def log_request(handler: RequestHandler) -> None:
    """Log a request in one line at the end of its answer, without its query and body (Tornado's ``log_function``).

    A stream's line comes when it was shown to its end or its client has left; its duration is the view's.
    """
    if not isinstance(handler, ObservedHandler):
        raise TypeError("every route has a handler of ours")
    request = handler.request
    fields = {
        "request": handler.request_id,
        "method": request.method,
        "path": request.path,
        "status": handler.get_status(),
        "duration_ms": round(1000 * request.request_time(), 1),
        "tenant": handler.asker.tenant,
        "address": request.remote_ip,
        **handler.log_fields,
    }
    log.info("answered", extra={"fields": fields})


def note_refused(metrics: Metrics, head: bytes, id: str, address: str, error: ChatterdError) -> None:
    """Log and count what is refused without a handler: what is no whole request, or over a limit before it is one.

    :param head: what came of the request's head.
    :param id: the request's, as its client was told.
    """
    fields = {"request": id, "status": error.status, "address": address, "error": str(error)}
    log.info("refused", extra={"fields": fields})
    method = head.lstrip(b"\r\n").partition(b" ")[0].decode("latin-1")
    metrics.requests[_method(method), REFUSED, error.status] += 1


def _method(named: str) -> str:
    """What a method is counted under: whoever sends requests could make up any number."""
    return named if named in RequestHandler.SUPPORTED_METHODS else "other"
