"""The files of deploy/ in use: a real HAProxy and a real nginx in front of three real chatterds on one database."""

import contextlib
import itertools
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.balancers import DEPLOY, Balancer, command, free_ports
from tests.client import NO_TLS, Client, Event
from tests.database import eventually
from tests.fakes.ollama import Gate, Head, ScriptedOllama, Words
from tests.program import Program

BALANCERS = ("haproxy", "nginx")
EACH_BALANCER = [pytest.param(name, marks=pytest.mark.needs(name)) for name in BALANCERS]


class Site:
    """Three chatterds on one database and one Ollama, named by their ports."""

    def __init__(self, database_url: str, ollama: ScriptedOllama) -> None:
        self.database_url = database_url
        self.ollama = ollama
        self.ports = free_ports(5)
        self.servers = [self.new_server(port) for port in self.ports[:3]]

    def new_server(self, port: int) -> Program:
        return Program(
            port=port,
            database_url=self.database_url,
            ollama_host=f"{self.ollama.url}/{port}",  # so that a request names its sender
            embedded_model=False,
            drain_timeout=5,
            heartbeat_interval=0.3,
        )

    def revive(self) -> None:
        """Restart the servers that have ended."""
        for number, server in enumerate(self.servers):
            if server.process.poll() is not None:
                self.servers[number] = self.new_server(self.ports[number])

    def owner(self) -> Program:
        """Return the server that sent the last request to Ollama."""
        return self.servers[self.ports.index(int(self.ollama.generations[-1].path.split("/")[1]))]


@pytest.fixture(scope="module")
def _site(new_database: Callable[[], str]) -> Iterator[Site]:
    with ScriptedOllama() as ollama:
        site = Site(new_database(), ollama)
        yield site
        for server in site.servers:
            if server.process.poll() is None:
                server.process.send_signal(signal.SIGTERM)
        for server in site.servers:
            server.wait()


@pytest.fixture
def site(_site: Site) -> Site:
    _site.ollama.forget()
    _site.revive()
    return _site


@pytest.fixture(params=EACH_BALANCER)
def balancer(request: pytest.FixtureRequest, site: Site) -> Iterator[Balancer]:
    with Balancer(request.param, site.ports[3 + BALANCERS.index(request.param)], site.ports[:3]) as balancer:
        yield balancer


@pytest.fixture
def client(balancer: Balancer) -> Iterator[Client]:
    with Client(balancer.url) as client:
        yield client


def words(events: list[Event]) -> str:
    return "".join(event.json["message"]["content"] for event in events)


