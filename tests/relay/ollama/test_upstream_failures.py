"""What goes wrong at Ollama after the 200: each trouble is told in the stream, and the reply's end is kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.client import Client, Event, Stream
from tests.database import reply_row
from tests.fakes.ollama import (
    Body,
    Close,
    End,
    Gate,
    Head,
    Lines,
    Reset,
    ScriptedOllama,
    Send,
    Step,
    Whole,
    failure,
    last_line,
    line,
    ndjson,
)
from tests.program import Program

Asking = Callable[..., AbstractContextManager[Client]]


@dataclass(frozen=True)
class Told:
    """A reply that has ended: its events, and what the database says of it."""

    events: list[Event]
    row: dict[str, Any]

    @property
    def last_error(self) -> str:
        assert self.events[-1].name == "error"
        return str(self.events[-1].json["error"])


def ended(stream: Stream, database_url: str) -> Told:
    """Read a stream to its end; its reply must not be open any more."""
    events = stream.rest()
    row = reply_row(database_url, stream.response.headers["Content-Location"])
    assert row["finished"] is not None
    return Told(events, row)


def shape(events: list[Event]) -> list[tuple[int, str, str]]:
    """Each event as its number, its name, and what it says."""
    return [
        (event.id, event.name, event.json["error"] if event.name == "error" else event.json["message"]["content"])
        for event in events
    ]


def check_kept(client: Client, told: Told, partial: str | None) -> None:
    """The prompt is in the history, and the partial reply unless it is None, under the seq that the row names."""
    messages = client.history()["messages"]
    assert [(message["role"], message["content"]) for message in messages] == [
        ("user", "hi"),
        *([("assistant", partial)] if partial is not None else []),
    ]
    assert told.row["message_seq"] == (messages[-1]["seq"] if partial is not None else None)
    assert client.history()["reply"] is None


@pytest.fixture
def tell(client: Client, ollama: ScriptedOllama, session_database_url: str) -> Callable[..., Told]:
    """Play a script as the answer to a prompt."""

    def tell(*steps: Step) -> Told:
        ollama.script(*steps)
        with client.prompt("hi") as stream:
            return ended(stream, session_database_url)

    return tell


# An error of Ollama's in mid-stream.


def test_an_error_line_in_mid_stream_is_the_last_event_and_the_partial_is_kept(
    client: Client, tell: Callable[..., Told]
) -> None:
    told = tell(Head(), Lines(line("par"), line("tial"), b'{"error":"the \\"GPU\\" fell off"}'))
    assert shape(told.events) == [(0, "message", "par"), (1, "message", "tial"), (2, "error", "the 'GPU' fell off")]
    assert (told.row["status"], told.row["error"]) == ("failed", 'the "GPU" fell off')
    check_kept(client, told, "partial")


def test_an_error_line_alone_keeps_the_prompt_only(client: Client, tell: Callable[..., Told]) -> None:
    told = tell(Head(), Lines(b'{"error":"out of memory"}'))
    assert shape(told.events) == [(0, "error", "out of memory")]
    assert told.row["status"] == "failed"
    check_kept(client, told, None)


def test_what_follows_an_error_line_is_shown_and_its_done_counts(client: Client, tell: Callable[..., Told]) -> None:
    told = tell(Head(), Lines(line("a"), b'{"error":"hiccup"}', line("b"), last_line("c")))
    assert shape(told.events) == [
        (0, "message", "a"),
        (1, "error", "hiccup"),
        (2, "message", "b"),
        (3, "message", "c"),
    ]
    assert (told.row["status"], told.row["error"]) == ("done", None)
    check_kept(client, told, "abc")


def test_an_error_line_that_is_followed_by_words_and_no_done_ends_as_truncated(
    client: Client, tell: Callable[..., Told]
) -> None:
    told = tell(Head(), Lines(b'{"error":"hiccup"}', line("b")))
    assert shape(told.events)[:2] == [(0, "error", "hiccup"), (1, "message", "b")]
    assert len(told.events) == 3 and "complete" in told.last_error
    assert (told.row["status"], told.row["error"]) == ("truncated", told.last_error)
    check_kept(client, told, "b")


def test_an_error_line_keeps_its_words_though_the_connection_then_breaks(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a"), b'{"error":"crashed"}'), gate, Reset())
    with client.prompt("hi") as stream:
        told_first = [stream.next(), stream.next()]
        gate.open()
        told = ended(stream, session_database_url)
    assert [event and event.name for event in told_first] == ["message", "error"]
    assert told.row["status"] in ("failed", "truncated") and told.row["error"]
    check_kept(client, told, "a")


@pytest.mark.parametrize(
    ("error_line", "text"),
    [
        (b'{"error": {"message":"no \\"x\\"", "code":7}}', "{'message':'no 'x'','code':7}"),
        (b'{"error":"a\\u0000b\\ud800"}', "a\ufffdb\ufffd"),
        (b'{"error":false}', "false"),
    ],
)
def test_an_error_that_is_no_plain_text_is_told_all_the_same(
    client: Client, tell: Callable[..., Told], error_line: bytes, text: str
) -> None:
    told = tell(Head(), Lines(error_line))
    assert [event.name for event in told.events] == ["error"]
    assert told.last_error.replace("\\'", "'") == text
    assert told.row["status"] == "failed"


# A refusal before the first byte.


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (failure(404, 'model "x" not found'), "model 'x' not found (Ollama answered 404 Not Found)"),
        (failure(400, "invalid option: \\o/"), "invalid option: \\o/ (Ollama answered 400 Bad Request)"),
        (failure(500, "llama runner died"), "llama runner died (Ollama answered 500 Internal Server Error)"),
        (failure(503, "server busy"), "server busy (Ollama answered 503 Service Unavailable)"),
        (Whole(403, b""), "Ollama answered 403 Forbidden and gave no reason."),
        (Whole(403, b" \r\n"), "Ollama answered 403 Forbidden and gave no reason."),
        (
            Whole(502, b'<html><a href="/">\n<h1>Bad Gateway</h1></html>', "text/html"),
            "<html><a href='/'>\n<h1>Bad Gateway</h1></html> (Ollama answered 502 Bad Gateway)",
        ),
        (Whole(500, b"\xff\x00"), "\ufffd\ufffd (Ollama answered 500 Internal Server Error)"),
        (Whole(301, b""), "Ollama answered 301 Moved Permanently and gave no reason."),
        (Whole(599, b'{"error":""}'), "{'error':''} (Ollama answered 599)"),
        (Whole(429, b"[1]"), "[1] (Ollama answered 429 Too Many Requests)"),
        (Whole(400, line("not an answer")), None),
    ],
)
def test_a_refusal_is_told_in_ollamas_words_with_its_status(
    client: Client, tell: Callable[..., Told], answer: Whole, text: str | None
) -> None:
    told = tell(answer)
    assert [event.id for event in told.events] == [0]
    assert told.last_error == text or (text is None and "(Ollama answered 400 Bad Request)" in told.last_error)
    assert told.row["status"] == "failed"
    assert told.row["error"].replace('"', "'") == told.last_error
    check_kept(client, told, None)


def test_a_refusal_comes_in_pieces_too(client: Client, tell: Callable[..., Told]) -> None:
    told = tell(Head(404), Body(b'{"error":"mod'), Body(b'el gone"'), Body(b"}"))
    assert shape(told.events) == [(0, "error", "model gone (Ollama answered 404 Not Found)")]


def test_a_refusal_without_end_is_told_up_to_a_limit(client: Client, tell: Callable[..., Told]) -> None:
    told = tell(Head(500), *[Body(b"x" * 50_000)] * 40)
    assert told.last_error.startswith("xxxx") and 4_000 < len(told.last_error) < 5_000
    assert told.row["status"] == "failed"


def test_the_next_prompt_after_a_refusal_works(client: Client, tell: Callable[..., Told]) -> None:
    tell(failure(404, "model 'x' not found"))
    assert client.ask("again")[-1].json["done"] is True
    assert [role for role, _ in client.messages()] == ["user", "user", "assistant"]


# Ollama is not there, or leaves.


def test_an_ollama_that_is_absent_is_told_and_the_next_prompt_works_when_it_is_back(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    ollama.stop_listening()
    ollama.cut_connections()
    with client.prompt("hi") as stream:
        told = ended(stream, session_database_url)
    assert [event.id for event in told.events] == [0]
    assert "Ollama cannot be reached" in told.last_error
    assert (told.row["status"], told.row["error"]) == ("failed", told.last_error)
    check_kept(client, told, None)
    assert client.http.get("/healthz").status_code == 200
    ollama.listen_again()
    client.ask()
    assert client.messages() == [("user", "hi"), ("assistant", "w0 w1 w2 w3 w4 ")]


def test_an_answer_that_ends_without_done_says_so(client: Client, tell: Callable[..., Told]) -> None:
    told = tell(Head(), Lines(line("half")), End())
    assert shape(told.events)[0] == (0, "message", "half")
    assert len(told.events) == 2 and "before it was complete" in told.last_error
    assert (told.row["status"], told.row["error"]) == ("truncated", told.last_error)
    check_kept(client, told, "half")


@pytest.mark.parametrize("ending", [Close(), Reset()], ids=["closed", "reset"])
def test_a_connection_that_breaks_in_mid_stream_keeps_the_partial(
    client: Client, ollama: ScriptedOllama, session_database_url: str, ending: Step
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("half")), gate, ending)
    with client.prompt("hi") as stream:
        first = stream.next()
        gate.open()
        told = ended(stream, session_database_url)
    assert first is not None and first.json["message"]["content"] == "half"
    assert len(told.events) == 1 and "broke" in told.last_error
    assert (told.row["status"], told.row["error"]) == ("truncated", told.last_error)
    check_kept(client, told, "half")


@pytest.mark.parametrize("ending", [Close(), Reset()], ids=["closed", "reset"])
@pytest.mark.parametrize("before", [(), (Head(),)], ids=["before the head", "after the head"])
def test_a_connection_that_breaks_before_the_first_line_keeps_the_prompt(
    client: Client, ollama: ScriptedOllama, session_database_url: str, before: tuple[Step, ...], ending: Step
) -> None:
    gate = Gate()
    ollama.script(*before, gate, ending)
    with client.prompt("hi") as stream:
        gate.reached.wait()
        gate.open()
        told = ended(stream, session_database_url)
    assert [event.id for event in told.events] == [0]
    assert "connection" in told.last_error and "answered 0" not in told.last_error
    assert told.row["status"] in ("failed", "truncated")
    check_kept(client, told, None)


def test_the_end_of_a_connection_that_was_kept_alive_is_not_a_trouble(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    client.ask("hi")
    ollama.cut_connections()
    assert client.ask("again")[-1].json["done"] is True


def test_bytes_that_are_not_http_are_told(client: Client, tell: Callable[..., Told]) -> None:
    told = tell(Send(b"SSH-2.0-OpenSSH_9.7\r\n"), Close())
    assert len(told.events) == 1 and "Ollama" in told.last_error and "answered 0" not in told.last_error
    assert told.row["status"] in ("failed", "truncated")
    check_kept(client, told, None)


# Lines that cannot be read.

UNREADABLE = [
    b"nonsense",
    b'say "what"',
    b"[]",
    b"null",
    b"7",
    b'"text"',
    b"{}",
    b'{"message":{"content":"no model"},"done":false}',
    b'{"model":"","message":{"content":"x"},"done":true}',
    b'{"model":7,"done":true}',
    b'{"model":"fake","message":{"content":"cut o',
    b"data: {}",
    b"id: 99",
    b"<html>",
    b"[" * 20_000,
    b"\x00\x01",
]


@pytest.mark.parametrize("garbage", UNREADABLE, ids=lambda garbage: repr(garbage[:20]))
def test_a_line_that_cannot_be_read_is_told_and_the_stream_goes_on(
    client: Client, tell: Callable[..., Told], garbage: bytes
) -> None:
    told = tell(Head(), Lines(line("a"), garbage, line("b"), last_line("c")))
    names = [(event.id, event.name) for event in told.events]
    assert names == [(0, "message"), (1, "error"), (2, "message"), (3, "message")]
    shown = told.events[1].json["error"]
    expected = garbage.decode().replace('"', "'").replace("\0", "\ufffd")
    assert shown == expected or (len(expected) > 4096 and shown == expected[:4096] + " ...")
    assert (told.row["status"], told.row["error"]) == ("done", None)
    check_kept(client, told, "abc")


def test_a_line_that_is_not_utf_8_is_told_with_replacement_characters(
    client: Client, tell: Callable[..., Told]
) -> None:
    told = tell(Head(), Lines(b'{"model":"fake","message":{"content":"\xff\xc3"}}', last_line("c")))
    assert told.events[0].json["error"] == "{'model':'fake','message':{'content':'\ufffd\ufffd'}}"
    assert told.events[0].name == "error" and told.row["status"] == "done"
    check_kept(client, told, "c")


def test_a_huge_line_that_cannot_be_read_is_told_in_part(client: Client, tell: Callable[..., Told]) -> None:
    told = tell(Head(), Body(b"x" * 5_000_000), Body(b"\n"), Lines(last_line("c")))
    assert told.events[0].name == "error"
    assert told.events[0].json["error"] == "x" * 4096 + " ..."
    assert told.row["status"] == "done"


def test_an_answer_of_garbage_alone_has_an_honest_end(client: Client, tell: Callable[..., Told]) -> None:
    told = tell(Head(), Lines(b"<html>", b"</html>"))
    assert [event.json["error"] for event in told.events][:2] == ["<html>", "</html>"]
    assert len(told.events) == 3 and "complete" in told.last_error
    assert told.row["status"] == "truncated"
    check_kept(client, told, None)


def test_an_empty_answer_has_an_honest_end(client: Client, tell: Callable[..., Told]) -> None:
    told = tell(Whole(200, b""))
    assert len(told.events) == 1 and "complete" in told.last_error
    assert told.row["status"] == "truncated"
    check_kept(client, told, None)


def test_a_last_line_that_was_cut_is_told_and_the_reply_is_truncated(client: Client, tell: Callable[..., Told]) -> None:
    told = tell(Head(), Lines(line("a")), Body(line("never seen")[:-5]), End())
    assert [event.name for event in told.events] == ["message", "error", "error"]
    assert "never seen" in told.events[1].json["error"] and "complete" in told.last_error
    assert told.row["status"] == "truncated"
    check_kept(client, told, "a")


def test_lines_with_fields_of_unusual_types_are_passed_on(client: Client, tell: Callable[..., Told]) -> None:
    odd = [
        b'{"model":"fake","message":null,"done":false}',
        b'{"model":"fake","message":{"content":null,"tool_calls":null},"done":null}',
        b'{"model":"fake","message":{"content":7},"done":1}',
        b'{"error":null,"model":"fake","message":{"content":"x"},"done":false}',
    ]
    told = tell(Head(), Lines(*odd, last_line()))
    assert [event.data.encode() for event in told.events[:-1]] == odd
    assert {event.name for event in told.events} == {"message"}
    assert told.row["status"] == "done"
    check_kept(client, told, "x")


# Done.


def test_done_may_carry_content(client: Client, tell: Callable[..., Told]) -> None:
    told = tell(Head(), Lines(line("a"), last_line("z")))
    assert shape(told.events) == [(0, "message", "a"), (1, "message", "z")]
    assert told.row["status"] == "done"
    check_kept(client, told, "az")


def test_lines_after_done_are_ignored(client: Client, tell: Callable[..., Told]) -> None:
    told = tell(Head(), Body(ndjson(line("a"), last_line("z"), line("no"), b"garbage", b'{"error":"late"}')))
    assert shape(told.events) == [(0, "message", "a"), (1, "message", "z")]
    assert (told.row["status"], told.row["error"]) == ("done", None)
    check_kept(client, told, "az")


def test_the_reply_ends_with_done_though_ollama_keeps_the_connection_open(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(last_line("z")), gate)
    with client.prompt("hi") as stream:
        gate.reached.wait()
        told = ended(stream, session_database_url)
    assert shape(told.events) == [(0, "message", "z")]
    assert told.row["status"] == "done"
    check_kept(client, told, "z")
    assert not ollama.requests[0].answered.happened


# Silence and limits, with settings of their own.


@pytest.fixture
def asking(start_chatterd: Callable[..., Program], database_url: str) -> Asking:
    """A client of a chatterd with settings of the test's own."""

    @contextmanager
    def start(**settings: object) -> Iterator[Client]:
        client = Client(start_chatterd(database_url=database_url, **settings).url)
        with client.http:
            yield client

    return start


