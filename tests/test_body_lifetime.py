"""A request's body is in memory, and counted, only until it is sent; no reference cycle holds it afterwards."""

import base64
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Self

import httpx
import pytest

from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import Close, Gate, Head, Lines, ScriptedOllama, Send, failure, last_line, line
from tests.fakes.sockets import bound_socket
from tests.program import Program
from tests.web.test_overload import resident

IMAGE = base64.b64encode(os.urandom(3_000_000)).decode()
"""4 MB of a kind that PostgreSQL cannot compress."""

LIMIT = 40_000_000
"""The limit of all bodies in memory, in bytes: for eight of these images, for a ninth there is no room."""

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


def started(database_url: str, ollama: ScriptedOllama) -> Garbage:
    settings: dict[str, object] = {"database_url": database_url, "ollama_host": ollama.url, "embedded_model": False}
    return Garbage(drain_timeout=1, ollama_retry_timeout=1, max_total_body_bytes=LIMIT, **settings)


@pytest.fixture(scope="module")
def program(new_database: Callable[[], str], _session_ollama: ScriptedOllama) -> Iterator[Garbage]:
    with started(new_database(), _session_ollama) as program:
        yield program


@pytest.fixture
def client(program: Garbage, ollama: ScriptedOllama) -> Iterator[Client]:
    with Client(program.url) as client:
        client.ask("warm up")
        program.garbage()  # of the start, and of the test before
        yield client


def image(content: str = "look") -> dict[str, Any]:
    """Return the fields of a prompt with an image."""
    return {"messages": [{"role": "user", "content": content, "images": [IMAGE]}]}


def idle(client: Client) -> bool:
    return client.history()["reply"] is None


def whole_replies(client: Client, ollama: ScriptedOllama) -> None:
    client.ask("hi")
    client.ask(**image())
    path = client.begin("again", headers={"Idempotency-Key": "k"})
    client.view(path)
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
    path = client.begin(**image())
    with client.follow(path) as stream:
        assert stream.next()
        client.http.delete(path)
        stream.rest()


def deleted_while_it_runs(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(*RUNNING, Gate())
    client.begin(**image())
    assert client.http.delete("/llmchat", params={"appID": client.appid}).status_code == 204


def ollama_fails(client: Client, ollama: ScriptedOllama) -> None:
    for end in [failure(500, "no"), failure(400, "no"), failure(503, "busy")]:
        ollama.script(end)
        client.ask(**image())
    for rest in [Send(b"no line\n"), Lines(line("b")), Send(b'{"error": "no"}\n')]:
        ollama.script(Head(), rest, Close())
        client.ask(**image())


def ollama_is_away(client: Client, ollama: ScriptedOllama) -> None:
    ollama.stop_listening()
    try:
        assert "Ollama" in client.ask(**image())[-1].data
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
    with client.prompt("x") as stream:
        assert stream.comment() == ": waiting"
    with client.prompt(**image()) as stream:
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
    program: Garbage, client: Client, ollama: ScriptedOllama, life: Callable[[Client, ScriptedOllama], None]
) -> None:
    life(client, ollama)
    client.http.close()
    with Client(program.url) as other:
        eventually("the connections are closed", lambda: "chatterd_viewers 0" in other.http.get("/metrics").text)
        assert program.garbage() == "none"


def test_running_replies_hold_no_bodies(database_url: str, ollama: ScriptedOllama) -> None:
    count = 12
    # In a program of its own: another may have free memory, which would hide what is held.
    with started(database_url, ollama) as program, ExitStack() as stack:
        stack.enter_context(Client(program.url)).ask("warm up")
        before, gates = resident(program), []
        for _ in range(count):
            gates.append(Gate())
            ollama.script(*RUNNING, gates[-1], Lines(last_line()))
            one = stack.enter_context(Client(program.url))
            stream = stack.enter_context(one.prompt(**image()))
            assert stream.next()
        grown = resident(program) - before
        for gate in gates:
            gate.open()
    print(f"\n{count} running replies: {grown:.0f} MB more")
    assert grown < 40, f"{count} running replies with {len(IMAGE):,} bytes each hold {grown} MB"


class UnreadingOllama:
    """Takes the place of an Ollama, and reads nothing of what is sent to it before :meth:`read_all`."""

    def __init__(self, port: int) -> None:
        self._socket = bound_socket(port)
        self._socket.listen(100)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def read_all(self, count: int) -> list[bytes]:
        """Read requests one after the other and answer each; return the bodies of ``count`` prompts."""
        bodies: list[bytes] = []
        while len(bodies) < count:
            connection, _ = self._socket.accept()
            with connection, connection.makefile("rb") as received:
                line, *fields = iter(lambda received=received: received.readline().strip(), b"")  # type: ignore[misc]
                if line.startswith(b"GET"):
                    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"version":"0.13.0"}')
                    continue
                [length] = [int(field.split()[1]) for field in fields if field.lower().startswith(b"content-length")]
                bodies.append(received.read(length))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n" + last_line("a"))
        return bodies


@pytest.mark.extended
def test_a_request_that_waits_for_memory_is_made_anew_byte_for_byte(
    program: Garbage, client: Client, ollama: ScriptedOllama
) -> None:
    def outgoing() -> int:
        metrics = client.http.get("/metrics").text
        return int(float(metrics.partition("\nchatterd_outgoing_bytes ")[2].partition("\n")[0]))

    count = 14
    fields = image() | {"options": {"seed": 7, "num_ctx": 2048.0}, "keep_alive": "5m", "tools": []}
    ollama.stop_listening()
    with UnreadingOllama(httpx.URL(ollama.url).port or 0) as unreading, ExitStack() as stack:
        clients = [stack.enter_context(Client(program.url)) for _ in range(count)]
        paths = [one.begin(**fields) for one in clients]
        eventually("all have begun", lambda: 9 * len(IMAGE) < outgoing() <= LIMIT)
        held = outgoing()
        bodies = unreading.read_all(count)
        for one, path in zip(clients, paths, strict=True):
            assert one.view(path)[-1].json["message"]["content"] == "a"
    ollama.listen_again()
    assert len(set(bodies)) == 1, "what was sent at once and what was made anew differ"
    assert outgoing() == 0 and held % len(bodies[0]) == 0


@pytest.mark.extended
def test_conversations_with_images_that_begin_together_are_read_one_after_the_other(
    program: Garbage, client: Client, ollama: ScriptedOllama
) -> None:
    count = 24
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(program.url)) for _ in range(count)]
        for one in clients:
            one.ask(**image())
        before, most = resident(program), 0.0
        paths = [one.begin("and?") for one in clients]
        while not all(map(idle, clients)):
            most = max(most, resident(program))
        assert all(one.view(path)[-1].json["done"] for one, path in zip(clients, paths, strict=True))
        sent = [request.json["messages"] for request in ollama.generations[-count:]]
    assert all(messages[0]["images"] == [IMAGE] and messages[-1]["content"] == "and?" for messages in sent)
    assert most - before < 3 * LIMIT / 1_000_000, f"{most:.0f} MB, {before:.0f} MB before"
