"""Rejected requests: the client can read the response, and the connection stays usable where that is possible."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
import ujson

from auth.principal import Access, Principal
from errors import Unauthorized
from tests.raw import head
from tests.web.serving import Connection, Response, Routes, run, serving
from web import base
from web.base import BaseHandler
from web.connections.tls import KeyPair

MEGABYTE = 1_000_000


class Handler(BaseHandler):
    access = Access.AUTHENTICATED
    body_limit = None
    rate_limited = False

    def get(self) -> None:
        self.write_json("done")

    def post(self) -> None:
        self.write_json(len(self.json_body()))


class OperatorHandler(Handler):
    access = Access.OPERATOR


class RateLimitedHandler(Handler):
    rate_limited = True


class LargeHandler(Handler):
    def get(self) -> None:
        self.finish(b"x" * 8 * MEGABYTE)


ROUTES: Routes = [
    ("/", Handler),
    ("/operator", OperatorHandler),
    ("/limited", RateLimitedHandler),
    ("/large", LargeHandler),
]
TOKEN = "Authorization: Bearer alice"


class Identity:
    """Knows one token."""

    def authenticate_now(self, token: str | None, cookie: str | None) -> Principal | None:
        return Principal("alice") if token == "alice" else None

    async def authenticate(self, token: str) -> Principal:
        raise Unauthorized("Sign in.")


SETTINGS: dict[str, Any] = {"identity": Identity(), "origins": "https://app.example"}


def request(body: str, path: str, *fields: str, method: str = "POST") -> bytes:
    """A request without body, with a length, or in chunks."""
    if body == "none":
        return head(path, *fields, method=method)
    if body == "length":
        return head(path, "Content-Length: 200000", *fields, method=method) + b" " * 200_000
    return head(path, "Transfer-Encoding: chunked", *fields, method=method) + b"2710\r\n%b\r\n0\r\n\r\n" % (
        b" " * 10_000
    )


def error(response: Response) -> str:
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    [(name, sentence)] = ujson.loads(response.body).items()
    assert name == "error"
    return str(sentence)


# Keep-alive.


@pytest.mark.parametrize("body", ["none", "length", "chunked"])
@pytest.mark.parametrize(
    ("status", "path", "fields"),
    [
        (401, "/", []),
        (401, "/operator", ["Authorization: Bearer wrong"]),
        (403, "/operator", [TOKEN]),
        (403, "/", [TOKEN, "Origin: https://evil.example"]),
        (404, "/nowhere", []),
        (414, "/?" + "x" * 9_000, [TOKEN]),
        (429, "/limited", [TOKEN]),
    ],
)
def test_a_rejected_request_leaves_the_connection_usable(status: int, path: str, fields: list[str], body: str) -> None:
    async def test() -> None:
        limits: dict[str, Any] = {"address_requests_per_minute": 1} if status == 429 else {}
        async with serving(ROUTES, **SETTINGS, **limits) as server, server.connect() as connection:
            if status == 429:
                await connection.send(head(path, *fields, method="GET"))
                assert (await connection.response()).status == 200
            for _ in range(2):
                await connection.send(request(body, path, *fields))
                response = await connection.response()
                assert (response.status, response.headers.get("connection")) == (status, None)
                assert error(response)
            await connection.send(head("/", TOKEN, method="GET"))
            assert (await connection.response()).body == b'"done"'

    run(test)


@pytest.mark.parametrize("body", ["none", "length", "chunked"])
def test_requests_pipelined_behind_a_rejected_one_are_processed(body: str) -> None:
    async def test() -> None:
        async with serving(ROUTES, **SETTINGS) as server, server.connect() as connection:
            ahead = [
                request(body, "/"),
                head("/", TOKEN, "X-Request-ID: 2", method="GET"),
                request(body, "/operator", TOKEN),
                head("/", TOKEN, "X-Request-ID: 4", method="GET"),
            ]
            await connection.send(b"".join(ahead))
            responses = [await connection.response() for _ in ahead]
            assert [response.status for response in responses] == [401, 200, 403, 200]
            assert [responses[place].headers["x-request-id"] for place in (1, 3)] == ["2", "4"]

    run(test)


def test_a_request_rejected_before_100_continue_gets_one_response_and_the_connection_is_closed() -> None:
    async def test() -> None:
        async with serving(ROUTES, **SETTINGS) as server, server.connect() as connection:
            await connection.send(head("/", "Content-Length: 200000", "Expect: 100-continue"))
            response = await connection.response()
            assert (response.status, response.headers["connection"]) == (401, "close")
            assert error(response)
            assert await connection.rest() == b""

    run(test)


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_a_method_that_is_not_implemented_is_401_without_and_405_with_authentication(method: str) -> None:
    async def test() -> None:
        async with serving(ROUTES, **SETTINGS) as server, server.connect() as connection:
            for fields, status, allowed in (([], 401, None), ([TOKEN], 405, {"GET", "POST"})):
                await connection.send(head("/", *fields, method=method))
                response = await (without_body(connection) if method == "HEAD" else connection.response())
                assert response.status == status
                assert (
                    "allow" not in response.headers
                    if allowed is None
                    else ({*response.headers["allow"].split(", ")} - {"OPTIONS"} == allowed)
                )
            await connection.send(head("/", TOKEN, method="GET"))
            assert (await connection.response()).status == 200

    run(test)


async def without_body(connection: Connection) -> Response:
    lines = (await connection.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    return Response(int(lines[0].split()[1]), headers, b"")


# Large bodies, and clients that read late.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[KeyPair, ssl.SSLContext]:
    """A certificate of 127.0.0.1, and a client's context that trusts it."""
    folder: Path = tmp_path_factory.mktemp("certificate")
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "pair.pem")
    return KeyPair(str(folder / "pair.pem")), trust


