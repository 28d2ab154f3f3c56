"""Bodies that are not plain JSON, and what is rejected before a client that expects 100 has sent its body."""

import asyncio
import gzip
from typing import Any

import pytest
import ujson

from auth.principal import Access
from tests.raw import head
from tests.web.serving import Connection, Response, Routes, run, serving
from web.base import BaseHandler

JSON = b'{"a": 1}'
ENCODED = gzip.compress(JSON)


class Handler(BaseHandler):
    access = Access.PUBLIC
    body_limit = None

    def get(self) -> None:
        self.write_json("done")

    def post(self) -> None:
        self.write_json(ujson.loads(self.json_body()))

    put = patch = post


class BodilessHandler(BaseHandler):
    access = Access.PUBLIC
    body_limit = None

    def post(self) -> None:
        self.write_json("done")


ROUTES: Routes = [("/", Handler), ("/bodiless", BodilessHandler)]


def respond(*requests: bytes, **settings: Any) -> list[Response]:
    """Send each request once the one before is answered, on one connection; return the responses."""
    responses: list[Response] = []

    async def test() -> None:
        async with serving(ROUTES, **settings) as server, server.connect() as connection:
            for request in requests:
                await connection.send(request)
                responses.append(await connection.response())

    run(test)
    return responses


def request(*fields: str, path: str = "/", method: str = "POST", body: bytes = ENCODED) -> bytes:
    return head(path, f"Content-Length: {len(body)}", *fields, method=method) + body


def error(response: Response) -> str:
    return str(ujson.loads(response.body)["error"])


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "x-gzip", "GZIP", "gzip, br", "identity, gzip"])
def test_an_encoded_body_is_415_and_names_the_encoding_and_the_accepted_one(method: str, coding: str) -> None:
    rejected, accepted = respond(request(f"Content-Encoding: {coding}", method=method), request(body=JSON))
    assert rejected.status == 415
    assert rejected.headers["accept-encoding"] == "identity"  # RFC 9110, section 15.5.16
    assert coding.lower().removeprefix("identity, ") in error(rejected)
    assert (accepted.status, accepted.body) == (200, b'{"a":1}')


@pytest.mark.parametrize("coding", ["identity", "Identity", "", " identity "])
def test_a_body_without_encoding_may_say_so(coding: str) -> None:
    [response] = respond(request(f"Content-Encoding: {coding}", body=JSON))
    assert (response.status, response.body) == (200, b'{"a":1}')


def test_the_encoding_of_a_body_that_is_dropped_does_not_matter() -> None:
    [response] = respond(request("Content-Encoding: gzip", method="GET"))
    assert response.status == 200


def test_a_long_encoding_is_shortened_in_the_error() -> None:
    [response] = respond(request("Content-Encoding: " + "x" * 1_000))
    assert response.status == 415
    assert len(error(response)) < 200


def typed(content_type: str, *fields: str, path: str = "/", method: str = "POST") -> bytes:
    """A request with another content type."""
    whole = request(*fields, path=path, method=method, body=JSON)
    return whole.replace(b"Content-Type: application/json\r\n", content_type.encode())


@pytest.mark.parametrize(
    "content_type",
    ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type:\r\n"],
)
def test_another_content_type_is_415_and_names_the_accepted_one(content_type: str) -> None:
    rejected, accepted = respond(typed(content_type), request(body=JSON))
    assert rejected.status == 415
    assert rejected.headers["accept"] == "application/json"
    assert "application/json" in error(rejected)
    assert accepted.status == 200


def test_a_request_without_body_needs_no_content_type() -> None:
    responses = respond(
        b"POST /bodiless HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /bodiless HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    assert [response.status for response in responses] == [200, 200, 415]


@pytest.mark.parametrize(("status", "path", "method"), [(404, "/nowhere", "POST"), (405, "/bodiless", "PUT")])
def test_path_and_method_are_checked_before_the_content_type(status: int, path: str, method: str) -> None:
    rejected, accepted = respond(
        typed("Content-Type: text/plain\r\n", "Content-Encoding: br", path=path, method=method), request(body=JSON)
    )
    assert (rejected.status, accepted.status) == (status, 200)


# Expect: 100-continue.


LARGE_HEADERS = "Cookie: " + "x" * 40_000


@pytest.mark.parametrize(
    ("status", "announced"),
    [
        (404, request("Expect: 100-continue", path="/nowhere", body=b"")),
        (405, request("Expect: 100-continue", path="/bodiless", method="PUT", body=b"")),
        (413, request("Expect: 100-continue", body=b"").replace(b"th: 0", b"th: 90000000")),
        (414, request("Expect: 100-continue", path="/?" + "x" * 9_000, body=b"")),
        (415, request("Expect: 100-continue", "Content-Encoding: gzip", body=b"")),
        (415, typed("Content-Type: text/plain\r\n", "Expect: 100-continue").removesuffix(JSON)),
        (415, typed("", "Expect: 100-continue").removesuffix(JSON)),
        (431, request("Expect: 100-continue", LARGE_HEADERS, body=b"")),
    ],
)
def test_what_the_head_alone_shows_is_rejected_without_100(status: int, announced: bytes) -> None:
    async def test() -> None:
        async with serving(ROUTES) as server, server.connect() as connection:
            await connection.send(announced.replace(b"Content-Length: 0", b"Content-Length: 8"))
            response = await connection.response()
            assert (response.status, response.headers["connection"]) == (status, "close")
            assert error(response)
            assert await connection.rest() == b""

    run(test)


def test_a_body_that_is_accepted_is_asked_for() -> None:
    async def test() -> None:
        async with serving(ROUTES) as server, server.connect() as connection:
            await connection.send(request("Expect: 100-continue", body=JSON).removesuffix(JSON))
            assert (await connection.response()).status == 100
            await connection.send(JSON)
            assert (await answer(connection)).body == b'{"a":1}'

    run(test)


async def answer(connection: Connection) -> Response:
    async with asyncio.timeout(10):
        return await connection.response()
