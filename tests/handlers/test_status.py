"""GET /status and /status/events: the measurements, the problems reported, and the watchers."""

from collections.abc import Callable
from contextlib import ExitStack

import httpx
import pytest

from relay.reporting.sampler import INTERVAL
from tests.client import Client
from tests.database import execute, rows
from tests.fakes.ollama import End, Gate, Head, Lines, ScriptedOllama, failure, last_line, line
from tests.fakes.proxy import CuttingProxy
from tests.program import Program
from tests.status_watcher import watch

Start = Callable[..., Program]


def test_page_has_a_content_security_policy(client: Client) -> None:
    response = client.http.get("/status")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    assert "chatterd status" in response.text
    assert client.http.post("/status/events").status_code == 405


def test_replies_viewers_and_lines_are_counted(
    start_chatterd: Start, ollama: ScriptedOllama, database_url: str
) -> None:
    end = Gate("the end")
    ollama.script(Head(), Lines(*(line(f"w{number} ") for number in range(7))), end, Lines(last_line()))
    program = start_chatterd(database_url=database_url)
    client = Client(program.url)
    with client.http, watch(program.url) as watcher:
        idle = watcher.until(lambda now: now["database"]["state"] == "ok")
        assert (idle["sample"]["replies"], idle["sample"]["viewers"], idle["totals"]["lines"]) == (0, 0, 0)
        assert idle["last_minute"]["line_latency_p50"] is None
        with client.prompt("hi") as stream, client.follow(f"/llmchat/{_running(client)}") as other:
            busy = watcher.until(lambda now: now["totals"]["lines"] == 7 and now["sample"]["viewers"] == 2)
            assert busy["sample"]["replies"] == 1
            assert busy["processes"] is not None
            end.open()
            assert len(stream.rest()) == len(other.rest()) == 8
        ended = watcher.until(lambda now: now["sample"]["replies"] == now["sample"]["viewers"] == 0)
    assert ended["totals"]["lines"] == 8
    assert ended["totals"]["begun"] == ended["totals"]["ended"]["done"] == 1
    assert 0 < ended["last_minute"]["line_latency_p50"] < 5
    assert 0 < ended["last_minute"]["journal_batch_p50"] < 5
    assert 0 <= ended["all"]["first_event_p50"] < 10
    assert ended["sample"]["memory"] > 10_000_000
    with watch(program.url) as again:
        past = again.next()
        newest = again.next()
    assert past is not None and past.name == "past" and newest is not None
    samples = [*past.json, newest.json["sample"]]
    assert max(sample["replies"] for sample in samples) == 1
    assert INTERVAL * sum(sample["lines"] for sample in samples) == pytest.approx(8, rel=0.3)


def _running(client: Client) -> str:
    reply = client.history()["reply"]
    return str(reply["id"])


def test_replies_are_counted_by_status(start_chatterd: Start, ollama: ScriptedOllama, database_url: str) -> None:
    ollama.script(failure(404, "model 'fake' not found"))
    ollama.script(Head(), Lines(line("a")), End())
    ollama.script(Head(), Lines(line("a"), b'{"error":"out of memory"}'))
    ollama.script(Head(), Lines(line("a")), Gate("never"))
    program = start_chatterd(database_url=database_url)
    with watch(program.url) as watcher, Client(program.url) as client:
        for _ in range(3):
            client.ask("hi")
        path = client.begin("hi")
        client.http.delete(path)
        client.view(path)
        client.ask("hi")
        event = watcher.until(lambda now: now["totals"]["ended"]["done"])
    assert event["totals"]["ended"] == {"done": 1, "stopped": 1, "failed": 2, "truncated": 1, "interrupted": 0}
    assert _messages(event) == ["In the last minute, 3 of 5 replies failed."]


def _messages(now: dict[str, object]) -> list[str]:
    problems = now["problems"]
    assert isinstance(problems, list)
    return [problem["message"] for problem in problems if problem["kind"] != "lag"]


