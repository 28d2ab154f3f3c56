"""The scripted Ollama keeps its word: bytes, pauses, ends, and what it tells of its clients."""

import asyncio
import http.client
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import ollama as official
import pytest

from .ollama import (
    Answer,
    Body,
    Close,
    Gate,
    Head,
    Lines,
    Reset,
    ScriptedOllama,
    Send,
    Step,
    Words,
    failure,
    last_line,
    line,
    ndjson,
)


@pytest.fixture
def client(fake: ScriptedOllama) -> Iterator[http.client.HTTPConnection]:
    """A client that keeps its connection alive, and connects again if it is gone."""
    with closing(http.client.HTTPConnection("127.0.0.1", fake.port, timeout=10)) as client:
        yield client


def ask(client: http.client.HTTPConnection, *messages: str, **more: Any) -> http.client.HTTPResponse:
    """Post a chat; the messages are a user's and the assistant's in turn."""
    roles = itertools.cycle(["user", "assistant"])
    said = [{"role": role, "content": content} for role, content in zip(roles, messages, strict=False)]
    client.request("POST", "/api/chat", json.dumps({"model": "m", "messages": said} | more))
    return client.getresponse()


def text(body: bytes) -> str:
    return "".join(json.loads(one)["message"]["content"] for one in body.splitlines())


