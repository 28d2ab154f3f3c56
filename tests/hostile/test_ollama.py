"""A hostile Ollama: whatever it answers, the client gets an honest end, and chatterd neither follows nor keeps it."""

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
class Told:
    """How a reply ended: its events, and its row."""

    events: list[Event]
    row: dict[str, Any]


@pytest.fixture
def ask(client: Client, ollama: ScriptedOllama, session_database_url: str) -> Callable[..., Told]:
    """Play a script as the answer to a prompt; the conversation can be read and gone on with afterwards."""

    def ask(*steps: Step) -> Told:
        ollama.script(*steps)
        with client.prompt("hi") as stream:
            events = stream.rest()
            row = reply_row(session_database_url, stream.response.headers["Content-Location"])
        assert row["finished"] is not None
        assert client.history()["reply"] is None
        assert client.ask("again")[-1].json["done"] is True
        json.loads(ollama.requests[-1].body)
        return Told(events, row)

    return ask


def check_failed(told: Told) -> None:
    """The last event is an error, and the row says the same."""
    assert told.events[-1].name == "error"
    assert told.row["status"] in ("failed", "truncated") and told.row["error"]


# Answers that are no HTTP, or hardly.

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
"""Each is followed by the connection's end."""


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_what_is_not_http_ends_in_words_everywhere(
    client: Client, ollama: ScriptedOllama, ask: Callable[..., Told], answer: bytes
) -> None:
    check_failed(ask(Send(answer), Close()))
    ollama.script(Send(answer), Close())
    try:
        status, body = _post(client)
        assert (status, [*json.loads(body)]) in ((502, ["error"]), (503, ["error"]))
    except httpx.RemoteProtocolError:
        pass  # it had begun to be passed on, and does not look whole
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
def test_what_is_odd_but_http_is_taken(
    client: Client, ollama: ScriptedOllama, ask: Callable[..., Told], answer: bytes
) -> None:
    told = ask(Send(answer), Close())
    assert ([event.name for event in told.events], told.row["status"]) == (["message", "message"], "done")
    ollama.script(Send(answer), Close())
    assert _post(client) == (200, BODY)
    ollama.probed = Send(answer)
    assert client.http.get("/models").content == BODY


@pytest.mark.parametrize("status", [204, 205, 304])
def test_an_answer_without_content_is_one(
    client: Client, ollama: ScriptedOllama, ask: Callable[..., Told], status: int
) -> None:
    answer = b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status
    told = ask(Send(answer), Close())
    check_failed(told)
    assert str(status) in told.row["error"]
    ollama.script(Send(answer), Close())
    assert _post(client) == (status, b"")
    ollama.probed = Send(answer)
    listed = client.http.get("/models")
    assert (listed.status_code, listed.content) == (status, b"")


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_not_followed_wherever_it_leads(
    client: Client, ollama: ScriptedOllama, ask: Callable[..., Told], status: int
) -> None:
    with ScriptedOllama() as canary:
        place = f"{canary.url}/api/tags".encode()
        answer = b"HTTP/1.1 %d X\r\nLocation: %b\r\nRefresh: 0;%b\r\nContent-Length: 0\r\n\r\n" % (status, place, place)
        told = ask(Send(answer), Close())
        check_failed(told)
        assert str(status) in told.row["error"]
        ollama.script(Send(answer), Close())
        assert _post(client)[0] == status
        ollama.probed = Send(answer)
        listed = client.http.get("/models")
        assert listed.status_code == status and "Location" not in listed.headers
        assert client.http.get("/readyz").status_code == 200
        assert canary.requests == canary.probes == []


@pytest.mark.parametrize(("coding", "data"), [("gzip", BOMB), ("deflate", zlib.compress(bytes(20_000_000)))])
def test_what_is_compressed_stays_so(
    client: Client, ollama: ScriptedOllama, ask: Callable[..., Told], coding: str, data: bytes
) -> None:
    """Nobody asked for it, so it cannot be read; above all it does not become a thousand times as large."""
    answer = OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding.encode(), len(data)) + data
    told = ask(Send(answer), Close())
    check_failed(told)
    assert sum(len(event.data) for event in told.events) < 10 * len(data)
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
    "deep tool calls": b'{"model":"fake","message":{"tool_calls":' + b"[" * 400 + b"]" * 400 + b"}}",
    "message that is a list": b'{"model":"fake","message":[1,2]}',
    "message that is text": b'{"model":"fake","message":"hello"}',
    "done that is text": b'{"model":"fake","message":{"content":"y"},"done":"true"}',
    "done that is a number": b'{"model":"fake","message":{"content":"y"},"done":1}',
}


