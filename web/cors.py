"""Cross-origin requests: what pages of other origins may send and read (WHATWG Fetch, "CORS protocol")."""

from collections.abc import Iterable

from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from auth.origins import AllowedOrigins
from errors import Forbidden

EXPOSED_HEADERS = "Content-Location, Location, Preference-Applied, Retry-After, WWW-Authenticate, X-Request-ID"
"""Response headers that a page may read besides the CORS-safelisted ones."""

ALLOWED_HEADERS = (
    "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, Pragma, Prefer, User-Agent, "
    "X-Request-ID, X-Requested-With"
)
"""Request headers that a page may send: those of the API, and those that libraries for event streams set by script."""

PREFLIGHT_MAX_AGE = "600"
"""Seconds for which a browser may cache the response to a preflight request."""

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing (RFC 9110, section 9.2.1)."""


def check_origin(request: HTTPServerRequest, origins: AllowedOrigins) -> None:
    """Reject a request that a page of another site makes a browser send to change something.

    :raises Forbidden: it is from another site that ``--cors-origins`` does not name.
    """
    headers = request.headers
    origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
    if (origin is None and site is None) or request.method in SAFE_METHODS:
        return
    if not origins.allow(origin, site, headers.get("Host", ""), request.protocol == "https"):
        raise Forbidden(
            "Pages of other sites may not send this request. An operator can allow an origin with --cors-origins."
        )


def set_headers(handler: RequestHandler, origins: AllowedOrigins) -> None:
    """Let a page of an allowed origin read the response."""
    handler.set_header("Vary", "Origin")
    if (origin := handler.request.headers.get("Origin", "")) in origins:
        handler.set_header("Access-Control-Allow-Origin", origin)
        handler.set_header("Access-Control-Expose-Headers", EXPOSED_HEADERS)


def is_preflight(request: HTTPServerRequest, origins: AllowedOrigins) -> bool:
    """Return whether this is a preflight request of an allowed origin (section "CORS-preflight request")."""
    return (
        request.method == "OPTIONS"
        and "Access-Control-Request-Method" in request.headers
        and request.headers.get("Origin") in origins
    )


def answer_preflight(handler: RequestHandler, methods: Iterable[str]) -> None:
    """Allow the methods, and end the request."""
    handler.set_header("Access-Control-Allow-Methods", ", ".join(methods))
    handler.set_header("Access-Control-Allow-Headers", ALLOWED_HEADERS)
    handler.set_header("Access-Control-Max-Age", PREFLIGHT_MAX_AGE)
    handler.set_status(204)
    handler.finish()