def open_raw(fake: ScriptedOllama) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", fake.port), timeout=10)
    client.sendall(b"POST /api/chat HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
    return client


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def test_the_client_gets_exactly_the_bytes_of_the_script(fake: ScriptedOllama) -> None:
    fake.script(Send(b"HTTP/1.1 200 \xff\r\n"), Send(b"\x00"), Close())
    with open_raw(fake) as client:
        assert read_all(client) == b"HTTP/1.1 200 \xff\r\n\x00"


def test_each_write_of_a_chunked_body_is_a_chunk(fake: ScriptedOllama) -> None:
    fake.script(Head(headers={}), Lines(b"{}"), Body(b"half"), Close())
    with open_raw(fake) as client:
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"
    assert body == b"3\r\n{}\n\r\n4\r\nhalf\r\n"


def test_a_gate_holds_the_answer_until_it_is_opened(fake: ScriptedOllama, client: http.client.HTTPConnection) -> None:
    gate = Gate()
    fake.script(Head(), Lines(line("a")), gate, Lines(last_line()))
    response = ask(client, "hi")
    gate.reached.wait()
    first = response.readline()
    request = fake.arrival(0).wait()
    assert (first, request.sent > len(first), request.answered.happened) == (ndjson(line("a")), True, False)
    gate.open()
    assert response.read() == ndjson(last_line())
    request.answered.wait()
    assert not request.closed.happened


def test_a_coroutine_can_await_what_a_thread_can_wait_for(fake: ScriptedOllama) -> None:
    async def scenario() -> bytes:
        gate = Gate()
        fake.script(Send(b"a"), gate, Send(b"b"))
        reader, writer = await asyncio.open_connection("127.0.0.1", fake.port)
        writer.write(b"POST / HTTP/1.1\r\n\r\n")
        request = await fake.arrival(0)
        await gate.reached
        assert request.sent == 1
        gate.open()
        await request.answered
        whole = await reader.read()
        writer.close()
        return whole

    assert asyncio.run(scenario()) == b"ab"


def test_what_does_not_happen_in_time_fails_and_says_what(fake: ScriptedOllama) -> None:
    with pytest.raises(TimeoutError, match="request 7 arrived"):
        fake.arrival(7).wait(0.01)
    with pytest.raises(TimeoutError, match="request 7 arrived"):
        asyncio.run(fake.arrival(7).within(0.01))


def test_requests_are_recorded_and_probes_use_up_no_script(
    fake: ScriptedOllama, client: http.client.HTTPConnection
) -> None:
    fake.script(failure(404, "model 'm' not found"))
    client.request("GET", "/api/version")
    assert json.loads(client.getresponse().read()) == {"version": "0.0.0-fake"}
    response = ask(client, "hi", options={"seed": 1})
    assert (response.status, response.read()) == (404, b'{"error":"model \'m\' not found"}')
    [request], [probe] = fake.requests, fake.probes
    assert (request.method, request.path, probe.path) == ("POST", "/api/chat", "/api/version")
    assert request.headers["host"] == f"127.0.0.1:{fake.port}"
    assert request.json["options"] == {"seed": 1}


def test_scripts_are_played_in_order_on_one_connection_and_then_the_default(
    fake: ScriptedOllama, client: http.client.HTTPConnection
) -> None:
    fake.script(Head(), Lines(last_line("one")))
    fake.script(Head(), Lines(last_line("two")))
    assert [text(ask(client, "hi").read()) for _ in range(3)] == ["one", "two", "w0 w1 w2 w3 w4 "]


@pytest.mark.parametrize("before", [(), (Head(), Lines(line("a")))], ids=["before the first byte", "after it"])
def test_a_client_that_closes_is_noticed_while_the_answer_is_held(
    fake: ScriptedOllama, before: tuple[Step, ...]
) -> None:
    gate = Gate()
    fake.script(*before, gate)
    with open_raw(fake):
        gate.reached.wait()
        assert not fake.requests[0].closed.happened
    fake.requests[0].closed.wait()
    assert bool(fake.requests[0].sent) == bool(before)
    assert not fake.requests[0].answered.happened


def test_a_client_that_closes_stops_a_model_that_never_ends(
    fake: ScriptedOllama, client: http.client.HTTPConnection
) -> None:
    ask(client, "hi", options={"num_predict": -1}).close()
    client.close()
    fake.arrival(0).wait().closed.wait()


def test_an_answer_can_break_or_stop_short(fake: ScriptedOllama) -> None:
    fake.script(Head(), Lines(line("a")), Reset())
    with open_raw(fake) as client, pytest.raises(ConnectionResetError):
        read_all(client)
    fake.script(Head(), Lines(line("a")), Close())
    with open_raw(fake) as client:
        assert read_all(client).endswith(ndjson(line("a")) + b"\r\n")


def test_an_unchunked_answer_ends_with_the_connection(fake: ScriptedOllama, client: http.client.HTTPConnection) -> None:
    fake.script(Head(chunked=False), Lines(last_line("a")))
    response = ask(client, "hi")
    assert (response.getheader("Connection"), response.read()) == ("close", ndjson(last_line("a")))


def test_the_model_says_numbered_words_one_per_line(fake: ScriptedOllama, client: http.client.HTTPConnection) -> None:
    *words, last = map(json.loads, ask(client, "hi", options={"num_predict": 3}).read().splitlines())
    assert [word["message"] for word in words] == [
        {"role": "assistant", "content": f"w{number} "} for number in range(3)
    ]
    assert {word["done"] for word in words} == {False}
    assert (last["done"], last["done_reason"], last["eval_count"], last["model"]) == (True, "length", 3, "m")


@pytest.mark.parametrize("so_far", ["", "w0 ", "w0 w1 w2 ", "w0 w1 w2 w3 w4 "])
def test_the_model_goes_on_from_a_last_assistant_message(
    fake: ScriptedOllama, client: http.client.HTTPConnection, so_far: str
) -> None:
    assert so_far + text(ask(client, "hi", so_far).read()) == "w0 w1 w2 w3 w4 "


def test_the_model_can_be_held_before_a_word(fake: ScriptedOllama, client: http.client.HTTPConnection) -> None:
    gate = Gate()
    fake.script(Words(hold={2: gate}))
    response = ask(client, "hi")
    gate.reached.wait()
    assert text(response.readline() + response.readline()) == "w0 w1 "
    gate.open()
    assert text(response.read()) == "w2 w3 w4 "


def test_the_official_client_reads_it(fake: ScriptedOllama) -> None:
    hello = [{"role": "user", "content": "hi"}]
    with closing(official.Client(fake.url)) as client:
        [model] = client.list().models
        assert model.model == "fake"
        *_, last = client.chat("m", hello, stream=True)
        assert last.done and last.eval_count == 5
        assert client.chat("m", hello).message.content == "w0 w1 w2 w3 w4 "
        assert client.generate("m", "hi").response == "w0 w1 w2 w3 w4 "


def test_it_can_refuse_connections_and_come_back_on_the_same_port(
    fake: ScriptedOllama, client: http.client.HTTPConnection
) -> None:
    for _ in range(3):
        fake.stop_listening()
        client.close()
        with pytest.raises(ConnectionRefusedError):
            client.connect()
        fake.listen_again()
        assert text(ask(client, "hi").read()) == "w0 w1 w2 w3 w4 "


def test_it_can_die_under_its_clients(fake: ScriptedOllama) -> None:
    gate = Gate()
    fake.script(Head(), gate)
    with open_raw(fake) as client:
        gate.reached.wait()
        fake.stop_listening()
        fake.cut_connections()
        with pytest.raises(ConnectionResetError):
            read_all(client)


class Broken(Step):
    async def play(self, answer: Answer) -> None:
        raise ZeroDivisionError("a broken step")


def test_what_goes_wrong_in_its_thread_fails_the_test_on_exit() -> None:
    with pytest.raises(ZeroDivisionError, match="a broken step"), ScriptedOllama() as fake:
        fake.script(Broken())
        with open_raw(fake) as client:
            read_all(client)


def test_what_goes_wrong_in_its_thread_does_not_hide_why_the_test_failed() -> None:
    with pytest.raises(LookupError) as failure, ScriptedOllama() as fake:
        fake.script(Broken())
        with open_raw(fake) as client:
            read_all(client)
        raise LookupError
    assert "a broken step" in failure.value.__notes__[0]


@pytest.mark.parametrize("steps", [(), (Close(), Send(b"a")), (failure(404, "no"), Lines(line("a")))])
def test_a_script_that_makes_no_sense_is_refused_at_once(fake: ScriptedOllama, steps: tuple[Step, ...]) -> None:
    with pytest.raises(ValueError, match="none after the answer's end"):
        fake.script(*steps)


def test_nothing_is_left_of_it_on_exit() -> None:
    def count() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    with ScriptedOllama() as fake:
        gate = Gate()
        fake.script(Head(), gate)
        client = open_raw(fake)
        gate.reached.wait()
    assert count() == (before[0], before[1] + 1)  # the client's own socket
    client.close()
    gate.open()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", fake.port))
