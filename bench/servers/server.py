"""A server under test: started on its own core, waited for, stopped."""

import http.client
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.errors import BenchError
from bench.measuring.cores import on_server_core
from bench.servers.contender import Contender

START_TIMEOUT = 30.0
"""Seconds until a server must be ready."""

STOP_TIMEOUT = 15.0
"""Seconds until it must have exited after SIGTERM."""

POLL_INTERVAL = 0.002
"""Seconds between two readiness checks."""


class Server:
    """A running contender, ready within the ``with`` block and stopped with all its processes after it.

    :ivar seconds_to_ready: how long its start took.
    """

    def __init__(self, contender: Contender, database_url: str, ollama_port: int, folder: Path) -> None:
        self.contender = contender
        self.port = free_port()
        self._log = folder / f"{contender.file_name}.log"
        ollama = f"127.0.0.1:{ollama_port}"
        self._command = contender.command(self.port, ollama)
        self._environment = contender.environment(self.port, ollama, database_url)

    @property
    def pid(self) -> int:
        """The id of the process that was started."""
        return self._process.pid

    def __enter__(self) -> Self:
        started = time.monotonic()
        with self._log.open("wb") as log, on_server_core():
            self._process = subprocess.Popen(  # noqa: S603 - contenders are of this repository
                self._command,
                cwd=self.contender.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        self.seconds_to_ready = time.monotonic() - started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        label = self.contender.label
        while not self._is_ready():
            if self._process.poll() is not None:
                raise BenchError(f"{label} exited while starting: {self._log_tail()}")
            if time.monotonic() > deadline:
                raise BenchError(f"{label} is not ready after {START_TIMEOUT:g} s: {self._log_tail()}")
            time.sleep(POLL_INTERVAL)

    def _is_ready(self) -> bool:
        try:
            if not self.contender.ready_path:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return True
            return get(self.port, self.contender.ready_path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _log_tail(self) -> str:
        return " / ".join(self._log.read_text(errors="replace").splitlines()[-3:]) or "its log is empty"

    def _stop(self) -> None:
        try:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def get(port: int, path: str) -> tuple[int, bytes]:
    """Send a GET request to a server on this machine, and return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
