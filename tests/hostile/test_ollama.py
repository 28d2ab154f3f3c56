"""A hostile Ollama: whatever it answers, the client gets a correct end, and chatterd's memory stays bounded."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from tests.client import Client, Event
from tests.database import eventually, reply_row
from tests.fakes.ollama import Answer, Close, Head, Lines, ScriptedOllama, Send, Step, last_line, line, ndjson
from tests.program import Program

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = ndjson(line("words"), last_line())
WHOLE = b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
BOMB = gzip.compress(bytes(20_000_000))
MEGABYTES = 1_000_000


@dataclass(frozen=True)
class Outcome:
    """The end of a reply: its events and its row."""

    events: list[Event]
    row: dict[str, Any]


@pytest.fixture
def chatterd(chatterd_without_retries: Program) -> Program:
    """Return a chatterd that asks such an Ollama once."""
    return chatterd_without_retries


@pytest.fixture
def ask(client: Client, ollama: ScriptedOllama, session_database_url: str) -> Callable[..., Outcome]:
    """Return a function that answers a prompt with a script and checks that the conversation can be continued."""

    def ask(*steps: Step) -> Outcome:
        ollama.script(*steps)
        with client.prompt("hi") as stream:
            events = stream.rest()
            row = reply_row(session_database_url, stream.response.headers["Content-Location"])
        assert row["finished"] is not None
        assert client.history()["reply"] is None
        assert client.ask("again")[-1].json["done"] is True
        json.loads(ollama.generations[-1].body)
        return Outcome(events, row)

    return ask


def check_failed(outcome: Outcome) -> None:
    """Check that the last event is an error, and that the row holds it."""
    assert outcome.events[-1].name == "error"
    assert outcome.row["status"] in ("failed", "truncated") and outcome.row["error"]


# Invalid and unusual HTTP.

BROKEN = {
    "status 000": b"HTTP/1.1 000 X\r\nContent-Length: 5\r\n\r\nwords",
    "status 099": b"HTTP/1.1 099 X\r\nContent-Length: 5\r\n\r\nwords",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n" + WHOLE,
    "negative status": b"HTTP/1.1 -200 OK\r\n" + WHOLE,
    "status without digits": b"HTTP/1.1 OK\r\n" + WHOLE,
    "no status": b"HTTP/1.1\r\n" + WHOLE,
    "HTTP/9.9": b"HTTP/9.9 200 OK\r\n" + WHOLE,
    "HTTP/2 frames": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" * 10,
    "only interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
    "endless field": OK + b"X: " + b"y" * 100_000,
    "endless fields": OK + b"X: y\r\n" * 20_000,
    "endless name": OK + b"X" * 100_000,
    "NUL in a field": OK + b"X: a\x00b\r\n" + WHOLE,
    "no colon": OK + b"words\r\n" + WHOLE,
    "huge length": OK + b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY,
    "negative chunk": CHUNKED + b"-5\r\nwords\r\n0\r\n\r\n",
    "huge chunk": CHUNKED + b"fffffffffffffffff\r\nwords\r\n",
    "chunk without size": CHUNKED + b"\r\nwords\r\n0\r\n\r\n",
}
"""Invalid responses; after each, the connection is closed."""


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_invalid_http_ends_with_an_error_message_on_every_route(
    client: Client, ollama: ScriptedOllama, ask: Callable[..., Outcome], answer: bytes
) -> None:
    check_failed(ask(Send(answer), Close()))
    ollama.script(Send(answer), Close())
    try:
        status, body = _post(client)
        assert (status, [*json.loads(body)]) in ((502, ["error"]), (503, ["error"]))
    except httpx.RemoteProtocolError:
        pass  # it was being passed on, and ends as an incomplete response
    ollama.probed = Send(answer)
    listed = client.http.get("/models")
    assert listed.status_code == 503 and "Ollama" in listed.json()["error"]


def _post(client: Client) -> tuple[int, bytes]:
    answer = client.http.post("/llmprompt", json={"model": "fake", "prompt": "hi"})
    return answer.status_code, answer.content


ODD = {
    "no reason": b"HTTP/1.1 200\r\n" + WHOLE,
    "reason of odd bytes": b"HTTP/1.1 200 \xff\t!\r\n" + WHOLE,
    "interim answers first": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 20 + OK + WHOLE,
    "long chunk extension": CHUNKED + b"%x;%b\r\n%b\r\n0\r\n\r\n" % (len(BODY), b"a" * 100_000, BODY),
    "another answer behind": OK + WHOLE + b"HTTP/1.1 500 No\r\n\r\nno",
    "odd content type": OK + b"Content-Type: a\tb\xe9;" + b"x" * 10_000 + b"\r\n" + WHOLE,
}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_unusual_but_valid_http_is_accepted(
    client: Client, ollama: ScriptedOllama, ask: Callable[..., Outcome], answer: bytes
) -> None:
    outcome = ask(Send(answer), Close())
    assert ([event.name for event in outcome.events], outcome.row["status"]) == (["message", "message"], "done")
    ollama.script(Send(answer), Close())
    assert _post(client) == (200, BODY)
    ollama.probed = Send(answer)
    assert client.http.get("/models").content == BODY


@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_response_without_content_fails_a_reply_and_is_passed_on_elsewhere(
    client: Client, ollama: ScriptedOllama, ask: Callable[..., Outcome], status: int
) -> None:
    answer = b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status
    outcome = ask(Send(answer), Close())
    check_failed(outcome)
    assert str(status) in outcome.row["error"]
    ollama.script(Send(answer), Close())
    assert _post(client) == (status, b"")
    ollama.probed = Send(answer)
    listed = client.http.get("/models")
    assert (listed.status_code, listed.content) == (status, b"")


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_not_followed(
    client: Client, ollama: ScriptedOllama, ask: Callable[..., Outcome], status: int
) -> None:
    with ScriptedOllama() as canary:
        place = f"{canary.url}/api/tags".encode()
        answer = b"HTTP/1.1 %d X\r\nLocation: %b\r\nRefresh: 0;%b\r\nContent-Length: 0\r\n\r\n" % (status, place, place)
        outcome = ask(Send(answer), Close())
        check_failed(outcome)
        assert str(status) in outcome.row["error"]
        ollama.script(Send(answer), Close())
        assert _post(client)[0] == status
        ollama.probed = Send(answer)
        listed = client.http.get("/models")
        assert listed.status_code == status and "Location" not in listed.headers
        assert client.http.get("/readyz").status_code == 200
        assert canary.requests == canary.probes == []


@pytest.mark.parametrize(("coding", "data"), [("gzip", BOMB), ("deflate", zlib.compress(bytes(20_000_000)))])
def test_a_compressed_response_is_not_decompressed(
    client: Client, ollama: ScriptedOllama, ask: Callable[..., Outcome], coding: str, data: bytes
) -> None:
    """chatterd did not request compression; decompressing would multiply the size by a thousand."""
    answer = OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding.encode(), len(data)) + data
    outcome = ask(Send(answer), Close())
    check_failed(outcome)
    assert sum(len(event.data) for event in outcome.events) < 10 * len(data)
    ollama.script(Send(answer), Close())
    assert _post(client) == (200, data)
    ollama.probed = Send(answer)
    assert client.http.get("/models").content == data


# Lines.

LINES = {
    "NUL, escaped": rb'{"model":"fake","message":{"content":"a\u0000b","thinking":"\u0000"},"done":false}',
    "half a character": rb'{"model":"fake","message":{"content":"a\ud83d","thinking":"\udc00"},"done":false}',
    "separators of lines": '{"model":"fake","message":{"content":"a\u2028b\u2029c\u0085d"},"done":false}'.encode(),
    "DEL and C1": '{"model":"fake","message":{"content":"\x7f\x80\x9f\ufeff\uffff"},"done":false}'.encode(),
    "duplicate keys": b'{"model":"x","model":"fake","message":{"content":"n"},"message":{"content":"y"},"done":false}',
    "deep, where nobody looks": b'{"model":"fake","message":{"content":"y"},"x":' + b"[" * 900 + b"]" * 900 + b"}",
    "huge numbers": b'{"model":"fake","message":{"content":"y"},"eval_count":%b,"x":1e999}' % (b"9" * 5_000),
    "numbers that are none": b'{"model":"fake","message":null,"x":[NaN,Infinity]}',
    "many keys": b'{"model":"fake",%b}' % b",".join(b'"%d":0' % number for number in range(10_000)),
    "odd tool calls": rb'{"model":"fake","message":{"tool_calls":[null,1,"\u0000",{"\ud800":"\u0000"},[[]]]}}',
    "tool calls with huge numbers": b'{"model":"fake","message":{"tool_calls":[%b,1e300,1e999,-0]}}' % (b"9" * 400),
    "tool calls with a number that is too long": b'{"model":"fake","message":{"tool_calls":[%b]}}' % (b"9" * 5_000),
    "deep tool calls": b'{"model":"fake","message":{"tool_calls":' + b"[" * 400 + b"]" * 400 + b"}}",
    "message that is a list": b'{"model":"fake","message":[1,2]}',
    "message that is text": b'{"model":"fake","message":"hello"}',
    "done that is text": b'{"model":"fake","message":{"content":"y"},"done":"true"}',
    "done that is a number": b'{"model":"fake","message":{"content":"y"},"done":1}',
}


@pytest.mark.parametrize("odd", LINES.values(), ids=LINES)
def test_an_unusual_line_is_shown_unchanged_and_the_reply_continues(ask: Callable[..., Outcome], odd: bytes) -> None:
    outcome = ask(Head(), Lines(line("a"), odd, last_line("z")))
    assert [event.data.encode() for event in outcome.events][1] == odd
    assert {event.name for event in outcome.events} == {"message"}
    assert (outcome.row["status"], outcome.row["error"]) == ("done", None)


UNREADABLE = {
    "NUL": b'{"model":"fake","message":{"content":"a\x00b"}}',
    "NUL where nobody looks": b'{"model":"fake","message":null,"x":"\x00"}',
    "byte order mark": b'\xef\xbb\xbf{"model":"fake"}',
    "half a character in UTF-8": b'{"model":"fake","x":"\xed\xa0\x80"}',
    "too many bytes for a character": b'{"model":"fake","x":"\xc0\x80"}',
    "UTF-16": '{"model":"fake"}'.encode("utf-16-be"),
    "model that is a list": b'{"model":["fake"],"done":true}',
    "model that is null": b'{"model":null,"done":true}',
    "too deep": b'{"model":"fake","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "tool calls that are too deep": b'{"model":"fake","message":{"tool_calls":' + b"[" * 900 + b"]" * 900 + b"}}",
}


@pytest.mark.parametrize("garbage", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_line_is_shown_as_an_error_and_the_reply_continues(
    ask: Callable[..., Outcome], garbage: bytes
) -> None:
    outcome = ask(Head(), Lines(line("a"), garbage, last_line("z")))
    assert [event.name for event in outcome.events] == ["message", "error", "message"]
    assert (outcome.row["status"], outcome.row["error"]) == ("done", None)


def test_a_reply_that_arrives_byte_by_byte_is_complete(ask: Callable[..., Outcome]) -> None:
    body = ndjson(line("sl"), last_line("ow"))
    answer = CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    outcome = ask(*(Send(answer[at : at + 1]) for at in range(len(answer))), Close())
    assert "".join(event.json["message"]["content"] for event in outcome.events) == "slow"
    assert outcome.row["status"] == "done"


# Endless responses.


@dataclass(eq=False)
class Flood(Step):
    """Sends the same bytes repeatedly, up to ``megabytes`` or until the client disconnects."""

    piece: bytes
    megabytes: int

    async def play(self, answer: Answer) -> None:
        block = self.piece * max(1, 65_536 // len(self.piece))
        for _ in range(self.megabytes * MEGABYTES // len(block)):
            await answer.send(block)


@pytest.fixture
def growth(chatterd: Program) -> Iterator[Callable[[], float]]:
    """Return a function that returns the growth of the program's memory since the start of the test, in megabytes."""
    process = psutil.Process(chatterd.process.pid)
    before = process.memory_info().rss
    yield lambda: (process.memory_info().rss - before) / MEGABYTES


