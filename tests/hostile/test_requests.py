"""Mutated requests, the same each time; `python -m tests.soak requests` sends ten thousand others."""

import asyncio
import json
import socket
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from tornado.iostream import IOStream, StreamClosedError

from tests.client import Client
from tests.fakes.ollama import ScriptedOllama
from tests.hostile.answers import Answer, complaint
from tests.hostile.campaign import Brief, send_mutated
from tests.hostile.mutations import Attempt, attempt
from tests.hostile.requests import FORGED, forged
from tests.hostile.sender import Verdict
from tests.program import ROOT, Program
from tests.raw import raw
from web.responses.sse_writer import ClientWriter

SEED = 6
SCHEMA = schemathesis.openapi.from_dict(json.loads((ROOT / "static" / "openapi.json").read_text()))
OPERATIONS = [
    (path, method.upper())
    for path, item in SCHEMA.raw_schema["paths"].items()
    for method in item
    if method != "parameters" and path != "/status/events"  # an endless stream
]


@pytest.mark.parametrize("count", [150, pytest.param(1_000, marks=pytest.mark.extended)])
def test_mutated_requests_get_valid_answers_and_leave_no_trace(
    chatterd: Program, ollama: ScriptedOllama, session_database_url: str, count: int
) -> None:
    verdict = send_mutated(chatterd, ollama, session_database_url, SEED, range(count))
    assert not verdict.wrong, f"seed {SEED}\n" + "\n".join(verdict.wrong)
    assert verdict.statuses.total() > count
    assert {200, 202, 204, 400, 404, 405, 415, 422} <= verdict.statuses.keys()
    assert verdict.unanswered.total() < count / 10  # Tornado closes many malformed requests without a response


def test_a_seed_reproduces_its_attempts() -> None:
    def some() -> list[Attempt]:
        return [attempt(SEED, number, ["/llmchat/x"]) for number in range(100)]

    assert some() == some()


@pytest.mark.parametrize("examples", [5, pytest.param(50, marks=pytest.mark.extended)])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_requests_that_violate_the_schema_are_rejected_with_a_sentence(
    chatterd: Program, ollama: ScriptedOllama, path: str, method: str, examples: int
) -> None:
    """Send requests that violate the document's schemas (schemathesis)."""
    ollama.default = (Brief(),)
    with requests.Session() as session:
        session.trust_env = False

        @seed(SEED)
        @given(case=SCHEMA[path][method].as_strategy(generation_mode=GenerationMode.NEGATIVE))
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: schemathesis.Case[Any]) -> None:
            response = case.call(base_url=chatterd.url, session=session, timeout=60)
            headers = {name.lower().encode(): values[0].encode() for name, values in response.headers.items()}
            assert complaint(Answer(response.status_code, headers, response.content, whole=True)) is None

        check()


# Self-tests of the verdict.


@pytest.mark.parametrize(
    ("received", "what"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", "500"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "not JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwordsand more", "not HTTP"),
        (b"HTTP/1.1 204 No Content\r\n\r\n" * 2, "2 answers"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n%b.." % FORGED.encode(), "1 answers"),
    ],
)
def test_the_verdict_reports_invalid_answers(received: bytes, what: str) -> None:
    verdict = Verdict()
    verdict.judge(Attempt(0, "x", [b"GET / HTTP/1.1\r\n\r\n"], "wait", [b"GET"], forged=True), received, closed=True)
    [told] = verdict.wrong
    assert what in told


@pytest.mark.parametrize("text", ['{"error":"no sentence"}', '{"error":"File \\"x.py\\"."}', '{"error":""}'])
def test_the_verdict_reports_an_error_without_a_sentence(text: str) -> None:
    answer = Answer(400, {b"content-type": b"application/json; charset=utf-8"}, text.encode(), whole=True)
    assert "no sentence" in str(complaint(answer))


# Requests that mutations found, one by one.


def rejection(client: Client, request: bytes) -> str:
    """Return the error message for an invalid request, after which the connection must be closed."""
    with raw(str(client.http.base_url)) as connection:
        connection.send(request)
        answer = connection.answer()
        assert answer.status == 400
        assert (answer.headers["connection"], answer.headers["server"]) == ("close", "chatterd")
        assert len(answer.headers["x-request-id"]) == 32
        assert connection.rest() == b""
        return answer.error


MALFORMED = {
    "no version": b"GET\r\n\r\n",
    "HTTP/2": b"GET / HTTP/2.0\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "endless port": b"GET / HTTP/1.1\r\nHost: x:" + b"9" * 5_000 + b"\r\n\r\n",
    "folded line": b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
    "control character": b"GET / HTTP/1.1\r\nHost: x\r\nSecret: \x01hidden\r\n\r\n",
    "long query": b"GET /?" + b"&" * 1_001 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "odd length": b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0\r\n\r\n",
    "odd chunk": b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    "length and chunks": b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
    "chunks in HTTP/1.0": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "odd coding in HTTP/1.0": b"GET / HTTP/1.0\r\nTransfer-Encoding: x\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED)
def test_invalid_http_is_rejected_without_quoting_it_and_the_connection_is_closed(
    client: Client, request_bytes: bytes
) -> None:
    with raw(str(client.http.base_url)) as connection:
        connection.send(request_bytes)
        response = connection.rest()
    assert response.startswith(b"HTTP/1.1 400 Bad Request\r\n") and b"hidden" not in response


@pytest.mark.parametrize("host", ["", "x", "a-b.c:80", "a_b", "127.0.0.1:8000", "[::1]", "[::1]:8000", "%41", "x:"])
def test_every_valid_host_header_is_accepted(client: Client, host: str) -> None:
    with raw(str(client.http.base_url)) as connection:
        connection.send(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert connection.answer().status == 200


def test_a_chunked_http_1_0_request_cannot_hide_another_request(client: Client, ollama: ScriptedOllama) -> None:
    head = b"POST /llmprompt HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    rejection(client, head + b"0\r\n\r\n" + forged())
    assert ollama.requests == []


def test_a_viewer_whose_client_has_gone_as_it_begins_is_told_so() -> None:
    async def begin() -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        stream = IOStream(ours)
        stream.close()
        with pytest.raises(StreamClosedError):
            ClientWriter(stream)

    asyncio.run(begin())