@pytest.mark.parametrize("odd", LINES.values(), ids=LINES)
def test_an_odd_line_is_shown_as_it_is_and_the_reply_goes_on(ask: Callable[..., Told], odd: bytes) -> None:
    told = ask(Head(), Lines(line("a"), odd, last_line("z")))
    assert [event.data.encode() for event in told.events][1] == odd
    assert {event.name for event in told.events} == {"message"}
    assert (told.row["status"], told.row["error"]) == ("done", None)


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
    "a number that is too long": b'{"model":"fake","message":{"tool_calls":[' + b"9" * 5_000 + b"]}}",
}


@pytest.mark.parametrize("garbage", UNREADABLE.values(), ids=UNREADABLE)
def test_a_line_that_cannot_be_read_or_kept_is_told_of_and_the_reply_goes_on(
    ask: Callable[..., Told], garbage: bytes
) -> None:
    told = ask(Head(), Lines(line("a"), garbage, last_line("z")))
    assert [event.name for event in told.events] == ["message", "error", "message"]
    assert (told.row["status"], told.row["error"]) == ("done", None)


def test_a_reply_that_drips_byte_by_byte_is_whole(ask: Callable[..., Told]) -> None:
    body = ndjson(line("sl"), last_line("ow"))
    answer = CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    told = ask(*(Send(answer[at : at + 1]) for at in range(len(answer))), Close())
    assert "".join(event.json["message"]["content"] for event in told.events) == "slow"
    assert told.row["status"] == "done"


# Without end.


@dataclass(eq=False)
class Flood(Step):
    """Sends the same bytes again and again, ``megabytes`` in all or until the client has gone."""

    piece: bytes
    megabytes: int

    async def play(self, answer: Answer) -> None:
        block = self.piece * max(1, 65_536 // len(self.piece))
        for _ in range(self.megabytes * MEGABYTES // len(block)):
            await answer.send(block)


@pytest.fixture
def growth(chatterd: Program) -> Iterator[Callable[[], float]]:
    """How many megabytes of memory the program has taken more than at the test's beginning."""
    process = psutil.Process(chatterd.process.pid)
    before = process.memory_info().rss
    yield lambda: (process.memory_info().rss - before) / MEGABYTES


@pytest.mark.parametrize(
    ("start", "piece"),
    [(OK + b"X: ", b"y"), (OK, b"X: y\r\n"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"", b"\x00")],
    ids=["field", "fields", "interim answers", "zeros"],
)
def test_a_head_without_end_is_not_read_for_long(
    ollama: ScriptedOllama, ask: Callable[..., Told], growth: Callable[[], float], start: bytes, piece: bytes
) -> None:
    flood = Flood(piece, 200)
    check_failed(ask(Send(start), flood, Close()))
    ollama.requests[0].closed.wait()
    assert ollama.requests[0].sent < 20 * MEGABYTES  # what the sockets hold
    assert growth() < 20


def test_blank_lines_without_end_cost_nothing(ask: Callable[..., Told], growth: Callable[[], float]) -> None:
    told = ask(Send(OK + b"\r\n"), Flood(b"\n\r\n \n", 6), Send(BODY), Close())
    assert told.row["status"] == "done"
    assert growth() < 20


def test_a_reply_is_stopped_in_the_midst_of_a_flood(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    """Thousands of tiny lines at once hold nobody else up."""
    ollama.script(Head(chunked=False), Flood(b'{"model":"m"}\n', 500), Close())
    path = client.begin("hi")
    ollama.arrival(0).wait()
    assert client.http.get("/healthz").status_code == 200
    assert client.http.delete(path).status_code == 202
    ollama.requests[0].closed.wait()
    row = eventually("its end is stored", lambda: (row := reply_row(session_database_url, path))["finished"] and row)
    assert row["status"] == "stopped"
