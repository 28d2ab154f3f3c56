"""Cross-origin requests: preflight requests, which origins may send a request, and which may read its response."""

from collections.abc import Sequence
from typing import Any, cast

import httpx
import pytest

from auth.identity_provider import IdentityProvider
from auth.origins import AllowedOrigins, parse_origins
from auth.principal import Access
from errors import ServiceUnavailable, Unauthorized
from tests.client import Client
from tests.raw import head
from tests.web.serving import Response, Routes, run, serving
from web import cors
from web.base import BaseHandler

ALLOWED, OTHER = "https://app.example", "https://evil.example"
PREFLIGHT = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,prefer"]


class Handler(BaseHandler):
    access = Access.AUTHENTICATED
    body_limit = None

    def post(self) -> None:
        self.write_json("done")


class PublicHandler(Handler):
    access = Access.PUBLIC

    def get(self) -> None:
        self.write_json("done")


class Identity:
    """Knows no token."""

    def authenticate_now(self, token: str | None, cookie: str | None) -> None:
        return None

    async def authenticate(self, token: str) -> Any:
        raise Unauthorized("Sign in.")


class JSONHandler(PublicHandler):
    def post(self) -> None:
        self.write_json(len(self.json_body()))


class BrokenHandler(PublicHandler):
    def get(self) -> None:
        raise RuntimeError("broken")


class BusyHandler(PublicHandler):
    def get(self) -> None:
        raise ServiceUnavailable("Try again.")


ROUTES: Routes = [
    ("/", Handler),
    ("/public", PublicHandler),
    ("/json", JSONHandler),
    ("/broken", BrokenHandler),
    ("/busy", BusyHandler),
]

LIBRARIES_SEND = (
    "Last-Event-ID",  # fetch-event-source 2.0.1, eventsource-client 1.2.0, eventsource 4.1.1, sse.js 2.8.0
    "Cache-Control",  # Chromium's own EventSource, and scripts that repeat what it sends
    "Pragma",  # sent beside it for HTTP/1.0
    "X-Requested-With",  # polyfills on XMLHttpRequest
    "User-Agent",  # the AI SDK 7.0.173; Chromium leaves it out, Firefox and Safari ask for it
    "Content-Type",
    "Idempotency-Key",
    "Prefer",
)
"""Request headers that SSE libraries or their users set by script, and that are not CORS-safelisted."""


def respond(request: bytes, **settings: Any) -> Response:
    """Send a request to a server that requires authentication and allows one origin; return the response."""
    responses: list[Response] = []

    async def test() -> None:
        options: dict[str, Any] = {"identity": Identity(), "origins": ALLOWED} | settings
        async with serving(ROUTES, **options) as server, server.connect() as connection:
            await connection.send(request)
            responses.append(await connection.response())

    run(test)
    return responses[0]


def preflight(path: str, origin: str = ALLOWED, fields: Sequence[str] = PREFLIGHT) -> bytes:
    return head(path, f"Origin: {origin}", *fields, method="OPTIONS")


