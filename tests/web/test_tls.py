"""TLS for clients: streams, replacement of the certificate, invalid files, and handshakes."""

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from tornado.netutil import bind_sockets
from tornado.web import Application

from settings import Settings
from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import Body, Gate, Head, Lines, ScriptedOllama, last_line, line, ndjson
from tests.program import ROOT, Program
from tests.viewers import framed
from web.connections import http_server
from web.connections.tls import KeyPair

TIMEOUT = 20.0
"""Seconds after which a socket operation has failed."""


class Files:
    """A certificate and its key in two files, and a client's TLS context that trusts its issuer."""

    def __init__(self, folder: Path) -> None:
        self.cert = folder / "cert.pem"
        self.key = folder / "key.pem"
        self.authority = trustme.CA()
        self.trust = ssl.create_default_context()
        self.authority.configure_trust(self.trust)
        self.write(self.issue("first"))

    def issue(self, name: str) -> trustme.LeafCert:
        return self.authority.issue_cert("127.0.0.1", common_name=name)

    def write(self, issued: trustme.LeafCert) -> None:
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(self.key)

    @property
    def settings(self) -> dict[str, object]:
        return {"certfile": self.cert, "keyfile": self.key}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of the server ``secure``; tests do not change them."""
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def _secure(files: Files, new_database: Callable[[], str], _session_ollama: ScriptedOllama) -> Iterator[Program]:
    settings = {
        "database_url": new_database(),
        "ollama_host": _session_ollama.url,
        "embedded_model": False,
        "drain_timeout": 1,
    }
    with Program(**settings, client_write_timeout=1, heartbeat_interval=0.2, **files.settings) as program:
        yield program


@pytest.fixture
def secure(_secure: Program, ollama: ScriptedOllama, expected_log: list[str]) -> Iterator[Program]:
    """A server with TLS, shared by the tests of this file."""
    yield _secure
    alarms = _secure.alarms(expected_log)
    assert not alarms, "".join(alarms)


@pytest.fixture
def changing(tmp_path: Path) -> Files:
    """Files of one test."""
    return Files(tmp_path)


@pytest.fixture
def client(secure: Program, files: Files) -> Iterator[Client]:
    client = Client(secure.url, tls=files.trust)
    with client.http:
        yield client


def connect(program: Program, trust: ssl.SSLContext, buffer: int | None = None) -> ssl.SSLSocket:
    address = urlsplit(program.url)
    plain = socket.socket()
    plain.settimeout(TIMEOUT)
    if buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plain.connect((address.hostname, address.port))
    return trust.wrap_socket(plain, server_hostname="127.0.0.1")


def presented_name(program: Program, files: Files) -> str:
    """Return the common name in the certificate that the server presents to a new connection."""
    with connect(program, files.trust) as connection:
        certificate = connection.getpeercert()
    subject: Any = certificate and certificate["subject"]
    [name] = [value for part in subject for key, value in part if key == "commonName"]
    return str(name)


def reload(program: Program, message: str) -> None:
    """Send SIGHUP and wait for a message in the log."""
    before = program.log.count(message)
    program.process.send_signal(signal.SIGHUP)
    eventually(f"the log contains {message!r}", lambda: program.log.count(message) > before)


def test_the_log_shows_an_https_url(secure: Program) -> None:
    assert secure.url.startswith("https://127.0.0.1:")


def test_events_arrive_one_by_one_in_order_and_complete(client: Client, ollama: ScriptedOllama) -> None:
    gates = [Gate(), Gate()]
    many = [line(f"{number} ") for number in range(2_000)]
    ollama.script(Head(), Lines(line("a ")), gates[0], Lines(line("b ")), gates[1], Lines(*many, last_line("end")))
    with client.prompt("x" * 1_000_000) as stream:
        for gate, text in zip(gates, ("a ", "b "), strict=True):
            event = stream.next()
            assert event is not None and event.json["message"]["content"] == text
            assert stream.comment() == ": waiting"
            gate.open()
        assert [event.json["message"]["content"] for event in stream.rest()] == [
            *(f"{n} " for n in range(2_000)),
            "end",
        ]
    assert client.messages()[-1] == ("assistant", "".join(["a ", "b ", *(f"{n} " for n in range(2_000)), "end"]))


def test_a_viewer_of_the_backlog_and_a_live_viewer_receive_the_same_events(
    client: Client, ollama: ScriptedOllama
) -> None:
    size, gate = 2_000, Gate()
    chunk = ndjson(*[line("x" * size)] * 100)
    ollama.script(Head(), *[Body(chunk)] * 20, gate, *[Body(chunk)] * 5, Lines(last_line()))
    path = client.begin("hi")
    with ThreadPoolExecutor(1) as executor:
        gate.reached.wait()
        live_events = executor.submit(client.view, path)
        gate.open()
        backlog = client.view(path)
        assert len(backlog) == 2_501 and live_events.result() == backlog
    assert client.view(path, last_event_id=2_498) == backlog[2_499:]


def test_a_slow_viewer_receives_everything_and_one_that_does_not_read_is_dropped(
    client: Client, secure: Program, files: Files, ollama: ScriptedOllama
) -> None:
    gate = Gate()
    chunk = ndjson(*[line("x" * 2_000)] * 100)
    ollama.script(Head(), Lines(line("a ")), gate, *[Body(chunk)] * 40, Lines(last_line()))
    path = client.begin("hi")
    request = f"GET {path} HTTP/1.0\r\n\r\n".encode()
    with connect(secure, files.trust, 4_096) as unread, connect(secure, files.trust, 4_096) as slow:
        for connection in (unread, slow):
            connection.sendall(request)
            assert connection.recv(1)
        gate.open()
        received = bytearray()
        while piece := slow.recv(4_000):
            received += piece
        secure.wait_log('abort_reason="client too slow"', TIMEOUT)
        expected = framed([event.data for event in client.view(path)])
        lines = [line for line in received.partition(b"\r\n\r\n")[2].split(b"\n") if not line.startswith(b":")]
        assert b"\n".join(lines) == expected
        size = 0
        with pytest.raises((ssl.SSLError, ConnectionError)):  # without close_notify
            while piece := unread.recv(65_536):
                size += len(piece)
            raise ConnectionError
        assert size < len(expected) / 2
    secure.wait_log(rf"reply ended reply={path.removeprefix('/llmchat/')} .*status=done")


def test_a_reply_continues_when_its_viewer_disconnects(client: Client, secure: Program, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("a")), gate := Gate(), Lines(last_line("b")))
    with client.prompt("hi", headers={"X-Request-ID": "disconnecting"}) as stream:
        assert stream.next()
        path = stream.response.headers["Content-Location"]
    secure.wait_log('request=disconnecting .*abort_reason="client left"')
    gate.open()
    assert [event.json["message"]["content"] for event in client.view(path)] == ["a", "b"]


def test_sighup_changes_the_certificate_of_new_connections_only(
    start_chatterd: Callable[..., Program], database_url: str, changing: Files, ollama: ScriptedOllama
) -> None:
    program = start_chatterd(database_url=database_url, **changing.settings)
    client = Client(program.url, tls=changing.trust)
    assert presented_name(program, changing) == "first"
    ollama.script(Head(), Lines(line("a")), gate := Gate(), Lines(last_line("b")))
    with client.http, client.prompt("hi") as stream:
        assert stream.next()
        changing.write(changing.issue("second"))
        assert presented_name(program, changing) == "first"
        reload(program, "New connections use the certificate")
        assert presented_name(program, changing) == "second"
        gate.open()
        assert stream.rest()[-1].json["message"]["content"] == "b"
        assert client.messages()[-1] == ("assistant", "ab")


@pytest.mark.expects_log("The certificate could not be reloaded; the present one stays in use")
def test_an_invalid_certificate_or_key_is_not_loaded(
    start_chatterd: Callable[..., Program], database_url: str, changing: Files
) -> None:
    program = start_chatterd(database_url=database_url, **changing.settings)
    second = changing.issue("second")
    errors: dict[str, Callable[[], object]] = {
        "key values mismatch": lambda: second.private_key_pem.write_to_path(changing.key),
        "not a certificate and its private key": lambda: changing.key.write_bytes(b"garbage"),
        "cannot be read: No such file": changing.key.unlink,
    }
    for message, break_files in errors.items():
        break_files()
        reload(program, "The certificate could not be reloaded")
        assert message in program.log.splitlines()[-1]
        assert presented_name(program, changing) == "first"
    changing.write(second)
    reload(program, "New connections use the certificate")
    assert presented_name(program, changing) == "second"


def startup_error(**settings: object) -> str:
    """Return the error of a program that does not start with these settings."""
    arguments = [f"--{name}={value}" for name, value in ({"port": 0} | settings).items()]
    run = subprocess.run(
        [sys.executable, "server.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 1
    [sentence] = run.stderr.splitlines()
    return sentence


def test_invalid_files_are_a_one_line_error_at_startup(changing: Files, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    assert startup_error(certfile=missing) == (
        f"chatterd cannot start: --certfile={missing} cannot be read: No such file or directory"
    )
    assert f"--keyfile={missing} cannot be read" in startup_error(certfile=changing.cert, keyfile=missing)
    assert "--keyfile requires --certfile" in startup_error(keyfile=changing.key)
    assert "are not a certificate and its private key" in startup_error(certfile=changing.cert)
    changing.issue("another").private_key_pem.write_to_path(changing.key)
    assert "key values mismatch" in startup_error(**changing.settings)


def test_an_encrypted_key_is_an_error_without_a_password_prompt(changing: Files) -> None:
    key = serialization.load_pem_private_key(changing.key.read_bytes(), None)
    changing.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert "the private key is encrypted" in startup_error(**changing.settings)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_before_1_2_is_rejected_and_alpn_selects_http_1_1(secure: Program, files: Files) -> None:
    trust = ssl.create_default_context()
    files.authority.configure_trust(trust)
    trust.set_alpn_protocols(["h2", "http/1.1"])
    with connect(secure, trust) as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.selected_alpn_protocol() == "http/1.1"
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    with connect(secure, trust) as connection:
        assert connection.version() == "TLSv1.2"
    trust.set_ciphers("ALL:@SECLEVEL=0")
    trust.minimum_version = ssl.TLSVersion.TLSv1
    trust.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        connect(secure, trust)


def test_connections_without_tls_do_not_disturb_others(client: Client, secure: Program) -> None:
    address = urlsplit(secure.url)
    with ExitStack() as idle:
        for _ in range(100):
            idle.enter_context(socket.create_connection((address.hostname, address.port)))
        for garbage in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\0" * 100):
            with socket.create_connection((address.hostname, address.port), TIMEOUT) as connection:
                connection.sendall(garbage)
                with suppress(ConnectionResetError):
                    while connection.recv(100):
                        pass
        assert client.http.get("/healthz").status_code == 200


def test_a_handshake_that_does_not_end_in_time_closes_the_connection(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HANDSHAKE_TIMEOUT", 0.2)

    async def run() -> None:
        server = http_server.ChatterdServer(
            Application(), settings=Settings(), key_pair=KeyPair(str(files.cert), str(files.key))
        )
        [listening] = bind_sockets(0, "127.0.0.1")
        server.add_sockets([listening])
        port = listening.getsockname()[1]
        try:
            async with asyncio.timeout(TIMEOUT):
                _, completed = await asyncio.open_connection("127.0.0.1", port, ssl=files.trust)
                for sent in (b"", b"\x16\x03\x01"):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(sent)
                    assert await reader.read() == b""
                    writer.close()
                completed.write(b"GET / HTTP/1.0\r\n\r\n")  # its handshake was completed in time
                assert not completed.transport.is_closing()
                completed.close()
        finally:
            server.stop()
            await server.close_all_connections()

    asyncio.run(run())