@pytest.mark.parametrize(
    ("start", "piece"),
    [(OK + b"X: ", b"y"), (OK, b"X: y\r\n"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"", b"\x00")],
    ids=["field", "fields", "interim answers", "zeros"],
)
def test_an_endless_head_is_aborted(
    ollama: ScriptedOllama, ask: Callable[..., Outcome], growth: Callable[[], float], start: bytes, piece: bytes
) -> None:
    flood = Flood(piece, 200)
    check_failed(ask(Send(start), flood, Close()))
    ollama.generations[0].closed.wait()
    assert ollama.generations[0].sent < 20 * MEGABYTES  # the size of the socket buffers
    assert growth() < 20


def test_many_blank_lines_use_no_memory(ask: Callable[..., Outcome], growth: Callable[[], float]) -> None:
    outcome = ask(Send(OK + b"\r\n"), Flood(b"\n\r\n \n", 6), Send(BODY), Close())
    assert outcome.row["status"] == "done"
    assert growth() < 20


def test_a_reply_can_be_stopped_during_a_flood_of_lines(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    """Thousands of tiny lines do not delay other requests."""
    ollama.script(Head(chunked=False), Flood(b'{"model":"m"}\n', 500), Close())
    path = client.begin("hi")
    ollama.arrival(0).wait()
    assert client.http.get("/healthz").status_code == 200
    assert client.http.delete(path).status_code == 202
    ollama.generations[0].closed.wait()
    row = eventually("its end is stored", lambda: (row := reply_row(session_database_url, path))["finished"] and row)
    assert row["status"] == "stopped"
