"""Failures of Ollama after chatterd's 200: each is an event in the stream, and the reply's end is stored."""

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

ClientWith = Callable[..., AbstractContextManager[Client]]


@dataclass(frozen=True)
class EndedReply:
    """A reply that has ended: its events and its row."""

    events: list[Event]
    row: dict[str, Any]

    @property
    def last_error(self) -> str:
        assert self.events[-1].name == "error"
        return str(self.events[-1].json["error"])


def ended(stream: Stream, database_url: str) -> EndedReply:
    """Read a stream to its end and check that its reply is finished."""
    events = stream.rest()
    row = reply_row(database_url, stream.response.headers["Content-Location"])
    assert row["finished"] is not None
    return EndedReply(events, row)


def shape(events: list[Event]) -> list[tuple[int, str, str]]:
    """Each event as its number, its name, and its text."""
    return [
        (event.id, event.name, event.json["error"] if event.name == "error" else event.json["message"]["content"])
        for event in events
    ]


def check_stored(client: Client, reply: EndedReply, partial: str | None) -> None:
    """Check that the history has the prompt and, unless it is None, the partial reply with the seq that the row has."""
    messages = client.history()["messages"]
    assert [(message["role"], message["content"]) for message in messages] == [
        ("user", "hi"),
        *([("assistant", partial)] if partial is not None else []),
    ]
    assert reply.row["message_seq"] == (messages[-1]["seq"] if partial is not None else None)
    assert client.history()["reply"] is None


@pytest.fixture
def chatterd(chatterd_without_retries: Program) -> Program:
    """Return a chatterd that does not continue replies whose Ollama has died; test_retries.py is about the others."""
    return chatterd_without_retries


@pytest.fixture
def run_script(client: Client, ollama: ScriptedOllama, session_database_url: str) -> Callable[..., EndedReply]:
    """Run a script as the response to a prompt."""

    def run_script(*steps: Step) -> EndedReply:
        ollama.script(*steps)
        with client.prompt("hi") as stream:
            return ended(stream, session_database_url)

    return run_script


# An error line in the stream.


def test_an_error_line_at_the_end_is_the_last_event_and_the_partial_reply_is_stored(
    client: Client, run_script: Callable[..., EndedReply]
) -> None:
    reply = run_script(Head(), Lines(line("par"), line("tial"), b'{"error":"the \\"GPU\\" fell off"}'))
    assert shape(reply.events) == [(0, "message", "par"), (1, "message", "tial"), (2, "error", "the 'GPU' fell off")]
    assert (reply.row["status"], reply.row["error"]) == ("failed", 'the "GPU" fell off')
    check_stored(client, reply, "partial")


def test_an_error_line_alone_stores_no_message(client: Client, run_script: Callable[..., EndedReply]) -> None:
    reply = run_script(Head(), Lines(b'{"error":"out of memory"}'))
    assert shape(reply.events) == [(0, "error", "out of memory")]
    assert reply.row["status"] == "failed"
    check_stored(client, reply, None)


def test_lines_after_an_error_line_are_shown_and_may_complete_the_reply(
    client: Client, run_script: Callable[..., EndedReply]
) -> None:
    reply = run_script(Head(), Lines(line("a"), b'{"error":"hiccup"}', line("b"), last_line("c")))
    assert shape(reply.events) == [
        (0, "message", "a"),
        (1, "error", "hiccup"),
        (2, "message", "b"),
        (3, "message", "c"),
    ]
    assert (reply.row["status"], reply.row["error"]) == ("done", None)
    check_stored(client, reply, "abc")


def test_a_reply_without_done_after_an_error_line_and_content_is_truncated(
    client: Client, run_script: Callable[..., EndedReply]
) -> None:
    reply = run_script(Head(), Lines(b'{"error":"hiccup"}', line("b")))
    assert shape(reply.events)[:2] == [(0, "error", "hiccup"), (1, "message", "b")]
    assert len(reply.events) == 3 and "complete" in reply.last_error
    assert (reply.row["status"], reply.row["error"]) == ("truncated", reply.last_error)
    check_stored(client, reply, "b")


