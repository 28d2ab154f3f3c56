"""Requests beyond a limit of size or time, or malformed: the status, the connection, and no trace in the database."""

from contextlib import suppress

import pytest
import ujson

from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.limits import HEADER_BYTES, URL_BYTES
from tests.raw import Raw, head, raw


def url_of(client: Client) -> str:
    return str(client.http.base_url)


def rejected(connection: Raw, status: int) -> str:
    """Read a JSON error after which the connection is closed; return its sentence."""
    response = connection.answer()
    assert response.status == status, response
    assert response.headers["connection"] == "close"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-request-id"]
    sentence = response.error
    with suppress(ConnectionResetError):  # the client may have sent something as the connection was closed
        assert connection.rest() == b""
    return sentence


def closed_by_server(connection: Raw, request_bytes: bytes) -> bool:
    """Send a malformed request; return whether the connection is closed, possibly after Tornado's own 400."""
    try:
        connection.send(request_bytes)
        return connection.rest() in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n")
    except (ConnectionResetError, BrokenPipeError):
        return True


# Too large, or malformed.


MEGABYTE = b"x" * 1_000_000


@pytest.mark.parametrize(
    "request_bytes",
    [
        head("/healthz", "X-Request-ID: a", "Cookie: " + "x" * 2 * HEADER_BYTES, method="GET"),
        head("/healthz", "X-Request-ID: a")[:-2] + b"Cookie: " + MEGABYTE,
        head("/healthz", "X-Request-ID: a", "Cookie: " + "x" * 2 * HEADER_BYTES) + MEGABYTE,
        b"GET /" + MEGABYTE,
    ],
    ids=["large", "endless", "large and a body", "endless URL"],
)
def test_headers_beyond_twice_the_limit_close_the_connection(tight: Client, request_bytes: bytes) -> None:
    with raw(url_of(tight)) as connection:
        assert closed_by_server(connection, request_bytes)
    assert tight.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("fields", [["Cookie: " + "x" * HEADER_BYTES], ["A: b"] * (HEADER_BYTES // 5)])
def test_headers_beyond_the_limit_are_431_and_the_connection_stays_usable(tight: Client, fields: list[str]) -> None:
    with raw(url_of(tight)) as connection:
        connection.send(head("/llmchat?appID=a", *fields, method="GET"))
        response = connection.answer()
        assert response.status == 431
        assert str(HEADER_BYTES) in response.error
        connection.send(head("/healthz", method="GET"))
        assert connection.answer().status == 200


def test_a_url_beyond_the_limit_is_414_and_the_connection_stays_usable(tight: Client) -> None:
    with raw(url_of(tight)) as connection:
        connection.send(head("/llmchat?appID=" + "x" * URL_BYTES, method="GET"))
        response = connection.answer()
        assert response.status == 414
        assert str(URL_BYTES) in response.error
        connection.send(head("/healthz", method="GET"))
        assert connection.answer().status == 200


def test_headers_and_a_url_of_exactly_the_limit_are_accepted(tight: Client) -> None:
    path = "/llmchat?appID=".ljust(URL_BYTES, "x")
    bare = head(path, "Cookie: ", method="GET")
    with raw(url_of(tight)) as connection:
        connection.send(head(path, "Cookie: " + "x" * (HEADER_BYTES - len(bare)), method="GET"))
        assert connection.answer().status == 422  # the appID is too long: the handler was reached
        connection.send(head("/healthz", *["A: b"] * 197, method="GET"))
        assert connection.answer().status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
        head("/llmchat", "Content-Length: abc"),
        head("/llmchat", "Content-Length: -1"),
        head("/llmchat", "Content-Length: 5", "Content-Length: 6") + b"123456",
        head("/llmchat", "Content-Length: 2", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("/llmchat", "Transfer-Encoding: gzip"),
        head("/llmchat", "Transfer-Encoding: chunked") + b"xyz\r\n",
        head("/llmchat", "Transfer-Encoding: chunked") + b"-1\r\n",
        head("/llmchat", "Transfer-Encoding: chunked") + b"3\r\nabcd\r\n",
        head("/llmchat", "Transfer-Encoding: chunked") + b"0\r\nTrailer: x\r\n\r\n",
        head("/llmchat", "Host: a b") + MEGABYTE,
    ],
    ids=repr,
)
def test_malformed_http_closes_the_connection(tight: Client, request_bytes: bytes) -> None:
    with raw(url_of(tight)) as connection:
        assert closed_by_server(connection, request_bytes)
    assert tight.http.get("/healthz").status_code == 200


def test_an_empty_line_before_a_request_is_ignored(tight: Client) -> None:
    with raw(url_of(tight)) as connection:
        connection.send(b"\r\n" + head("/healthz", method="GET"))
        assert connection.answer().status == 200


def test_a_request_that_arrives_byte_by_byte_is_processed(client: Client) -> None:
    body = ujson.dumps(client.body("hi")).encode()
    with raw(url_of(client)) as connection:
        for byte in head("/llmchat", f"Content-Length: {len(body)}") + body:
            connection.send(bytes([byte]))
        assert connection.answer().status == 200


# Too slow.


@pytest.mark.parametrize("before", [b"", head("/healthz", method="GET")])
def test_a_request_head_that_does_not_arrive_in_time_closes_the_connection(tight: Client, before: bytes) -> None:
    with raw(url_of(tight)) as connection:
        connection.send(before + head("/healthz")[:-2])
        if before:
            assert connection.answer().status == 200
        assert connection.rest() == b""


def test_a_request_head_that_arrives_too_slowly_closes_the_connection(tight: Client) -> None:
    with raw(url_of(tight)) as connection:
        connection.send(b"GET / HTTP/1.1\r\n")
        connection.drip(b"A: b\r\n")
        assert connection.rest() == b""


@pytest.mark.parametrize("sent", [b"", b'{"appID":'])
def test_a_body_that_does_not_arrive_is_408(tight: Client, sent: bytes) -> None:
    with raw(url_of(tight)) as connection:
        connection.send(head("/llmchat", "Content-Length: 1000") + sent)
        assert "request's body" in rejected(connection, 408)
    assert tight.messages() == []


def test_a_body_whose_end_arrives_too_slowly_is_408(tight: Client) -> None:
    for _ in range(5):  # a busy machine may let the client pause for longer than the timeout, which is another error
        with raw(url_of(tight)) as connection:
            connection.send(head("/llmchat", "Content-Length: 1000000") + b" " * 900_000)
            connection.drip(b" ")
            sentence = rejected(connection, 408)
        if not sentence.startswith("Nothing of the request's body arrived"):
            break
    assert "too slowly" in sentence


@pytest.mark.parametrize("piece", [b" ", b"1\r\n \r\n"])
def test_a_body_that_arrives_too_slowly_is_408(tight: Client, piece: bytes) -> None:
    chunked = len(piece) > 1
    with raw(url_of(tight)) as connection:
        connection.send(head("/llmchat", "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000000"))
        connection.drip(piece)
        assert "body" in rejected(connection, 408)


def test_an_idle_connection_is_closed_without_a_response(tight: Client) -> None:
    with raw(url_of(tight)) as connection:
        assert connection.rest() == b""
    with raw(url_of(tight)) as connection:
        connection.send(head("/healthz", method="GET"))
        assert connection.answer().status == 200
        assert connection.rest() == b""


def test_the_idle_timeout_does_not_apply_while_a_response_is_sent(tight: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    with tight.prompt("hi") as stream, raw(url_of(tight)) as silent:
        stream.next()
        assert silent.rest() == b""  # a timeout later
        gate.open()
        assert len(stream.rest()) == 1