@pytest.mark.extended
def test_adopter_counts_only_the_lines_that_it_committed(
    start_chatterd: Start, ollama: ScriptedOllama, database_url: str
) -> None:
    ollama.script(Head(), Lines(line("w0 "), line("w1 ")), Gate("never"))
    first, second = start_chatterd(database_url=database_url), start_chatterd(database_url=database_url)
    one, other = Client(first.url), Client(second.url)
    with one.http, other.http, watch(second.url) as watcher:
        path = one.begin("hi")
        with one.follow(path) as stream:
            assert [stream.next() is not None for _ in range(2)] == [True, True]
            listed = watcher.until(lambda now: now["processes"] and sum(p["replies"] for p in now["processes"]))
            assert len(listed["processes"]) == 2
            assert [p["replies"] for p in listed["processes"] if p["id"] == listed["process"]] == [0]
            assert all(p["age"] >= 0 for p in listed["processes"])
            first.kill()
        assert len(other.view(path)) == 6
        event = watcher.until(lambda now: now["totals"]["ended"]["done"])
        assert (event["totals"]["adopted"], event["totals"]["begun"], event["totals"]["lines"]) == (1, 0, 4)
        watcher.until(lambda now: now["processes"] and len(now["processes"]) == 1)


@pytest.mark.extended
@pytest.mark.expects_log("declared dead")
def test_reply_adopted_by_another_process_counts_as_handed_over(
    start_chatterd: Start, ollama: ScriptedOllama, database_url: str
) -> None:
    more = Gate("more words")
    ollama.script(Head(), Lines(line("w0 "), line("w1 ")), more, Lines(line("x ")), Gate("never"))
    program = start_chatterd(database_url=database_url)
    client = Client(program.url)
    with client.http, watch(program.url) as watcher, client.prompt("hi") as stream:
        assert [stream.next() is not None for _ in range(2)] == [True, True]
        before = watcher.until(lambda now: now["totals"]["lines"] == 2)
        execute(database_url, "DELETE FROM processes")
        more.open()
        assert len(stream.rest()) == 4
        event = watcher.until(lambda now: now["totals"]["ended"]["done"])
    assert (event["totals"]["handed_over"], event["totals"]["adopted"], event["totals"]["lines"]) == (1, 1, 6)
    assert event["process"] != before["process"]


@pytest.mark.expects_log("database", "presence session was lost", "pool connection floor", "declared dead")
@pytest.mark.parametrize("how", [pytest.param("cut", marks=pytest.mark.extended), "swallow"])
def test_unreachable_database_is_reported_until_it_is_reachable(
    start_chatterd: Start, database_url: str, how: str
) -> None:
    with CuttingProxy(database_url) as proxy:
        program = start_chatterd(database_url=proxy.url, acquire_timeout=1)
        with watch(program.url) as watcher:
            watcher.until(lambda now: now["database"]["state"] == "ok" and not _messages(now))
            getattr(proxy, how)()
            event = watcher.until(lambda now: now["database"]["state"] == "unreachable")
            [message] = _messages(event)
            assert message.startswith("The database has been unreachable for ")
            assert event["processes"] is None
            proxy.restore()
            back = watcher.until(lambda now: now["database"]["state"] == "ok")
            assert not _messages(back)
            assert [one["id"] for one in back["processes"]] == [back["process"]]


@pytest.mark.expects_log("database", "presence session was lost", "pool connection floor", "declared dead")
@pytest.mark.extended
def test_lines_delayed_by_the_database_are_counted_once_with_their_latency(
    start_chatterd: Start, ollama: ScriptedOllama, database_url: str
) -> None:
    cut, end = Gate("the cut"), Gate("the end")
    quick, late = [line(f"w{number} ") for number in range(6)], [line("w6 "), line("w7 ")]
    ollama.script(Head(), Lines(*quick), cut, Lines(*late), end, Lines(last_line()))
    with CuttingProxy(database_url) as proxy:
        program = start_chatterd(database_url=proxy.url, acquire_timeout=1)
        client = Client(program.url)
        with client.http, watch(program.url) as watcher, client.prompt("hi") as stream:
            watcher.until(lambda now: now["totals"]["lines"] == 6)
            proxy.cut()
            cut.open()
            end.reached.wait()
            unavailable = watcher.until(
                lambda now: now["database"]["state"] == "unreachable" and now["database"]["seconds"] > 3
            )
            assert (unavailable["totals"]["lines"], unavailable["sample"]["replies"]) == (6, 1)
            proxy.restore()
            back = watcher.until(lambda now: now["totals"]["lines"] == 8)
            end.open()
            assert len(stream.rest()) == 9
    assert back["last_minute"]["line_latency_p50"] < 1 < back["last_minute"]["line_latency_p99"]


