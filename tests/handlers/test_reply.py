"""GET and DELETE /llmchat/{reply id}: resuming a reply after any line, and stopping it."""

import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
import ujson

from tests.client import Client, Event, Stream
from tests.database import reply_row
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, failure, last_line, line
from tests.program import Program

LINES = [line("a"), line("b"), b"garbage", line("c"), last_line("d")]


def texts(events: list[Event]) -> list[str]:
    return [event.json["error"] if event.name == "error" else event.json["message"]["content"] for event in events]


def take(stream: Stream, count: int) -> list[Event]:
    """Return the next ``count`` events; fail if there are fewer."""
    events = [event for event in (stream.next() for _ in range(count)) if event]
    assert len(events) == count
    return events


def status_of(client: Client, path: str, **query: str) -> int:
    return client.http.get(path, params=query).status_code


# Resuming.


@pytest.mark.parametrize("by", ["header", "query"])
def test_a_finished_reply_resumes_after_any_line(client: Client, ollama: ScriptedOllama, by: str) -> None:
    ollama.script(Head(), Lines(*LINES))
    path = client.begin("hi")
    whole = client.view(path)
    assert texts(whole) == ["a", "b", "garbage", "c", "d"]
    for last in range(len(whole) - 1):
        given = {"headers": {"Last-Event-ID": str(last)}} if by == "header" else {"params": {"lastEventId": str(last)}}
        with client.http.stream("GET", path, **given) as response:  # type: ignore[arg-type]
            assert Stream(response).rest() == whole[last + 1 :]


def test_a_running_reply_resumes_after_any_line(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(*LINES[:3]), gate, Lines(*LINES[3:]))
    path = client.begin("hi")
    with client.follow(path) as stream:
        first = take(stream, 3)
        for last in range(2):
            with client.follow(path, last) as again:
                assert take(again, 2 - last) == first[last + 1 :]
        with client.follow(path, 2) as waiting:
            gate.open()
            rest = waiting.rest()
        assert stream.rest() == rest
    assert texts(first + rest) == ["a", "b", "garbage", "c", "d"]


def test_the_header_takes_precedence_over_the_query(client: Client) -> None:
    path = client.begin("hi")
    client.view(path)
    response = client.http.get(path, params={"lastEventId": "0"}, headers={"Last-Event-ID": "4"})
    assert response.text.startswith("id: 5\n")


def test_a_resumed_reply_has_the_headers_of_an_event_stream(client: Client) -> None:
    path = client.begin("hi")
    with client.follow(path) as stream:
        headers = stream.response.headers
        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert headers["Cache-Control"] == "no-store, no-transform"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["Content-Location"] == path


def test_after_the_last_line_the_response_is_204(client: Client) -> None:
    path = client.begin("hi")
    last = client.view(path)[-1].id
    for number in (last, last + 1, last + 1000):
        response = client.http.get(path, headers={"Last-Event-ID": str(number)})
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["Cache-Control"] == "no-store"
    assert status_of(client, path, lastEventId=str(last)) == 204


