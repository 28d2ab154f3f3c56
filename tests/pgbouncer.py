"""Run PgBouncer with deploy/pgbouncer.ini in front of a PostgreSQL of the tests, or of all tests.

With ``CHATTERD_BEHIND_PGBOUNCER=1`` (``make test-pgbouncer``) every program that a test starts, and every ``Database``
in a test's own process, connects through a PgBouncer.
"""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit, urlunsplit

from db.pool import Database
from tests.balancers import DEPLOY, free_ports

EVERYTHING = os.environ.get("CHATTERD_BEHIND_PGBOUNCER") == "1"
"""Whether all tests run behind PgBouncer."""

START_TIMEOUT = 30.0
"""Seconds until it must accept connections."""

PASSWORD = "secret"


class PgBouncer:
    """A running PgBouncer.

    :param database_url: any database of the PostgreSQL behind it, by a socket folder or by host and port.
    :param pool_size: connections to PostgreSQL for each database.
    """

    def __init__(self, database_url: str, pool_size: int = 20) -> None:
        [self._port] = free_ports(1)
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        host, port = _place(database_url)
        configuration = (DEPLOY / "pgbouncer.ini").read_text()
        for shipped, ours in {
            "host=127.0.0.1 port=5432": f"host={host} port={port}",
            "listen_port = 6432": f"listen_port = {self._port}",
            "/etc/pgbouncer/userlist.txt": f"{self._folder}/userlist.txt",
            "default_pool_size = 20": f"default_pool_size = {pool_size}",
        }.items():
            assert shipped in configuration
            configuration = configuration.replace(shipped, ours)
        # Otherwise each test's database would keep connections of the PostgreSQL that all tests share.
        configuration += "server_idle_timeout = 1\n"
        (self._folder / "pgbouncer.ini").write_text(configuration)
        (self._folder / "userlist.txt").write_text(f'"postgres" "{PASSWORD}"\n')
        self._folder.chmod(0o755)
        # PgBouncer refuses to run as root; the socket's owner may connect.
        user = Path(host).owner() if host.startswith("/") else "nobody"
        self._command = ["pgbouncer", *(["--user", user] if os.getuid() == 0 else []), f"{self._folder}/pgbouncer.ini"]
        self.start()

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        self._output = (self._folder / "output").open("w")
        self._process = subprocess.Popen(self._command, stdout=self._output, stderr=self._output)
        deadline = time.monotonic() + START_TIMEOUT
        while self._process.poll() is None and time.monotonic() < deadline:
            if "process up" in self.output:
                return
            time.sleep(0.01)
        output = self.output
        self.stop()
        raise TimeoutError(f"PgBouncer does not start:\n{output}")

    def url(self, database_url: str) -> str:
        """Return a database's URL through the PgBouncer."""
        parts = urlsplit(database_url)
        return urlunsplit(parts._replace(netloc=f"postgres:{PASSWORD}@127.0.0.1:{self._port}", query="sslmode=disable"))

    @property
    def output(self) -> str:
        """Return its output so far."""
        return (self._folder / "output").read_text()

    def halt(self) -> None:
        """Stop it at once; all its connections are closed. :meth:`start` starts it again."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(START_TIMEOUT)
        self._output.close()

    def stop(self) -> None:
        """Stop it and remove its files."""
        self.halt()
        shutil.rmtree(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"PgBouncer said:\n{self.output[-5_000:]}")
        self.stop()


def _place(database_url: str) -> tuple[str, int]:
    """Return the host, or the socket's folder, and the port."""
    parts = urlsplit(database_url)
    folder = parse_qs(parts.query).get("host")
    if folder:
        return folder[0], parts.port or 5432
    assert parts.hostname
    return parts.hostname, parts.port or 5432


_running: dict[tuple[str, int], PgBouncer] = {}


def behind(database_url: str) -> str:
    """Return a database's URL through the PgBouncer of its PostgreSQL, which is started on the first call."""
    place = _place(database_url)
    if place not in _running:
        _running[place] = PgBouncer(database_url)
    return _running[place].url(database_url)


def put_everything_behind() -> None:
    """Make every :class:`db.pool.Database` of this process connect through a PgBouncer."""
    direct = Database.__init__

    def pooled(
        self: Database, url: str, size: int, acquire_timeout: float, session_url: str = "", **options: Any
    ) -> None:
        direct(self, url if session_url else behind(url), size, acquire_timeout, session_url or url, **options)

    Database.__init__ = pooled  # type: ignore[method-assign,assignment]


def stop_all() -> None:
    """Stop the PgBouncers that :func:`behind` started."""
    while _running:
        _running.popitem()[1].stop()