@pytest.mark.needs("haproxy")
def test_haproxy_accepts_the_shipped_file() -> None:
    done = subprocess.run(["haproxy", "-c", "-f", str(DEPLOY / "haproxy.cfg")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.needs("nginx")
def test_nginx_accepts_the_shipped_file(tmp_path: Path) -> None:
    done = subprocess.run([*command("nginx", DEPLOY / "nginx.conf", tmp_path), "-t"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd here")
    unit = tmp_path / "chatterd@.service"
    # Unchanged except for the program's path, which does not exist on this machine.
    unit.write_text((DEPLOY / unit.name).read_text().replace("/opt/chatterd/.venv/bin/python", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_each_event_is_forwarded_without_buffering(site: Site, client: Client) -> None:
    gate = Gate()
    site.ollama.script(Words(hold={1: gate}))
    with client.prompt("hi", options={"num_predict": 3}) as stream:
        first = stream.next()
        assert first and words([first]) == "w0 "
        gate.open()
        assert words(stream.rest()) == "w1 w2 "


def test_heartbeats_are_forwarded(site: Site, client: Client) -> None:
    gate = Gate()
    site.ollama.script(gate, Words())
    with client.prompt("hi") as stream:
        assert stream.comment() == stream.comment() == ": waiting"
        gate.open()
        assert words(stream.rest()) == "w0 w1 w2 w3 w4 "


def test_errors_of_large_heads_are_those_of_the_api(balancer: Balancer, client: Client) -> None:
    """Pages of another origin can read these, and not what a balancer says."""
    answers = [client.http.get("/models", params={"a": "x" * 9_000})]
    if balancer.name == "nginx":  # HAProxy's buffer holds 16 KiB
        answers.append(client.http.get("/models", headers={"Cookie": "x" * 40_000}))
    assert [answer.status_code for answer in answers] == [414, 431][: len(answers)]
    assert all(answer.json()["error"] for answer in answers)


def test_a_viewer_of_a_killed_server_reconnects_and_sees_each_line_once(site: Site, client: Client) -> None:
    site.ollama.script(Words(hold={5: Gate()}))
    shown: list[Event] = []
    with client.prompt("hi", options={"num_predict": 20}) as stream:
        path = stream.response.headers["Content-Location"]
        shown += list(itertools.islice(iter(stream.next, None), 5))
        site.owner().kill()
        with pytest.raises(httpx.RemoteProtocolError):  # not a clean end, which would look like the end of the reply
            stream.next()
    shown += client.view(path, last_event_id=shown[-1].id)
    assert [event.id for event in shown] == list(range(21))
    assert words(shown) == "".join(f"w{n} " for n in range(20))
    assert shown[-1].json["done"]


def test_a_killed_server_gets_no_more_requests(site: Site, balancer: Balancer, client: Client) -> None:
    assert client.ask("hi")
    site.servers[1].kill()
    for _ in range(9):
        assert words(client.ask("hi")) == "w0 w1 w2 w3 w4 "


def test_a_draining_server_gets_no_new_requests(site: Site, balancer: Balancer, client: Client) -> None:
    held = Gate()
    site.ollama.script(Words(hold={1: held}))
    with client.prompt("hi") as stream:
        stream.next()
        draining = site.owner()
        draining.process.send_signal(signal.SIGTERM)
        eventually("it drains", lambda: httpx.get(f"{draining.url}/readyz", verify=NO_TLS).status_code == 503)
        if balancer.name == "haproxy":  # which checks each server every second
            eventually("it is out", lambda: _statuses(balancer, "POST", 6) == {200})
        else:
            assert _statuses(balancer, "GET", 6) == {200}
        held.open()
        assert words(stream.rest()) == "w1 w2 w3 w4 "  # it finishes its running replies
    assert draining.wait() == 0


def _statuses(balancer: Balancer, method: str, count: int) -> set[int]:
    """Return the statuses of so many requests: POST begins a reply, GET asks for readiness."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(balancer.url)) for _ in range(count)]
        if method == "GET":
            answers = [client.http.get("/readyz") for client in clients]
        else:
            answers = [client.http.post("/llmchat", json=client.body("hi")) for client in clients]
        return {answer.status_code for answer in answers}


# Servers that die at the worst moment, and count their requests.


class DyingServers:
    """Three servers that are always ready; they close the connection of the first ``deaths`` other requests."""

    def __init__(self, ports: Sequence[int], deaths: int) -> None:
        self.asked: list[str] = []
        self._deaths = deaths
        self._listeners = [socket.create_server(("127.0.0.1", port)) for port in ports]
        self._threads = [threading.Thread(target=self._listen, args=(one,)) for one in self._listeners]
        for thread in self._threads:
            thread.start()

    def _listen(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed at the end of the test
            while True:
                connection, _ = listener.accept()
                with connection, connection.makefile("rwb") as stream:
                    self._answer(stream)

    def _answer(self, stream: Any) -> None:
        method, path, _ = stream.readline().decode().split(" ")
        length = 0
        while (header := stream.readline()) != b"\r\n":
            if header.lower().startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        stream.read(length)
        if path != "/readyz":
            self.asked.append(f"{method} {path}")
            if len(self.asked) <= self._deaths:
                return
        stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    def stop(self) -> None:
        for listener, thread in zip(self._listeners, self._threads, strict=True):
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            listener.close()


@pytest.mark.parametrize("name", EACH_BALANCER)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_a_get_is_retried_when_its_server_dies_without_a_response(name: str, method: str) -> None:
    port, *ports = free_ports(4)
    servers = DyingServers(ports, deaths=1)
    try:
        with Balancer(name, port, ports) as balancer:
            answer = httpx.request(method, f"{balancer.url}/llmchat", verify=NO_TLS)
    finally:
        servers.stop()
    if method == "GET":
        assert (answer.status_code, servers.asked) == (200, ["GET /llmchat"] * 2)
    else:
        assert (answer.status_code, servers.asked) == (502, ["POST /llmchat"])
        assert list(answer.json()) == ["error"]
        assert answer.headers["Retry-After"] == "2"


@pytest.mark.parametrize("name", EACH_BALANCER)
def test_a_post_refused_by_a_dead_server_is_sent_to_another(name: str) -> None:
    port, *ports = free_ports(4)
    servers = DyingServers(ports[2:], deaths=0)
    try:
        with Balancer(name, port, ports) as balancer:
            answers = [httpx.post(f"{balancer.url}/llmchat", verify=NO_TLS).status_code for _ in range(6)]
    finally:
        servers.stop()
    assert (answers, servers.asked) == ([200] * 6, ["POST /llmchat"] * 6)


@pytest.mark.parametrize("name", EACH_BALANCER)
def test_without_servers_the_balancer_answers_with_a_json_error(name: str) -> None:
    port, *ports = free_ports(4)
    with Balancer(name, port, ports) as balancer:
        answer = httpx.post(f"{balancer.url}/llmchat", verify=NO_TLS)
    assert answer.status_code in (502, 503)
    assert list(answer.json()) == ["error"]
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Retry-After"] == "2"


@pytest.mark.parametrize("name", EACH_BALANCER)
def test_a_client_that_leaves_a_silent_stream_is_noticed_before_a_heartbeat(
    name: str, start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    """Else a prompt that waits goes on waiting, and an app that is opened again waits for its own abandoned reply."""
    port, *ports = free_ports(4)
    program = start_chatterd(port=ports[0], database_url=database_url, heartbeat_interval=600)
    ollama.script(Head(), Gate("never"))
    with Balancer(name, port, ports) as balancer, Client(balancer.url) as client:
        eventually("the balancer uses the server", lambda: client.http.get("/readyz").status_code == 200)
        with client.prompt("one"):
            ollama.arrival(0).wait()
        assert client.ask("two")[-1].json["done"] is True
        assert program.log.count("has no viewers and is stopped") == 1
