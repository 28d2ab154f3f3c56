"""What browsers are told that pages of other origins may send and read (WHATWG Fetch, "CORS protocol")."""

from collections.abc import Iterable

from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from auth.origins import AllowedOrigins

READABLE = "Content-Location, Location, Preference-Applied, Retry-After, WWW-Authenticate, X-Request-ID"
"""Headers that a page may read beside those that it always may."""

SENDABLE = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, X-Request-ID"
"""Headers that it may send."""

MAX_AGE = "600"
"""Seconds for which a browser need not ask again."""


def set_headers(handler: RequestHandler, origins: AllowedOrigins) -> None:
    """Let a page of an allowed origin read the answer."""
    handler.set_header("Vary", "Origin")
    if (origin := handler.request.headers.get("Origin", "")) in origins:
        handler.set_header("Access-Control-Allow-Origin", origin)
        handler.set_header("Access-Control-Expose-Headers", READABLE)


def is_preflight(request: HTTPServerRequest, origins: AllowedOrigins) -> bool:
    """Whether a browser asks if a page of an allowed origin may use this (section "CORS-preflight request")."""
    return (
        request.method == "OPTIONS"
        and "Access-Control-Request-Method" in request.headers
        and request.headers.get("Origin") in origins
    )


def answer_preflight(handler: RequestHandler, methods: Iterable[str]) -> None:
    """Say that it may, with these methods, and end the request."""
    handler.set_header("Access-Control-Allow-Methods", ", ".join(methods))
    handler.set_header("Access-Control-Allow-Headers", SENDABLE)
    handler.set_header("Access-Control-Max-Age", MAX_AGE)
    handler.set_status(204)
    handler.finish()
