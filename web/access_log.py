"""What an operator sees of each request: its id, one line in the log and counts in the metrics."""

import logging
import random
import re
from typing import Protocol

from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from auth.principal import Principal
from relay.metrics import Metrics

log = logging.getLogger("chatterd.http")

REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
"""Accepted values of a client's or balancer's ``X-Request-ID``."""


class LoggedHandler(Protocol):
    """What the access log needs of a handler; implemented by :class:`web.base.BaseHandler`.

    :ivar log_fields: further fields of the request's line in the log.
    """

    request: HTTPServerRequest
    principal: Principal
    log_fields: dict[str, object]

    @property
    def request_id(self) -> str:
        """The request's id."""

    def get_status(self) -> int:
        """Return the response's status code."""


def request_id(request: HTTPServerRequest) -> str:
    """Return the request's ``X-Request-ID``, or a new one if it has none or an unusual one."""
    given = request.headers.get("X-Request-ID", "")
    return given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"


def log_request(handler: LoggedHandler) -> None:
    """Log a request in one line at the end of its response, without its query and body.

    The line of a stream is written when the stream has ended; its duration is that of the stream.
    """
    request = handler.request
    fields = {
        "request": handler.request_id,
        "method": request.method,
        "path": request.path,
        "status": handler.get_status(),
        "duration_ms": round(1000 * request.request_time(), 1),
        "tenant": handler.principal.tenant,
        "address": request.remote_ip,
        **handler.log_fields,
    }
    log.info("request", extra={"fields": fields})


def count_request(metrics: Metrics, request: HTTPServerRequest, route: str, status: int, streams: bool) -> None:
    """Count a completed request, and unless its response is a stream, its duration.

    :param route: the path as ``static/openapi.json`` has it.
    """
    # A client could make up any number of methods.
    method = request.method if request.method in RequestHandler.SUPPORTED_METHODS else "other"
    metrics.requests[str(method), route, status] += 1
    if not streams:
        metrics.request_duration[route].observe(request.request_time())
