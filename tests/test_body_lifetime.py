"""A request's body is in memory only until it is sent: it is counted until then, and no reference cycle holds it after."""

import base64
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import Close, Gate, Head, Lines, ScriptedOllama, Send, failure, last_line, line
from tests.program import Program
from tests.web.test_overload import resident

IMAGE = base64.b64encode(os.urandom(7_500_000)).decode()
"""10 MB of a kind that PostgreSQL cannot compress."""

RUNNING = (Head(), Lines(line("a")))


class Garbage(Program):
    """The program, which reports what only the cyclic garbage collector frees."""

    command = ("-m", "tests.garbage")
    reports = 0

    def garbage(self) -> str:
        """Return the kinds of objects that only the collector frees, with their numbers; ``none`` if there are none."""
        self.reports += 1
        self.process.send_signal(signal.SIGUSR1)
        eventually("a report", lambda: self.log.count("garbage: ") == self.reports)
        return self.log.rpartition("garbage: ")[2].partition("\n")[0]


@pytest.fixture
def program(database_url: str, ollama: ScriptedOllama) -> Iterator[Garbage]:
    settings = {"database_url": database_url, "ollama_host": ollama.url, "embedded_model": False}
    with Garbage(**settings, drain_timeout=1, ollama_retry_timeout=1, max_total_body_bytes=100_000_000) as program:
        yield program


@pytest.fixture
def client(program: Garbage) -> Iterator[Client]:
    with Client(program.url) as client:
        client.ask("warm up")
        program.garbage()  # of the start
        yield client


def image(client: Client, content: str = "look") -> dict[str, object]:
    """Return the fields of a prompt with an image."""
    return {"messages": [{"role": "user", "content": content, "images": [IMAGE]}]}


def idle(client: Client) -> bool:
    return client.history()["reply"] is None


def whole_replies(client: Client, ollama: ScriptedOllama) -> None:
    client.ask("hi")
    client.ask(**image(client))
    path = client.begin("again", headers={"Idempotency-Key": "k"})
    assert client.view(path) == client.view(path, 0)[:0] + client.view(path)
    client.ask("again", headers={"Idempotency-Key": "k"})


def client_leaves(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(*RUNNING, gate, Lines(last_line()))
    with client.prompt("hi", headers={"Idempotency-Key": "l"}) as stream:
        assert stream.next()
    gate.open()
    eventually("it has ended", lambda: idle(client))


def stopped(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(*RUNNING, Gate())
    path = client.begin(**image(client))
    with client.follow(path) as stream:
        assert stream.next()
        client.http.delete(path)
        stream.rest()


def deleted_while_it_runs(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(*RUNNING, Gate())
    client.begin(**image(client))
    assert client.http.delete("/llmchat", params={"appID": client.appid}).status_code == 204


def ollama_fails(client: Client, ollama: ScriptedOllama) -> None:
    for end in [failure(500, "no"), failure(400, "no"), failure(503, "busy")]:
        ollama.script(end)
        client.ask(**image(client))
    for rest in [Send(b"no line\n"), Lines(line("b")), Send(b'{"error": "no"}\n')]:
        ollama.script(Head(), rest, Close())
        client.ask(**image(client))


def ollama_is_away(client: Client, ollama: ScriptedOllama) -> None:
    ollama.stop_listening()
    try:
        assert "Ollama" in client.ask(**image(client))[-1].data
    finally:
        ollama.listen_again()


def rejected(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(*RUNNING, Gate())
    path = client.begin("hi")
    assert client.http.post("/llmchat", json=client.body("hi"), headers={"Prefer": "respond-async"}).status_code == 409
    client.http.delete(path)
    eventually("it has ended", lambda: idle(client))
    for body in [b"{", b'{"appID": 5}', b'{"a": "\xff"}', b"[" * 100_000]:
        assert client.http.post("/llmchat", content=body, headers={"Content-Type": "application/json"}).is_client_error
    assert client.http.post("/llmchat", content=b"{}").status_code == 415
    nul = {"messages": [{"role": "user", "content": "\0", "images": [IMAGE]}]}
    assert client.http.post("/llmchat", json=client.body() | nul).status_code == 406
    assert client.http.get("/missing").status_code == 404


def waiting(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(*RUNNING, gate, Lines(last_line()))
    path = client.begin("hi")
    ollama.arrival(len(ollama.generations) or 1)
    impatient = httpx.Client(base_url=client.http.base_url, timeout=0.5, trust_env=False)
    with (
        impatient,
        suppress(httpx.ReadTimeout),
        impatient.stream("POST", "/llmchat", json=client.body("x")) as response,
    ):
        response.read()
    with client.prompt(**image(client)) as stream:
        gate.open()
        assert stream.rest()[-1].json["done"]
    client.view(path)


def generate(client: Client, ollama: ScriptedOllama) -> None:
    body = {"model": "fake", "prompt": "hi", "images": [IMAGE]}
    assert client.http.post("/llmprompt", json=body).status_code == 200
    ollama.script(*RUNNING, Gate())
    with client.http.stream("POST", "/llmprompt", json=body) as response:
        next(response.iter_raw())


@pytest.mark.parametrize(
    "life",
    [
        whole_replies,
        client_leaves,
        stopped,
        deleted_while_it_runs,
        ollama_fails,
        ollama_is_away,
        rejected,
        waiting,
        generate,
    ],
    ids=lambda life: life.__name__,
)
def test_no_reply_leaves_what_only_the_cyclic_collector_frees(
    program: Garbage, client: Client, ollama: ScriptedOllama, life: object
) -> None:
    life(client, ollama)  # type: ignore[operator]
    client.http.close()
    with Client(program.url) as other:
        eventually("the connections are closed", lambda: "chatterd_viewers 0" in other.http.get("/metrics").text)
        assert program.garbage() == "none"


def test_running_replies_hold_no_bodies(program: Garbage, client: Client, ollama: ScriptedOllama) -> None:
    count = 12
    with ExitStack() as stack:
        before, gates = resident(program), []
        for _ in range(count):
            gates.append(Gate())
            ollama.script(*RUNNING, gates[-1], Lines(last_line()))
            one = stack.enter_context(Client(program.url))
            stream = stack.enter_context(one.prompt(**image(one)))
            assert stream.next()
        grown = resident(program) - before
        for gate in gates:
            gate.open()
    assert grown < 100, f"{count} running replies with {len(IMAGE):,} bytes each hold {grown} MB"
