"""Load that clients can cause on purpose: its effect on the response time and the memory of the server is bounded."""

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import ujson

from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program
from tests.raw import head, raw

MANY = 500


def resident(program: Program) -> float:
    """Megabytes of memory that a program holds."""
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def connect(url: str, open_ones: contextlib.ExitStack) -> socket.socket:
    """A connection whose client's side takes as little as can be."""
    address = httpx.URL(url)
    connection = open_ones.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.settimeout(10)
    connection.connect((address.host, address.port))
    return connection


def slowest_health(client: Client, probes: int = 40) -> list[float]:
    """Seconds that each of some probes took, in order of size."""
    took = []
    for _ in range(probes):
        began = time.perf_counter()
        assert client.http.get("/healthz").status_code == 200
        took.append(time.perf_counter() - began)
    return sorted(took)


def test_500_slow_requests_and_500_unread_streams_do_not_exhaust_cpu_or_memory(
    start_chatterd: Callable[..., Program], database_url: str, ollama: ScriptedOllama
) -> None:
    program = start_chatterd(database_url=database_url, idle_connection_timeout=4, client_write_timeout=4)
    client = Client(program.url)
    gate = Gate()
    with client.http, contextlib.ExitStack() as open_ones:
        client.ask("warm up")
        slowest_health(client)
        ollama.script(Head(), gate, Lines(*[line("x" * 4_000)] * 1_000, last_line()))
        before = resident(program)
        path = client.begin("hi")
        drips = [connect(program.url, open_ones) for _ in range(MANY)]
        for drip in drips:
            drip.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        stuck = [connect(program.url, open_ones) for _ in range(MANY)]
        for viewer in stuck:
            viewer.sendall(head(path, method="GET"))
        for viewer in stuck:
            assert viewer.recv(12) == b"HTTP/1.1 200"
        gate.open()
        took = []
        for _ in range(5):
            for drip in drips:
                with contextlib.suppress(ConnectionError):  # on a slow machine some are refused by now
                    drip.sendall(b"A: b\r\n")
            took += slowest_health(client)
        grown = resident(program) - before
        print(f"\n/healthz: median {1000 * sorted(took)[len(took) // 2]:.1f} ms, most {1000 * max(took):.1f} ms")
        print(f"memory: {before:.0f} MB, {grown:+.0f} MB")
        assert sorted(took)[len(took) // 2] < 0.1
        assert grown < 100
        for drip in drips:
            assert drip.recv(12) == b""
        program.wait_log('abort_reason="client too slow"')
        open_ones.close()
        other = Client(program.url)
        with other.http:
            assert other.ask("still there?")[-1].json["done"] is True
            assert len(other.view(path)) == 1_001


def test_incomplete_bodies_do_not_stay_in_memory(
    start_chatterd: Callable[..., Program], database_url: str, ollama: ScriptedOllama
) -> None:
    program = start_chatterd(database_url=database_url)
    with Client(program.url) as client:
        client.ask("warm up")
        before = resident(program)
        for _ in range(20):
            with raw(program.url) as connection:
                connection.send(head("/llmchat", "Content-Length: 30000000") + b" " * 20_000_000)
        assert client.http.get("/healthz").status_code == 200
        assert resident(program) - before < 150


def test_a_body_beyond_the_limit_of_all_bodies_is_503_until_another_is_released(
    start_chatterd: Callable[..., Program], session_database_url: str
) -> None:
    program = start_chatterd(database_url=session_database_url, max_total_body_bytes=100_000)
    with Client(program.url) as client, raw(program.url) as first, raw(program.url) as leaving:
        body = ujson.dumps(client.body("x" * 60_000)).encode()
        large = client.body("y" * 60_000)
        for connection in (first, leaving):
            connection.send(head("/llmchat", f"Content-Length: {len(body)}"))
        first.send(body[:-1])
        first.wait_until_read()
        answer = client.http.post("/llmchat", json=large)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "large requests" in answer.json()["error"]
        assert client.http.post("/llmchat", json=[]).status_code == 400, "a small one finds room"
        first.send(body[-1:])
        assert first.answer().status == 200
        leaving.send(body[:-1])
        leaving.wait_until_read()
        assert client.http.post("/llmchat", json=large).status_code == 503
        leaving.hang_up()
        eventually("who left gave it back", lambda: client.http.post("/llmchat", json=large).status_code == 200)