def cors_headers(response: Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control")}


def test_a_preflight_request_of_an_allowed_origin_is_204_without_authentication() -> None:
    response = respond(preflight("/"))
    assert (response.status, response.body) == (204, b"")
    assert cors_headers(response) == {
        "access-control-allow-origin": ALLOWED,
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": cors.ALLOWED_HEADERS,
        "access-control-expose-headers": cors.EXPOSED_HEADERS,
        "access-control-max-age": "600",
    }
    assert response.headers["vary"] == "Origin"


def test_a_preflight_request_names_the_methods_of_its_route() -> None:
    assert respond(preflight("/public")).headers["access-control-allow-methods"] == "GET, POST"


def test_a_preflight_request_of_an_unknown_path_is_204_so_that_a_page_can_read_the_404() -> None:
    assert respond(preflight("/nowhere")).status == 204
    response = respond(head("/nowhere", f"Origin: {ALLOWED}"))
    assert (response.status, response.headers["access-control-allow-origin"]) == (404, ALLOWED)


@pytest.mark.parametrize(
    ("origin", "fields"),
    [(OTHER, PREFLIGHT), ("null", PREFLIGHT), ("", PREFLIGHT), (ALLOWED + ".evil.example", PREFLIGHT), (ALLOWED, [])],
)
def test_any_other_options_request_is_401_or_405(origin: str, fields: list[str]) -> None:
    for path, status in (("/", 401), ("/public", 405), ("/nowhere", 404)):
        response = respond(preflight(path, origin, fields))
        assert response.status == status
        assert "access-control-allow-methods" not in response.headers
        assert response.headers.get("access-control-allow-origin") == (ALLOWED if origin == ALLOWED else None)


def test_preflight_requests_count_towards_the_rate_limit_of_an_address() -> None:
    async def test() -> None:
        async with (
            serving(ROUTES, origins=ALLOWED, address_requests_per_minute=2) as server,
            server.connect() as connection,
        ):
            for status in (204, 204, 429):
                await connection.send(preflight("/"))
                assert (await connection.response()).status == status

    run(test)


def test_a_preflight_request_with_a_body_leaves_the_connection_usable() -> None:
    async def test() -> None:
        async with serving(ROUTES, origins=ALLOWED) as server, server.connect() as connection:
            for _ in range(2):
                await connection.send(preflight("/", ALLOWED, [*PREFLIGHT, "Content-Length: 5"]) + b"12345")
                assert (await connection.response()).status == 204

    run(test)


REJECTED = {
    401: head("/"),
    404: head("/nowhere"),
    405: head("/public", method="PUT"),
    408: head("/public", "Content-Length: 5"),
    413: head("/public", "Content-Length: 1001") + b"x" * 1_001,
    414: head("/public?" + "x" * 9_000, method="GET"),
    415: head("/json", "Content-Encoding: gzip", "Content-Length: 2") + b"{}",
    429: head("/public", method="GET"),
    431: head("/public", "Cookie: " + "x" * 40_000, method="GET"),
    500: head("/broken", method="GET"),
    503: head("/busy", method="GET"),
}
"""A request that is rejected with each status."""


@pytest.mark.parametrize("status", REJECTED)
@pytest.mark.expects_log("A request failed")
def test_a_page_of_an_allowed_origin_can_read_every_error(status: int) -> None:
    limits: dict[str, Any] = {"address_requests_per_minute": 1} if status == 429 else {}
    responses: list[Response] = []

    async def test() -> None:
        async with (
            serving(
                ROUTES,
                identity=cast(IdentityProvider, Identity()),
                origins=ALLOWED,
                max_body_bytes=1_000,
                body_timeout=0.2,
                **limits,
            ) as server,
            server.connect() as connection,
        ):
            if limits:
                await connection.send(head("/public", method="GET"))
                await connection.response()
            await connection.send(REJECTED[status].replace(b"\r\n", f"\r\nOrigin: {ALLOWED}\r\n".encode(), 1))
            responses.append(await connection.response())

    run(test)
    [response] = responses
    assert (response.status, response.headers["access-control-allow-origin"]) == (status, ALLOWED)
    assert response.headers["access-control-expose-headers"] == cors.EXPOSED_HEADERS
    assert "access-control-allow-credentials" not in response.headers


def test_a_preflight_request_of_a_url_that_is_too_long_is_204_so_that_a_page_can_read_the_414() -> None:
    assert respond(preflight("/?" + "x" * 9_000)).status == 204


@pytest.mark.parametrize("name", LIBRARIES_SEND)
def test_a_page_may_send_what_sse_libraries_set(name: str) -> None:
    allowed = respond(preflight("/")).headers["access-control-allow-headers"].lower().split(", ")
    assert name.lower() in allowed


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_an_unsafe_request_of_another_origin_is_403_before_authentication(method: str) -> None:
    response = respond(head("/", f"Origin: {OTHER}", method=method))
    assert response.status == 403
    assert cors_headers(response) == {}


@pytest.mark.parametrize("origins", [AllowedOrigins(), parse_origins(ALLOWED)])
def test_only_a_preflight_request_of_an_allowed_origin_is_one(origins: AllowedOrigins) -> None:
    def is_preflight(method: str, headers: dict[str, str]) -> bool:
        request: Any = httpx.Request(method, "http://x/", headers=headers)  # has method and headers
        return cors.is_preflight(request, origins)

    asking = {"Access-Control-Request-Method": "POST"}
    assert is_preflight("OPTIONS", asking | {"Origin": ALLOWED}) is bool(origins)
    assert not is_preflight("GET", asking | {"Origin": ALLOWED})
    assert not is_preflight("OPTIONS", {"Origin": ALLOWED})
    assert not is_preflight("OPTIONS", asking)
    assert not is_preflight("OPTIONS", asking | {"Origin": OTHER})


def test_without_allowed_origins_there_are_no_cors_headers(client: Client) -> None:
    response = client.http.options(
        "/llmchat", headers={"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    )
    assert response.status_code == 405
    read = client.http.get("/models", headers={"Origin": "https://app.example"})
    assert read.status_code == 200
    for name in [*response.headers, *read.headers]:
        assert not name.startswith("access-control") and name != "vary"