def test_silence_is_bridged_by_comments_and_what_then_comes_is_shown(asking: Asking, ollama: ScriptedOllama) -> None:
    gate, second = Gate(), Gate()
    ollama.script(gate, Head(), Lines(line("a")), second, Lines(last_line("b")))
    with asking(heartbeat_interval=0.05) as client, client.prompt("hi") as stream:
        assert [stream.comment() for _ in range(3)] == [": waiting"] * 3
        gate.open()
        event = stream.next()
        assert event is not None and event.json["message"]["content"] == "a"
        assert stream.comment() == ": waiting"
        second.open()
        assert shape(stream.rest()) == [(1, "message", "b")]


def test_silence_beyond_the_timeout_ends_the_reply(asking: Asking, ollama: ScriptedOllama, database_url: str) -> None:
    with asking(ollama_read_timeout=0.9) as client:
        ollama.script(Head(), Lines(line("half")), Gate())
        with client.prompt("hi") as stream:
            told = ended(stream, database_url)
        assert shape(told.events) == [(0, "message", "half"), (1, "error", "Ollama sent nothing for 0.9 seconds.")]
        assert (told.row["status"], told.row["error"]) == ("truncated", told.last_error)
        check_kept(client, told, "half")
        ollama.arrival(0).wait().closed.wait()
        client.appid += "-2"
        ollama.script(Gate())
        with client.prompt("hi") as stream:
            told = ended(stream, database_url)
        assert shape(told.events) == [(0, "error", "Ollama sent nothing for 0.9 seconds.")]
        assert told.row["status"] == "truncated"
        check_kept(client, told, None)
        ollama.arrival(1).wait().closed.wait()