def test_an_error_line_is_kept_if_the_connection_is_then_lost(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a"), b'{"error":"crashed"}'), gate, Reset())
    with client.prompt("hi") as stream:
        first_events = [stream.next(), stream.next()]
        gate.open()
        reply = ended(stream, session_database_url)
    assert [event and event.name for event in first_events] == ["message", "error"]
    assert reply.row["status"] in ("failed", "truncated") and reply.row["error"]
    check_stored(client, reply, "a")


@pytest.mark.parametrize(
    ("error_line", "text"),
    [
        (b'{"error": {"message":"no \\"x\\"", "code":7}}', "{'message':'no 'x'', 'code':7}"),
        (b'{"error":"a\\u0000b\\ud800"}', "a\ufffdb\ufffd"),
        (b'{"error":false}', "false"),
    ],
)
def test_an_error_that_is_not_a_string_is_shown_as_json(
    client: Client, run_script: Callable[..., EndedReply], error_line: bytes, text: str
) -> None:
    reply = run_script(Head(), Lines(error_line))
    assert [event.name for event in reply.events] == ["error"]
    assert reply.last_error.replace("\\'", "'") == text
    assert reply.row["status"] == "failed"


# An error status.

NAME_NOT_ALLOWED = (
    "Ollama does so if it is asked by a name that it does not know (server/routes.go, allowedHostsMiddleware): set "
    "OLLAMA_HOST to its IP address here, or to 0.0.0.0 where it is started."
)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            failure(404, 'model "x" not found'),
            "model 'x' not found (Ollama answered 404 Not Found). Choose another model, or install it: "
            "`ollama pull x`.",
        ),
        (failure(400, "invalid option: \\o/"), "invalid option: \\o/ (Ollama answered 400 Bad Request)"),
        (failure(500, "llama runner died"), "llama runner died (Ollama answered 500 Internal Server Error)"),
        (failure(503, "server busy"), "server busy (Ollama answered 503 Service Unavailable)"),
        (Whole(403, b""), f"Ollama answered 403 Forbidden and gave no reason. {NAME_NOT_ALLOWED}"),
        (Whole(403, b" \r\n"), f"Ollama answered 403 Forbidden and gave no reason. {NAME_NOT_ALLOWED}"),
        (
            Whole(502, b'<html><a href="/">\n<h1>Bad Gateway</h1></html>', "text/html"),
            "The server at Ollama's address answered 502 Bad Gateway with a web page, 'Bad Gateway'. It may be a proxy "
            "that cannot reach Ollama: check that Ollama is running.",
        ),
        (Whole(500, b"\xff\x00"), "\ufffd\ufffd (Ollama answered 500 Internal Server Error)"),
        (
            Whole(301, b""),
            "The server at Ollama's address is not Ollama: it redirects to another address (301 Moved Permanently), as "
            "a login page does, or a server that wants https.",
        ),
        (Whole(599, b'{"error":""}'), "{'error':''} (Ollama answered 599)"),
        (Whole(429, b"[1]"), "[1] (Ollama answered 429 Too Many Requests). Try again in a while."),
        (Whole(400, line("not an answer")), None),
    ],
)
def test_an_error_response_is_shown_with_its_text_and_status(
    client: Client, run_script: Callable[..., EndedReply], answer: Whole, text: str | None
) -> None:
    reply = run_script(answer)
    assert [event.id for event in reply.events] == [0]
    assert reply.last_error == text or (text is None and "(Ollama answered 400 Bad Request)" in reply.last_error)
    assert reply.row["status"] == "failed"
    assert reply.row["error"].replace('"', "'") == reply.last_error
    check_stored(client, reply, None)


def test_an_error_response_may_arrive_in_pieces(client: Client, run_script: Callable[..., EndedReply]) -> None:
    reply = run_script(Head(404), Body(b'{"error":"mod'), Body(b'el gone"'), Body(b"}"))
    assert shape(reply.events) == [(0, "error", "model gone (Ollama answered 404 Not Found)")]


def test_a_long_error_response_is_cut(client: Client, run_script: Callable[..., EndedReply]) -> None:
    reply = run_script(Head(500), *[Body(b"x" * 50_000)] * 40)
    assert reply.last_error.startswith("xxxx") and 4_000 < len(reply.last_error) < 5_000
    assert reply.row["status"] == "failed"


def test_the_next_prompt_after_an_error_response_works(client: Client, run_script: Callable[..., EndedReply]) -> None:
    run_script(failure(404, "model 'x' not found"))
    assert client.ask("again")[-1].json["done"] is True
    assert [role for role, _ in client.messages()] == ["user", "user", "assistant"]


# No connection, or a lost one.


