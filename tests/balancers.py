"""Run the load balancers of deploy/ as processes: the shipped files with other ports, in front of a test's servers."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

DEPLOY = Path(__file__).parent.parent / "deploy"

SHIPPED_PORTS = (8001, 8002, 8003)
"""The servers' ports in the files of deploy/."""

OLLAMA_PORT = 11435
"""HAProxy's port in deploy/haproxy-ollama.cfg."""

SHIPPED_OLLAMA_PORTS = (11441, 11442)
"""The Ollamas' ports in the same file."""

START_TIMEOUT = 30.0
"""Seconds until a balancer must listen on its port."""


def free_ports(count: int) -> list[int]:
    """Return unused ports outside the range from which the kernel assigns ports."""
    found: list[int] = []
    for port in range(18_000 + os.getpid() * 20 % 12_000, 32_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise OSError("no free ports")


class Balancer:
    """A running balancer; ``url`` is its address for clients.

    :param name: ``haproxy`` or ``nginx``.
    :param servers: ports of the three chatterds.
    :param certificate: key and chain in one PEM file; enables the file's TLS lines instead of its plain HTTP listener.
    """

    def __init__(self, name: str, port: int, servers: Sequence[int], certificate: Path | None = None) -> None:
        self.name = name
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
        self.port = port
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self.file = self.folder / {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[name]
        self.file.write_text(self._configuration(servers, certificate))
        self._output = (self.folder / "output").open("w+")
        self.process = subprocess.Popen(command(name, self.file, self.folder), stdout=self._output, stderr=self._output)
        self._await_start()

    def _configuration(self, servers: Sequence[int], certificate: Path | None) -> str:
        configuration = (DEPLOY / self.file.name).read_text()
        if certificate:
            configuration = with_tls(configuration, certificate)
        return with_ports(configuration, self.port, servers)

    @property
    def output(self) -> str:
        """Return its output so far."""
        return (self.folder / "output").read_text()

    def _await_start(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while self.process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        output = self.output
        self.stop()
        raise TimeoutError(f"The balancer does not start:\n{output}")

    def stop(self) -> None:
        """Stop it at once; all its connections are closed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(START_TIMEOUT)
        self._output.close()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"The balancer said:\n{self.output[-5_000:]}")
        self.stop()


class OllamaBalancer(Balancer):
    """A running HAProxy with deploy/haproxy-ollama.cfg; ``url`` is its address for chatterd.

    :param servers: ports of the two Ollamas.
    :param edits: texts of the file, and what to put in their place.
    """

    def __init__(self, port: int, servers: Sequence[int], edits: Mapping[str, str] | None = None) -> None:
        self._edits = edits or {}
        super().__init__("haproxy", port, servers)

    def _configuration(self, servers: Sequence[int], certificate: Path | None) -> str:
        configuration = (DEPLOY / "haproxy-ollama.cfg").read_text()
        for old, new in self._edits.items():
            assert old in configuration, old
            configuration = configuration.replace(old, new)
        ports = dict(zip(SHIPPED_OLLAMA_PORTS, servers, strict=True))
        return replace_ports(configuration, {OLLAMA_PORT: self.port, **ports})


def with_ports(configuration: str, port: int, servers: Sequence[int]) -> str:
    """Return a shipped file with other ports."""
    return replace_ports(configuration, {8000: port, **dict(zip(SHIPPED_PORTS, servers, strict=True))})


def replace_ports(configuration: str, ports: Mapping[int, int]) -> str:
    """Return a configuration in which each address of this machine has the port that ``ports`` has for its own."""
    return re.sub(r"127\.0\.0\.1:(\d+)", lambda match: f"127.0.0.1:{ports[int(match[1])]}", configuration)


def with_tls(configuration: str, certificate: Path) -> str:
    """Return a shipped file with its TLS lines enabled and its plain HTTP listener removed."""
    plain_http = r"( *)(?:bind|listen) 127\.0\.0\.1:8000;?\n"
    configuration, removed = re.subn(plain_http, "", configuration)
    on = r"^( *)#((?:bind :443 ssl|listen 443 ssl|ssl_certificate|ssl_protocols).*)$"
    configuration, added = re.subn(on, r"\1\2", configuration, flags=re.MULTILINE)
    assert removed == 1 and added in (1, 4), configuration
    configuration = re.sub(r"/etc/(?:haproxy|nginx)/chatterd\.(?:pem|crt|key)", str(certificate), configuration)
    return re.sub(r"(bind |listen ):?443 ", r"\g<1>127.0.0.1:8000 ", configuration)


def command(name: str, file: Path, folder: Path) -> list[str]:
    """Return the command that runs a balancer in the foreground, with its PID file in ``folder``."""
    if name == "haproxy":
        return ["haproxy", "-db", "-f", str(file)]
    return ["nginx", "-e", "stderr", "-c", str(file), "-g", f"daemon off; pid {folder}/nginx.pid;"]