@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunked"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_client_that_uploads_40_mb_before_it_reads_can_read_the_413(
    certificate: tuple[KeyPair, ssl.SSLContext], tls: bool, announced: bool
) -> None:
    key_pair, trust = certificate if tls else (None, None)

    async def test() -> None:
        async with (
            serving(ROUTES, key_pair=key_pair, trust=trust, max_body_bytes=MEGABYTE) as server,
            server.connect(limit=1_024) as connection,
        ):
            framing = f"Content-Length: {40 * MEGABYTE}" if announced else "Transfer-Encoding: chunked"
            await connection.send(head("/", framing))
            for _ in range(40):
                piece = b" " * MEGABYTE
                await connection.send(piece if announced else b"f4240\r\n%b\r\n" % piece)
            if not announced:
                await connection.send(b"0\r\n\r\n")
            await asyncio.sleep(0.1)
            response = await connection.response()
            assert response.status == 413
            assert str(MEGABYTE) in error(response)
            await connection.send(head("/", method="GET"))
            assert (await connection.response()).status == 200

    run(test)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_body_that_stops_arriving_is_408_and_the_connection_is_closed(
    certificate: tuple[KeyPair, ssl.SSLContext], tls: bool
) -> None:
    key_pair, trust = certificate if tls else (None, None)

    async def test() -> None:
        async with (
            serving(ROUTES, key_pair=key_pair, trust=trust, body_timeout=0.2) as server,
            server.connect() as connection,
        ):
            await connection.send(head("/", "Content-Length: 200000") + b" " * 199_999)
            response = await connection.response()
            assert (response.status, response.headers["connection"]) == (408, "close")
            assert "Nothing of the request's body arrived for 0.2 seconds" in error(response)
            assert await connection.rest() == b""

    run(test)


# Responses that are not read.


def test_a_response_that_is_not_read_is_closed_after_the_write_timeout_and_a_time_for_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_timeout, seconds_for_size = 0.3, 0.5
    monkeypatch.setattr(base, "MIN_WRITE_RATE", int(8 * MEGABYTE / seconds_for_size))

    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with (
            serving(ROUTES, client_write_timeout=write_timeout) as server,
            server.connect(limit=1_024) as connection,
        ):
            began = loop.time()
            await connection.send(head("/large", method="GET"))
            closed = False
            while not closed:
                await asyncio.sleep(0.01)
                closed = not server.open_connections
                assert loop.time() - began < 10
            assert write_timeout + seconds_for_size <= loop.time() - began
            assert len(await connection.rest()) < 8 * MEGABYTE

    run(test)


def test_a_response_that_is_read_slowly_but_in_time_is_complete() -> None:
    async def test() -> None:
        async with (
            serving(ROUTES, client_write_timeout=0) as server,
            server.connect(limit=1_024) as connection,
        ):
            await connection.send(head("/large", method="GET"))
            await asyncio.sleep(0.5)
            assert len((await connection.response()).body) == 8 * MEGABYTE

    run(test)