def test_an_unreachable_ollama_is_reported_and_prompts_work_again_when_it_is_back(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    ollama.stop_listening()
    ollama.cut_connections()
    with client.prompt("hi") as stream:
        reply = ended(stream, session_database_url)
    assert [event.id for event in reply.events] == [0]
    assert "Ollama cannot be reached" in reply.last_error
    assert (reply.row["status"], reply.row["error"]) == ("failed", reply.last_error)
    check_stored(client, reply, None)
    assert client.http.get("/healthz").status_code == 200
    ollama.listen_again()
    client.ask()
    assert client.messages() == [("user", "hi"), ("assistant", "w0 w1 w2 w3 w4 ")]


def test_a_response_without_done_is_reported_as_incomplete(
    client: Client, run_script: Callable[..., EndedReply]
) -> None:
    reply = run_script(Head(), Lines(line("half")), End())
    assert shape(reply.events)[0] == (0, "message", "half")
    assert len(reply.events) == 2 and "before it was complete" in reply.last_error
    assert (reply.row["status"], reply.row["error"]) == ("truncated", reply.last_error)
    check_stored(client, reply, "half")


@pytest.mark.parametrize("ending", [Close(), Reset()], ids=["closed", "reset"])
def test_a_connection_lost_in_mid_stream_keeps_the_partial_reply(
    client: Client, ollama: ScriptedOllama, session_database_url: str, ending: Step
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("half")), gate, ending)
    with client.prompt("hi") as stream:
        first = stream.next()
        gate.open()
        reply = ended(stream, session_database_url)
    assert first is not None and first.json["message"]["content"] == "half"
    assert len(reply.events) == 1 and "was lost" in reply.last_error
    assert (reply.row["status"], reply.row["error"]) == ("truncated", reply.last_error)
    check_stored(client, reply, "half")


@pytest.mark.parametrize("ending", [Close(), Reset()], ids=["closed", "reset"])
@pytest.mark.parametrize("before", [(), (Head(),)], ids=["before the head", "after the head"])
def test_a_connection_lost_before_the_first_line_keeps_the_prompt(
    client: Client, ollama: ScriptedOllama, session_database_url: str, before: tuple[Step, ...], ending: Step
) -> None:
    gate = Gate()
    ollama.script(*before, gate, ending)
    with client.prompt("hi") as stream:
        gate.reached.wait()
        gate.open()
        reply = ended(stream, session_database_url)
    assert [event.id for event in reply.events] == [0]
    assert "connection" in reply.last_error and "answered 0" not in reply.last_error
    assert reply.row["status"] in ("failed", "truncated")
    check_stored(client, reply, None)


