"""Load that clients can cause on purpose: its effect on the response time and the memory of the server is bounded."""

import contextlib
import re
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import ujson

from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program
from tests.raw import head, raw
from tests.tokens import TokenFile

CONNECTIONS = 500

LINES = 3_000
"""Of 4 kB each: a reply that fits into no socket's buffer (Linux tcp(7), ``tcp_wmem``: 4 MB at most)."""


def resident(program: Program, field: str = "VmRSS") -> float:
    """Return the resident memory of a program in megabytes; ``VmHWM``: its maximum (Linux proc_pid_status(5))."""
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def connect(url: str, connections: contextlib.ExitStack) -> socket.socket:
    """Open a connection with a small receive buffer."""
    address = httpx.URL(url)
    connection = connections.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.settimeout(10)
    connection.connect((address.host, address.port))
    return connection


def probe_health(client: Client, probes: int = 40) -> list[float]:
    """Return the response times of ``/healthz`` in seconds, in ascending order."""
    durations = []
    for _ in range(probes):
        began = time.perf_counter()
        assert client.http.get("/healthz").status_code == 200
        durations.append(time.perf_counter() - began)
    return sorted(durations)


@pytest.mark.extended
def test_500_slow_requests_and_500_unread_streams_do_not_exhaust_cpu_or_memory(
    start_chatterd: Callable[..., Program], database_url: str, ollama: ScriptedOllama
) -> None:
    program = start_chatterd(database_url=database_url, idle_connection_timeout=4, client_write_timeout=4)
    client = Client(program.url)
    gate = Gate()
    with client.http, contextlib.ExitStack() as connections:
        client.ask("warm up")
        probe_health(client)
        ollama.script(Head(), gate, Lines(*[line("x" * 4_000)] * LINES, last_line()))
        before = resident(program)
        path = client.begin("hi")
        slow = [connect(program.url, connections) for _ in range(CONNECTIONS)]
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        unread = [connect(program.url, connections) for _ in range(CONNECTIONS)]
        for viewer in unread:
            viewer.sendall(head(path, method="GET"))
        for viewer in unread:
            assert viewer.recv(12) == b"HTTP/1.1 200"
        gate.open()
        durations = []
        for _ in range(5):
            for connection in slow:
                with contextlib.suppress(ConnectionError):  # on a slow machine some are closed by now
                    connection.sendall(b"A: b\r\n")
            durations += probe_health(client)
        durations.sort()
        growth = resident(program) - before
        print(f"\n/healthz: median {durations[len(durations) // 2]:.3f} s, maximum {durations[-1]:.3f} s")
        print(f"memory: {before:.0f} MB, {growth:+.0f} MB")
        assert durations[len(durations) // 2] < 0.1
        assert growth < 100
        for connection in slow:
            with contextlib.suppress(ConnectionResetError):  # something was sent after it was closed
                assert connection.recv(12) == b""
        # Dropped, in general: because they do not read, or by TCP (see ``TCP_USER_TIMEOUT`` in web/base.py).
        eventually("no viewer is left", lambda: "chatterd_viewers 0" in client.http.get("/metrics").text)
        ends = Counter(re.findall(rf"path={re.escape(path)} .*? reply=\S+(.*)", program.log))
        print(f"ends of {ends.total()} viewers: {dict(ends)}")
        print(*re.findall(r"reply ended .*", program.log), sep="\n")
        connections.close()
        other = Client(program.url)
        with other.http:
            assert other.ask("hi")[-1].json["done"] is True
            assert len(other.view(path)) == LINES + 1


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
    program = start_chatterd(database_url=session_database_url, max_total_body_bytes=200_000)
    with Client(program.url) as client, raw(program.url) as first, raw(program.url) as disconnecting:
        body = ujson.dumps(client.body("x" * 60_000)).encode()
        large = client.body("y" * 60_000)
        for connection in (first, disconnecting):
            connection.send(head("/llmchat", f"Content-Length: {len(body)}"))
        first.send(body[:-1])
        first.wait_until_read()
        response = client.http.post("/llmchat", json=large)
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0
        assert "large requests" in response.json()["error"]
        assert client.http.post("/llmchat", json=[]).status_code == 400, "a small body is accepted"
        first.send(body[-1:])
        assert first.answer().status == 200
        disconnecting.send(body[:-1])
        disconnecting.wait_until_read()
        assert client.http.post("/llmchat", json=large).status_code == 503
        disconnecting.hang_up()
        eventually(
            "the body of the disconnected client is released",
            lambda: client.http.post("/llmchat", json=large).status_code == 200,
        )


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    tokens = TokenFile(tmp_path / "tokens")
    tokens.add("alice")
    return tokens


def test_a_body_of_a_stranger_takes_no_memory(
    start_chatterd: Callable[..., Program], session_database_url: str, tokens: TokenFile
) -> None:
    program = start_chatterd(database_url=session_database_url, auth="token", token_file=tokens.path)
    body = b"[" + b"[]," * 11_000_000 + b"[]]"
    with Client(program.url) as stranger:
        stranger.http.get("/healthz")
        before = resident(program)
        for path, status in (("/sign-in", 413), ("/llmchat", 401), ("/", 405), ("/nowhere", 404)):
            response = stranger.http.post(path, content=body, headers={"Content-Type": "application/json"})
            assert response.status_code == status
        assert resident(program, "VmHWM") - before < 20


def test_strangers_that_hold_bodies_of_every_route_do_not_keep_tenants_out(
    start_chatterd: Callable[..., Program], session_database_url: str, tokens: TokenFile
) -> None:
    program = start_chatterd(
        database_url=session_database_url,
        auth="token",
        token_file=tokens.path,
        max_body_bytes=100_000,
        max_total_body_bytes=1_000_000,
    )
    with contextlib.ExitStack() as connections:
        for path in ("/", "/sign-in", "/healthz", "/nowhere", "/llmchat"):
            for _ in range(15):
                stranger = connections.enter_context(raw(program.url))
                stranger.send(head(path, "Transfer-Encoding: chunked") + b"10000\r\n" + b" " * 65_536 + b"\r\n1\r\n")
                stranger.wait_until_read()
        alice = connections.enter_context(tokens.client(program.url, "alice"))
        assert [alice.ask("x" * 90_000)[-1].json["done"] for _ in range(3)] == [True] * 3