def test_unreachable_ollama_is_reported(start_chatterd: Start, ollama: ScriptedOllama, database_url: str) -> None:
    program = start_chatterd(database_url=database_url)
    with watch(program.url) as watcher:
        watcher.until(lambda now: now["ollama"]["state"] == "ok")
        ollama.stop_listening()
        ollama.cut_connections()
        event = watcher.until(lambda now: now["ollama"]["state"] == "unreachable")
        assert _messages(event)[0].startswith("Ollama has been unreachable for ")
        ollama.listen_again()
        assert not _messages(watcher.until(lambda now: now["ollama"]["state"] == "ok"))


def test_events_contain_no_content_and_no_address(
    start_chatterd: Start, ollama: ScriptedOllama, database_url: str
) -> None:
    gate = Gate("the end")
    ollama.script(Head(), Lines(line("XSAIDX")), gate, Lines(last_line()))
    program = start_chatterd(database_url=database_url)
    client = Client(program.url, "XAPPIDX")
    with client.http, watch(program.url) as watcher, client.prompt("XPROMPTX", model="XMODELX") as stream:
        assert stream.next() is not None
        watcher.until(lambda now: now["processes"] and now["processes"][0]["replies"] == 1)
        gate.open()
        stream.rest()
    [row] = rows(database_url, "SELECT owner FROM processes")
    for secret in ("XSAIDX", "XAPPIDX", "XPROMPTX", "XMODELX", "127.0.0.1", "postgres", str(row["owner"])):
        assert secret.encode() not in watcher.seen


def test_reconnecting_watcher_receives_the_samples_that_it_missed(chatterd: Program) -> None:
    with watch(chatterd.url) as watcher:
        first = watcher.until(bool)["sample"]["time"]
        last = watcher.next()
        assert last is not None and last.name == "message" and last.json["sample"]["time"] > first
        key, _, number = last.id.partition("-")
        missed = watcher.until(bool)["sample"]["time"]
    with watch(chatterd.url, last.id) as watcher:
        event = watcher.next()
        assert event is not None and event.id.startswith(key)
        times = [sample["time"] for sample in (event.json if event.name == "past" else [event.json["sample"]])]
        assert times[0] == missed
    with watch(chatterd.url, f"{'0' * len(key)}-{number}") as watcher:
        event = watcher.next()
        assert event is not None and event.name == "past"
        assert first in [sample["time"] for sample in event.json]


def test_status_streams_end_when_the_server_drains(
    start_chatterd: Start, ollama: ScriptedOllama, database_url: str
) -> None:
    gate = Gate("the end")
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    program = start_chatterd(database_url=database_url, drain_timeout=30)
    client = Client(program.url)
    with ExitStack() as stack:
        stack.enter_context(client.http)
        watcher = stack.enter_context(watch(program.url))
        stream = stack.enter_context(client.prompt("hi"))
        assert stream.next() is not None
        watcher.until(lambda now: now["sample"]["replies"] == 1)
        program.process.terminate()
        event = watcher.until(lambda now: now["problems"])
        assert _messages(event) == ["This process is shutting down and accepts no new prompts."]
        gate.open()
        stream.rest()
        try:
            while watcher.next() is not None:
                pass
        except httpx.RemoteProtocolError as error:
            raise AssertionError("the stream was cut, not ended") from error
        assert program.wait() == 0
