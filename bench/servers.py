"""A server under test: started on its own core, ready, ended."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.failure import Failed
from bench.machine import ROOT, on_server_core

START_TIMEOUT = 30.0
"""Seconds until a server must be ready."""

STOP_TIMEOUT = 15.0
"""Seconds until it must have ended after SIGTERM."""

POLL = 0.002
"""Seconds between two looks whether it is ready."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A program that can be put under test.

    :param key: its name on the command line and in results.json.
    :param label: its name in tables and plots.
    :param command: makes its command line for a port and Ollama's ``host:port``.
    :param environment: the same with a database's URL, for its environment.
    :param set_up: installs and builds it; says why that cannot be done here, or None.
    :param durable: whether what it shows is in PostgreSQL first.
    :param tables: statements for an empty database that it does not set up itself.
    :param ready_path: what it answers with 200 as soon as it is ready; "" if it is when it takes connections.
    :param missing: what ``set_up`` said.
    """

    key: str
    label: str
    command: Callable[[int, str], Sequence[str]]
    environment: Callable[[int, str, str], Mapping[str, str]]
    set_up: Callable[[], str | None]
    durable: bool = False
    tables: str = ""
    ready_path: str = ""
    missing: str | None = None


class Server:
    """A running contender, ready within the ``with`` block, and ended with all its processes after it.

    :ivar seconds_to_ready: how long its start took.
    """

    def __init__(self, contender: Contender, database_url: str, ollama_port: int, folder: Path) -> None:
        self.contender = contender
        self.port = free_port()
        self._log = folder / f"{contender.key}.log"
        ollama = f"127.0.0.1:{ollama_port}"
        self._command = contender.command(self.port, ollama)
        self._environment = contender.environment(self.port, ollama, database_url)

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def __enter__(self) -> Self:
        started = time.monotonic()
        with self._log.open("wb") as log, on_server_core():
            self._process = subprocess.Popen(  # noqa: S603 - contenders are of this repository
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        self.seconds_to_ready = time.monotonic() - started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._ready():
            if self._process.poll() is not None:
                raise Failed(f"{self.contender.label} ended at its start: {self._last_words()}")
            if time.monotonic() > deadline:
                raise Failed(f"{self.contender.label} is not ready after {START_TIMEOUT:g} s: {self._last_words()}")
            time.sleep(POLL)

    def _ready(self) -> bool:
        try:
            if not self.contender.ready_path:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return True
            return get(self.port, self.contender.ready_path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _last_words(self) -> str:
        return " / ".join(self._log.read_text(errors="replace").splitlines()[-3:]) or "it said nothing"

    def _end(self) -> None:
        try:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def get(port: int, path: str) -> tuple[int, bytes]:
    """Ask a server of this machine for something small: the answer's status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