def test_a_viewer_of_a_running_reply_waits_for_the_next_line(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    path = client.begin("hi")
    gate.reached.wait()
    with client.follow(path, 0) as stream:
        gate.open()
        assert [(event.id, event.json["message"]["content"]) for event in stream.rest()] == [(1, "b")]


@pytest.mark.parametrize(
    "text", ["x", "-1", "1.5", "1e3", "0x1", "١", "1 2", "9" * 19, "9" * 5000, "null", "+1", "1_0"]
)
def test_an_invalid_last_event_id_is_400(client: Client, text: str) -> None:
    path = client.begin("hi")
    client.view(path)
    response = client.http.get(path, params={"lastEventId": text})
    assert response.status_code == 400
    assert "Last-Event-ID" in response.json()["error"]
    if text.isascii():
        assert client.http.get(path, headers={"Last-Event-ID": text}).status_code == 400


def test_an_empty_last_event_id_streams_the_whole_reply(client: Client) -> None:
    path = client.begin("hi")
    whole = client.view(path)
    with client.http.stream("GET", path, headers={"Last-Event-ID": ""}) as response:
        assert Stream(response).rest() == whole


@pytest.mark.parametrize(
    "id", ["00000000-0000-4000-8000-000000000000", "nope", "0", "%00", "%FF", "a%2Fb", "-" * 36, "x" * 5000, "é"]
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_reply_is_404(client: Client, method: str, id: str) -> None:
    response = client.http.request(method, f"/llmchat/{id}")
    assert response.status_code in ((404,) if id != "%FF" else (400, 404))
    assert "error" in response.json()


def test_every_viewer_receives_the_whole_reply(client: Client, ollama: ScriptedOllama) -> None:
    gates = [Gate(), Gate()]
    ollama.script(Head(), Lines(line("a")), gates[0], Lines(line("b")), gates[1], Lines(last_line("c")))
    path = client.begin("hi")
    received: list[list[str]] = []

    def view() -> None:
        own = Client(str(client.http.base_url))
        with own.http:
            received.append(texts(own.view(path)))

    viewers = [threading.Thread(target=view) for _ in range(8)]
    for viewer in viewers[:4]:
        viewer.start()
    gates[0].open()
    for viewer in viewers[4:]:
        viewer.start()
    gates[1].open()
    for viewer in viewers:
        viewer.join()
    assert received == [["a", "b", "c"]] * 8


def test_closing_a_connection_does_not_stop_a_reply(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    with client.prompt("hi") as stream:
        take(stream, 1)
        path = stream.response.headers["Content-Location"]
        for _ in range(3):
            with client.follow(path) as viewer:
                take(viewer, 1)
    with client.follow(path) as viewer:
        gate.open()
        assert texts(viewer.rest()) == ["a", "b"]
    ollama.arrival(0).wait().answered.wait()
    assert client.messages()[-1] == ("assistant", "ab")


# Stopping.


def check_stopped(client: Client, database_url: str, path: str, events: list[Event], partial: str | None) -> None:
    """The stream ended with a line with done_reason ``stopped``, and the partial text is stored."""
    last = events[-1]
    assert last.name == "message"
    assert (last.json["done"], last.json["done_reason"], last.json["model"]) == (True, "stopped", "fake")
    assert last.json["message"] == {"role": "assistant", "content": ""}
    assert [event.id for event in events] == list(range(events[0].id, events[0].id + len(events)))
    row = reply_row(database_url, path)
    assert (row["status"], row["error"], row["message_seq"] is None) == ("stopped", None, partial is None)
    assert client.messages() == [("user", "hi"), *([("assistant", partial)] if partial is not None else [])]
    assert client.history()["reply"] is None


def test_stopping_closes_the_connection_to_ollama_and_keeps_the_text(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    ollama.script(Head(), Lines(line("par"), line("tial ")), Gate())
    with client.prompt("hi") as stream:
        take(stream, 2)
        path = stream.response.headers["Content-Location"]
        stopped = client.http.delete(path)
        assert (stopped.status_code, stopped.content) == (202, b"")
        assert "Content-Type" not in stopped.headers
        ollama.arrival(0).wait().closed.wait()
        rest = stream.rest()
    assert [event.id for event in rest] == [2]
    check_stopped(client, session_database_url, path, rest, "partial ")
    assert client.view(path)[2:] == rest
    assert client.http.delete(path).status_code == 204
    assert client.ask("next")[-1].json["done"] is True


@pytest.mark.parametrize("before", [(), (Head(),)], ids=["before the head", "after the head"])
def test_stopping_before_the_first_line_closes_the_connection_to_ollama(
    client: Client, ollama: ScriptedOllama, session_database_url: str, before: tuple[Head, ...]
) -> None:
    gate = Gate()
    ollama.script(*before, gate)
    path = client.begin("hi")
    gate.reached.wait()
    with client.follow(path) as stream:
        assert client.http.delete(path).status_code == 202
        ollama.arrival(0).wait().closed.wait()
        events = stream.rest()
    assert [event.id for event in events] == [0]
    check_stopped(client, session_database_url, path, events, None)


@pytest.mark.parametrize("before", [(), (Head(),)], ids=["before the head", "after the head"])
def test_stopping_before_the_first_line_does_not_retry_the_request_to_ollama(
    client: Client, ollama: ScriptedOllama, before: tuple[Head, ...]
) -> None:
    client.ask("one")  # its connection is kept alive
    gate = Gate()
    ollama.script(*before, gate)
    path = client.begin("two")
    gate.reached.wait()
    assert client.http.delete(path).status_code == 202
    ollama.arrival(1).wait().closed.wait()
    client.view(path)
    client.ask("three")
    assert [request.json["messages"][-1]["content"] for request in ollama.generations] == ["one", "two", "three"]


def test_stopping_immediately_after_the_begin_ends_the_reply(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    ollama.default = (Gate(),)
    for _ in range(20):
        path = client.begin("hi")
        assert client.http.delete(path).status_code == 202
        check_stopped(client, session_database_url, path, client.view(path), None)
        assert client.http.delete("/llmchat", params={"appID": client.appid}).status_code == 204
    for request in ollama.generations:
        request.closed.wait()


def test_stopping_is_idempotent(client: Client, ollama: ScriptedOllama, session_database_url: str) -> None:
    ollama.script(Head(), Lines(line("x")), Gate())
    with client.prompt("hi") as stream:
        take(stream, 1)
        path = stream.response.headers["Content-Location"]
        assert client.http.delete(path).status_code == 202
        assert client.http.delete(path).status_code in (202, 204)
        check_stopped(client, session_database_url, path, stream.rest(), "x")


def test_stopping_a_reply_that_has_ended_is_204_and_changes_nothing(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    ollama.script(failure(404, "no such model"))
    for prompt in ("one", "two"):
        path = client.begin(prompt)
        client.view(path)
        before = reply_row(session_database_url, path)
        assert client.http.delete(path).status_code == 204
        assert reply_row(session_database_url, path) == before


# After a restart, and without the reply's log.


def check_from_the_database(client: Client, path: str, text: str | None, error: str | None) -> None:
    """A reply without its log is one line with the whole text, and its error if it failed."""
    events = client.view(path)
    messages = [event for event in events if event.name == "message"]
    assert texts(messages) == ([text] if text is not None else [])
    assert [event.id for event in events] == list(range(len(events)))
    assert texts([event for event in events if event.name == "error"]) == ([error] if error else [])
    assert events[-1].name == "error" or events[-1].json["done"] is True
    assert {event.json["model"] for event in messages} <= {"fake"}
    assert status_of(client, path, lastEventId="7") == 204
    assert client.http.delete(path).status_code == 204


def make_replies(client: Client, ollama: ScriptedOllama) -> dict[str, tuple[str | None, str | None]]:
    """Generate replies of every outcome; return the text and error of each by its path."""
    ollama.script(Head(), Lines(line(" a\n"), line("b "), last_line("c\0\u2028")))
    ollama.script(Head(), Lines(line("half"), b'{"error":"the \\"GPU\\" fell off"}'))
    ollama.script(failure(404, "model not found"))
    ollama.script(Head(), Lines(last_line()))
    ends = [
        (" a\nb c\ufffd\u2028", None),
        ("half", "the 'GPU' fell off"),
        (None, "model not found (Ollama answered 404 Not Found)"),
        ("", None),
    ]
    replies: dict[str, tuple[str | None, str | None]] = {}
    for text, error in ends:
        path = client.begin("hi")
        client.view(path)
        replies[path] = (text, error)
    ollama.script(Head(), Lines(line("sto")), Gate())
    path = client.begin("hi")
    with client.follow(path) as stream:
        take(stream, 1)
        client.http.delete(path)
        stream.rest()
    return replies | {path: ("sto", None)}


def test_a_finished_reply_is_unchanged_after_a_restart(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    first = start_chatterd(database_url=database_url)
    client = Client(first.url)
    with client.http:
        before = {path: client.view(path) for path in make_replies(client, ollama)}
        history = client.history()
    assert first.terminate() == 0
    again = Client(start_chatterd(database_url=database_url).url, client.appid)
    with again.http:
        for path, events in before.items():
            assert again.view(path) == events
            assert again.view(path, last_event_id=0) == events[1:] if len(events) > 1 else True
            assert status_of(again, path, lastEventId=str(events[-1].id)) == 204
        assert again.history() == history


@pytest.fixture(scope="module")
def without_logs(new_database: Callable[[], str], _session_ollama: ScriptedOllama) -> Iterator[Program]:
    """A chatterd that keeps no log of a finished reply."""
    settings: dict[str, object] = {"ollama_host": _session_ollama.url, "embedded_model": False, "drain_timeout": 1}
    with Program(database_url=new_database(), reply_log_retention=0, **settings) as program:
        yield program
        assert program.alarms([]) == []


def test_without_its_log_a_finished_reply_is_one_line_with_the_whole_text(
    without_logs: Program, ollama: ScriptedOllama
) -> None:
    with Client(without_logs.url) as client:
        for path, (text, error) in make_replies(client, ollama).items():
            check_from_the_database(client, path, text, error)


def test_without_its_log_a_finished_reply_cannot_be_resumed(without_logs: Program, ollama: ScriptedOllama) -> None:
    with Client(without_logs.url) as client:
        for path in make_replies(client, ollama):
            assert [status_of(client, path, lastEventId=str(last)) for last in (0, 1, 2)] == [204] * 3


def test_without_its_log_a_finished_reply_has_its_thinking_and_tool_calls(
    without_logs: Program, ollama: ScriptedOllama
) -> None:
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    ollama.script(Head(), Lines(line(message={"thinking": "hm"}), last_line("", message={"tool_calls": [call]})))
    with Client(without_logs.url) as client:
        path = client.begin("hi")
        client.view(path)
        [event] = client.view(path)
    assert event.json["message"] == {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]}


def test_a_reply_continues_after_its_process_was_killed(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    ollama.script(Head(), Lines(line("w0 ")), Gate())
    first = start_chatterd(database_url=database_url)
    client = Client(first.url)
    with client.http:
        path = client.begin("hi")
        with client.follow(path) as stream:
            take(stream, 1)
            first.kill()
    again = Client(start_chatterd(database_url=database_url).url, client.appid)
    with again.http:
        events = again.view(path, last_event_id=0)
        assert [event.id for event in events] == list(range(1, 6))
        assert reply_row(database_url, path)["status"] == "done"
        assert again.history()["reply"] is None
        assert again.messages() == [("user", "hi"), ("assistant", "w0 w1 w2 w3 w4 ")]


def test_a_running_reply_is_released_at_sigterm(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    ollama.script(Head(), Lines(line("w0 ")), Gate())
    program = start_chatterd(database_url=database_url, drain_timeout=0)
    client = Client(program.url)
    with client.http, client.prompt("hi") as stream:
        take(stream, 1)
        assert program.terminate() == 0
        with pytest.raises(httpx.RemoteProtocolError):  # an incomplete response makes the client reconnect
            stream.rest()
        path = stream.response.headers["Content-Location"]
    row = reply_row(database_url, path)
    assert (row["status"], row["owner"]) == ("streaming", None)
    ollama.arrival(0).wait().closed.wait()
    again = Client(start_chatterd(database_url=database_url).url, client.appid)
    with again.http:
        again.view(path)
        assert again.messages() == [("user", "hi"), ("assistant", "w0 w1 w2 w3 w4 ")]


def test_a_generated_last_line_has_ollamas_fields(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Gate())
    path = client.begin("hi")
    client.http.delete(path)
    [event] = client.view(path)
    last = ujson.loads(event.data)
    assert set(last) == {"model", "created_at", "message", "done", "done_reason"}