def test_the_end_of_an_earlier_connection_does_not_affect_the_next_prompt(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    client.ask("hi")
    ollama.cut_connections()
    assert client.ask("again")[-1].json["done"] is True


def test_a_response_that_is_not_http_is_reported(client: Client, run_script: Callable[..., EndedReply]) -> None:
    reply = run_script(Send(b"SSH-2.0-OpenSSH_9.7\r\n"), Close())
    assert len(reply.events) == 1 and "Ollama" in reply.last_error and "answered 0" not in reply.last_error
    assert reply.row["status"] in ("failed", "truncated")
    check_stored(client, reply, None)


# Lines that cannot be decoded.

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
def test_an_unreadable_line_is_shown_as_an_error_and_the_stream_goes_on(
    client: Client, run_script: Callable[..., EndedReply], garbage: bytes
) -> None:
    reply = run_script(Head(), Lines(line("a"), garbage, line("b"), last_line("c")))
    names = [(event.id, event.name) for event in reply.events]
    assert names == [(0, "message"), (1, "error"), (2, "message"), (3, "message")]
    shown = reply.events[1].json["error"]
    expected = garbage.decode().replace('"', "'").replace("\0", "\ufffd")
    assert shown == expected or (len(expected) > 4096 and shown == expected[:4096] + " ...")
    assert (reply.row["status"], reply.row["error"]) == ("done", None)
    check_stored(client, reply, "abc")


def test_a_line_that_is_not_utf_8_is_shown_with_replacement_characters(
    client: Client, run_script: Callable[..., EndedReply]
) -> None:
    reply = run_script(Head(), Lines(b'{"model":"fake","message":{"content":"\xff\xc3"}}', last_line("c")))
    assert reply.events[0].json["error"] == "{'model':'fake','message':{'content':'\ufffd\ufffd'}}"
    assert reply.events[0].name == "error" and reply.row["status"] == "done"
    check_stored(client, reply, "c")


def test_a_long_unreadable_line_is_cut(client: Client, run_script: Callable[..., EndedReply]) -> None:
    reply = run_script(Head(), Body(b"x" * 5_000_000), Body(b"\n"), Lines(last_line("c")))
    assert reply.events[0].name == "error"
    assert reply.events[0].json["error"] == "x" * 4096 + " ..."
    assert reply.row["status"] == "done"


def test_a_response_of_unreadable_lines_only_is_reported_as_incomplete(
    client: Client, run_script: Callable[..., EndedReply]
) -> None:
    reply = run_script(Head(), Lines(b'{"object":"list"}', b"data: {}"))
    assert [event.json["error"] for event in reply.events][:2] == ["{'object':'list'}", "data: {}"]
    assert len(reply.events) == 3
    assert reply.last_error == (
        "None of the answer could be read. Check whether OLLAMA_HOST is the address of an Ollama."
    )
    assert reply.row["status"] == "truncated"
    check_stored(client, reply, None)


PAGE = b"""<!DOCTYPE html>
<html>
  <head><title>Sign in \xc2\xb7 Intranet</title></head>
  <body>
    <form action="/login"><input name="user"></form>
  </body>
</html>"""
PAGE_SENTENCE = "The server at Ollama's address is not Ollama: it answered with a web page, 'Sign in \xb7 Intranet'."


@pytest.mark.parametrize("kind", ["text/html", "application/x-ndjson"])
def test_a_web_page_is_one_error_that_names_its_title(
    client: Client, run_script: Callable[..., EndedReply], kind: str
) -> None:
    reply = run_script(Whole(200, PAGE, kind))
    assert shape(reply.events) == [(0, "error", PAGE_SENTENCE)]
    assert reply.row["status"] == "failed"
    assert reply.row["error"].replace('"', "'") == PAGE_SENTENCE
    check_stored(client, reply, None)


def test_a_web_page_among_lines_is_one_error_and_the_stream_goes_on(
    client: Client, run_script: Callable[..., EndedReply]
) -> None:
    reply = run_script(Head(), Lines(line("a"), *PAGE.splitlines(), line("b"), last_line("c")))
    assert shape(reply.events)[:3] == [(0, "message", "a"), (1, "error", PAGE_SENTENCE), (2, "message", "b")]
    assert reply.row["status"] == "done"
    check_stored(client, reply, "abc")


def test_an_empty_response_is_reported_as_incomplete(client: Client, run_script: Callable[..., EndedReply]) -> None:
    reply = run_script(Whole(200, b""))
    assert len(reply.events) == 1 and "complete" in reply.last_error
    assert reply.row["status"] == "truncated"
    check_stored(client, reply, None)


def test_an_incomplete_last_line_is_shown_and_the_reply_is_truncated(
    client: Client, run_script: Callable[..., EndedReply]
) -> None:
    reply = run_script(Head(), Lines(line("a")), Body(line("never seen")[:-5]), End())
    assert [event.name for event in reply.events] == ["message", "error", "error"]
    assert "never seen" in reply.events[1].json["error"] and "complete" in reply.last_error
    assert reply.row["status"] == "truncated"
    check_stored(client, reply, "a")


def test_lines_with_fields_of_unexpected_types_are_passed_on(
    client: Client, run_script: Callable[..., EndedReply]
) -> None:
    odd = [
        b'{"model":"fake","message":null,"done":false}',
        b'{"model":"fake","message":{"content":null,"tool_calls":null},"done":null}',
        b'{"model":"fake","message":{"content":7},"done":1}',
        b'{"error":null,"model":"fake","message":{"content":"x"},"done":false}',
    ]
    reply = run_script(Head(), Lines(*odd, last_line()))
    assert [event.data.encode() for event in reply.events[:-1]] == odd
    assert {event.name for event in reply.events} == {"message"}
    assert reply.row["status"] == "done"
    check_stored(client, reply, "x")


# Done.


def test_done_may_carry_content(client: Client, run_script: Callable[..., EndedReply]) -> None:
    reply = run_script(Head(), Lines(line("a"), last_line("z")))
    assert shape(reply.events) == [(0, "message", "a"), (1, "message", "z")]
    assert reply.row["status"] == "done"
    check_stored(client, reply, "az")


def test_lines_after_done_are_ignored(client: Client, run_script: Callable[..., EndedReply]) -> None:
    reply = run_script(Head(), Body(ndjson(line("a"), last_line("z"), line("no"), b"garbage", b'{"error":"late"}')))
    assert shape(reply.events) == [(0, "message", "a"), (1, "message", "z")]
    assert (reply.row["status"], reply.row["error"]) == ("done", None)
    check_stored(client, reply, "az")


def test_done_ends_the_reply_though_ollama_keeps_the_connection_open(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(last_line("z")), gate)
    with client.prompt("hi") as stream:
        gate.reached.wait()
        reply = ended(stream, session_database_url)
    assert shape(reply.events) == [(0, "message", "z")]
    assert reply.row["status"] == "done"
    check_stored(client, reply, "z")
    assert not ollama.generations[0].answered.happened


# Silence and limits, with other settings.


@pytest.fixture
def client_with(start_chatterd: Callable[..., Program], database_url: str) -> ClientWith:
    """Clients of a chatterd with the test's settings."""

    @contextmanager
    def start(**settings: object) -> Iterator[Client]:
        client = Client(start_chatterd(database_url=database_url, **settings).url)
        with client.http:
            yield client

    return start


def test_comments_are_sent_during_silence_and_later_lines_are_shown(
    client_with: ClientWith, ollama: ScriptedOllama
) -> None:
    gate, second = Gate(), Gate()
    ollama.script(gate, Head(), Lines(line("a")), second, Lines(last_line("b")))
    with client_with(heartbeat_interval=0.05) as client, client.prompt("hi") as stream:
        assert [stream.comment() for _ in range(3)] == [": waiting"] * 3
        gate.open()
        event = stream.next()
        assert event is not None and event.json["message"]["content"] == "a"
        assert stream.comment() == ": waiting"
        second.open()
        assert shape(stream.rest()) == [(1, "message", "b")]


def test_silence_beyond_the_timeout_ends_the_reply(
    client_with: ClientWith, ollama: ScriptedOllama, database_url: str
) -> None:
    with client_with(ollama_read_timeout=0.9, first_line_timeout=0.8) as client:
        ollama.script(Head(), Lines(line("half")), Gate())
        with client.prompt("hi") as stream:
            reply = ended(stream, database_url)
        assert shape(reply.events) == [(0, "message", "half"), (1, "error", "Ollama sent nothing for 0.9 seconds.")]
        assert (reply.row["status"], reply.row["error"]) == ("truncated", reply.last_error)
        check_stored(client, reply, "half")
        ollama.arrival(0).wait().closed.wait()
        client.appid += "-2"
        ollama.script(Gate())
        with client.prompt("hi") as stream:
            reply = ended(stream, database_url)
        assert shape(reply.events) == [(0, "error", "Ollama sent nothing for 0.8 seconds before the first line.")]
        assert reply.row["status"] == "truncated"
        check_stored(client, reply, None)
        ollama.arrival(1).wait().closed.wait()


def test_a_reply_beyond_its_timeout_ends_though_ollama_continues(
    client_with: ClientWith, ollama: ScriptedOllama, database_url: str
) -> None:
    with client_with(reply_timeout=0.9) as client:
        with client.prompt("hi", options={"num_predict": -1}) as stream:
            reply = ended(stream, database_url)
        assert reply.last_error == "The reply took longer than 0.9 seconds."
        assert (reply.row["status"], reply.row["error"]) == ("truncated", reply.last_error)
        partial = "".join(event.json["message"]["content"] for event in reply.events[:-1])
        assert partial.startswith("w0 w1 ")
        check_stored(client, reply, partial)
        ollama.arrival(0).wait().closed.wait()


def test_a_line_beyond_the_limit_ends_the_reply(
    client_with: ClientWith, ollama: ScriptedOllama, database_url: str
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Body(b"x" * 1001), Gate())
    with client_with(max_line_bytes=1000) as client, client.prompt("hi") as stream:
        first = stream.next()
        assert first is not None and first.json["message"]["content"] == "a"
        gate.open()
        reply = ended(stream, database_url)
        assert shape(reply.events) == [(1, "error", "A line is longer than 1000 bytes.")]
        assert (reply.row["status"], reply.row["error"]) == ("failed", reply.last_error)
        check_stored(client, reply, "a")
        ollama.arrival(0).wait().closed.wait()


def test_a_reply_beyond_the_limit_is_503_until_another_one_ends(
    client_with: ClientWith, ollama: ScriptedOllama
) -> None:
    gate = Gate()
    ollama.script(Head(), gate, Lines(last_line("a")))
    with client_with(max_replies=1) as client:
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


def test_whitespace_is_collapsed_if_the_setting_says_so(client_with: ClientWith, ollama: ScriptedOllama) -> None:
    lines = [line(" a \n"), line("\t b"), last_line("  ")]
    ollama.script(Head(), Lines(*lines))
    with client_with(collapse_whitespace=True) as client:
        assert [event.data.encode() for event in client.ask("hi\n\n")] == lines
        assert client.messages() == [("user", "hi\n\n"), ("assistant", " a b ")]
