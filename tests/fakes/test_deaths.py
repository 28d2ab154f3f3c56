"""Deaths of the scripted Ollama: as steps of a script, and planned by the numbers of generation and line."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from .ollama import (
    RUNNER_DIED,
    Death,
    End,
    Gate,
    Head,
    Lines,
    OllamaDies,
    Repeats,
    RunnerDies,
    ScriptedOllama,
    Step,
    Words,
    line,
    no_backend,
)

SOME = (Head(), Lines(line("a"), line("b")))


def ask(fake: ScriptedOllama) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    return httpx.post(f"{fake.url}/api/chat", json=body, trust_env=False, verify=False)


def received(fake: ScriptedOllama) -> bytes:
    """Return all bytes of an answer whose connection is reset."""
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    got = b""
    with socket.create_connection(("127.0.0.1", fake.port), timeout=10) as client:
        client.sendall(b"POST /api/chat HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        with pytest.raises(ConnectionResetError):
            while piece := client.recv(65536):
                got += piece
    return got


def lines(response: httpx.Response) -> list[Any]:
    return [json.loads(one) for one in response.text.splitlines()]


def test_a_runner_that_dies_says_so_in_a_line_and_the_answer_ends_cleanly(fake: ScriptedOllama) -> None:
    fake.script(*SOME, RunnerDies())
    response = ask(fake)
    assert response.status_code == 200
    assert lines(response)[2:] == [{"error": "an error was encountered while running the model: unexpected EOF"}]
    fake.arrival(0).wait().answered.wait()
    assert ask(fake).status_code == 200, "the next request starts a new runner"


def test_a_runner_that_dies_before_the_first_line_is_a_500(fake: ScriptedOllama) -> None:
    fake.script(RunnerDies())
    response = ask(fake)
    assert (response.status_code, response.json()) == (500, {"error": RUNNER_DIED})


def test_a_runner_can_be_killed_under_all_its_answers(fake: ScriptedOllama) -> None:
    gates = [Gate(), Gate()]
    fake.script(*SOME, gates[0])
    fake.script(Words(hold={3: gates[1]}))
    with ThreadPoolExecutor(2) as threads:
        answers = []
        for gate in gates:
            answers.append(threads.submit(ask, fake))
            gate.reached.wait()
        fake.kill_runner()
        for answer, count in zip(answers, (2, 3), strict=True):
            *said, last = lines(answer.result())
            assert (len(said), last) == (count, {"error": RUNNER_DIED})
    assert lines(ask(fake))[-1]["done"]


@pytest.mark.parametrize("broken", [b"", b'{"model":"m","mess'])
def test_an_ollama_that_dies_breaks_everything_until_it_listens_again(fake: ScriptedOllama, broken: bytes) -> None:
    gate = Gate()
    fake.script(Head(), gate)
    fake.script(*SOME, OllamaDies(broken))
    with socket.create_connection(("127.0.0.1", fake.port), timeout=10) as other:
        other.sendall(b"POST /api/chat HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
        gate.reached.wait()
        got = received(fake)
        assert got.count(b'"content":"') == 2 and got.endswith(broken + b"\r\n")
        with pytest.raises(ConnectionResetError):
            while other.recv(65536):
                pass
    with pytest.raises(httpx.ConnectError):
        ask(fake)
    assert not fake.listening
    fake.listen_again()
    assert ask(fake).status_code == 200


def test_an_ollama_that_dies_has_no_model_loaded(fake: ScriptedOllama) -> None:
    ask(fake)
    fake.die()
    fake.listen_again()
    assert httpx.get(f"{fake.url}/api/ps", trust_env=False, verify=False).json() == {"models": []}
    ask(fake)
    assert len(fake.runner.loads) == 2


def test_an_ollama_that_dies_can_be_back_by_itself(fake: ScriptedOllama) -> None:
    fake.script(OllamaDies(back_after=0.05))
    with pytest.raises(httpx.ReadError):
        ask(fake)
    while not fake.listening:
        time.sleep(0.01)
    assert ask(fake).status_code == 200


@pytest.mark.parametrize("status", [502, 503])
def test_a_proxy_without_backend_answers_a_page(fake: ScriptedOllama, status: int) -> None:
    fake.script(no_backend(status))
    response = ask(fake)
    assert (response.status_code, response.headers["Content-Type"]) == (status, "text/html")
    assert response.text.startswith(f"<html><body><h1>{status} ")


def test_a_model_that_repeats_itself_ends_cleanly_without_done(fake: ScriptedOllama) -> None:
    fake.script(*SOME, Repeats("b"))
    assert [one["message"]["content"] for one in lines(ask(fake))] == ["a", *["b"] * 32]
    fake.script(Repeats())
    assert not any(one["done"] for one in lines(ask(fake)))


def test_deaths_are_planned_by_generation_and_line(fake: ScriptedOllama) -> None:
    fake.deaths = {0: Death(2, RunnerDies()), 2: Death(0, no_backend()), 3: Death(4, End()), 5: Death(99, RunnerDies())}
    fake.script(*SOME, Lines(line("never")))
    assert [one.get("error") for one in lines(ask(fake))] == [None, None, RUNNER_DIED]
    assert lines(ask(fake))[-1]["done"]
    assert ask(fake).status_code == 503
    assert [one["message"]["content"] for one in lines(ask(fake))] == ["w0 ", "w1 ", "w2 ", "w3 "]
    assert lines(ask(fake))[-1]["done"] and lines(ask(fake))[-1]["done"]
    fake.forget()
    assert lines(ask(fake))[-1]["done"]


@pytest.mark.parametrize("model", [Words(), Words(pause=0.001)])
def test_a_planned_death_of_all_comes_after_exactly_so_many_lines(fake: ScriptedOllama, model: Step) -> None:
    fake.default = (model,)
    fake.deaths = {0: Death(3, OllamaDies(b'{"mo'))}
    got = received(fake)
    assert got.count(b"\n") - got.count(b"\r\n") == 3 and got.endswith(b'{"mo\r\n')
    assert not fake.listening