def test_a_reply_beyond_its_time_ends_though_ollama_goes_on(
    asking: Asking, ollama: ScriptedOllama, database_url: str
) -> None:
    with asking(reply_timeout=0.9) as client:
        with client.prompt("hi", options={"num_predict": -1}) as stream:
            told = ended(stream, database_url)
        assert told.last_error == "The reply took longer than 0.9 seconds."
        assert (told.row["status"], told.row["error"]) == ("truncated", told.last_error)
        partial = "".join(event.json["message"]["content"] for event in told.events[:-1])
        assert partial.startswith("w0 w1 ")
        check_kept(client, told, partial)
        ollama.arrival(0).wait().closed.wait()


def test_a_line_beyond_the_limit_ends_the_reply(asking: Asking, ollama: ScriptedOllama, database_url: str) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Body(b"x" * 1001), Gate())
    with asking(max_line_bytes=1000) as client, client.prompt("hi") as stream:
        first = stream.next()
        assert first is not None and first.json["message"]["content"] == "a"
        gate.open()
        told = ended(stream, database_url)
        assert shape(told.events) == [(1, "error", "A line is longer than 1000 bytes.")]
        assert (told.row["status"], told.row["error"]) == ("failed", told.last_error)
        check_kept(client, told, "a")
        ollama.arrival(0).wait().closed.wait()


def test_one_reply_too_many_is_503_and_there_is_room_again_after_the_first(
    asking: Asking, ollama: ScriptedOllama
) -> None:
    gate = Gate()
    ollama.script(Head(), gate, Lines(last_line("a")))
    with asking(max_replies=1) as client:
        path = client.begin("hi")
        other = Client(str(client.http.base_url))
        with other.http:
            refused = other.http.post("/llmchat", json=other.body("me too"))
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) > 0
            assert "as many replies" in refused.json()["error"]
            assert other.messages() == []
            gate.open()
            client.view(path)
            assert other.ask("me too")[-1].json["done"] is True


def test_whitespace_is_collapsed_where_it_was_asked_for(asking: Asking, ollama: ScriptedOllama) -> None:
    lines = [line(" a \n"), line("\t b"), last_line("  ")]
    ollama.script(Head(), Lines(*lines))
    with asking(collapse_whitespace=True) as client:
        assert [event.data.encode() for event in client.ask("hi\n\n")] == lines
        assert client.messages() == [("user", "hi\n\n"), ("assistant", " a b ")]
