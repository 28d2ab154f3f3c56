"""PgBouncer as deploy/pgbouncer.ini sets it up, before a PostgreSQL of the tests; and the whole suite behind it.

With ``CHATTERD_BEHIND_PGBOUNCER=1`` (``make test-pgbouncer``) every program that a test starts on a database asks it
through a PgBouncer, and so does every ``Database`` in a test's own process.
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
"""Whether all tests run behind one."""

START_TIMEOUT = 30.0
"""Seconds until it must listen."""

PASSWORD = "secret"


class PgBouncer:
    """A running PgBouncer.

    :param database_url: any database of the PostgreSQL that it stands before, by a folder or by host and port.
    :param pool_size: sessions of PostgreSQL's for each database.
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
        # Else each test's database would keep sessions of the PostgreSQL that all tests share.
        configuration += "server_idle_timeout = 1\n"
        (self._folder / "pgbouncer.ini").write_text(configuration)
        (self._folder / "userlist.txt").write_text(f'"postgres" "{PASSWORD}"\n')
        self._folder.chmod(0o755)
        # Not as root, but as who may reach the socket.
        user = Path(host).owner() if host.startswith("/") else "nobody"
        self._command = ["pgbouncer", *(["--user", user] if os.getuid() == 0 else []), f"{self._folder}/pgbouncer.ini"]
        self.start()

    def start(self) -> None:
        """Begin to listen, and wait until it does."""
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
        """A database's URL, through the PgBouncer."""
        parts = urlsplit(database_url)
        return urlunsplit(parts._replace(netloc=f"postgres:{PASSWORD}@127.0.0.1:{self._port}", query="sslmode=disable"))

    @property
    def output(self) -> str:
        """What it has said so far."""
        return (self._folder / "output").read_text()

    def halt(self) -> None:
        """End it at once, with all its connections; :meth:`start` begins again."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(START_TIMEOUT)
        self._output.close()

    def stop(self) -> None:
        """End it for good."""
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
    """The host, or the folder of the socket, and the port."""
    parts = urlsplit(database_url)
    folder = parse_qs(parts.query).get("host")
    if folder:
        return folder[0], parts.port or 5432
    assert parts.hostname
    return parts.hostname, parts.port or 5432


_running: dict[tuple[str, int], PgBouncer] = {}


def behind(database_url: str) -> str:
    """The database's URL through the PgBouncer of its PostgreSQL, which is started for the first who asks."""
    place = _place(database_url)
    if place not in _running:
        _running[place] = PgBouncer(database_url)
    return _running[place].url(database_url)


def put_everything_behind() -> None:
    """Have every :class:`db.pool.Database` of this process ask a PgBouncer."""
    direct = Database.__init__

    def pooled(
        self: Database, url: str, size: int, acquire_timeout: float, session_url: str = "", **options: Any
    ) -> None:
        direct(self, url if session_url else behind(url), size, acquire_timeout, session_url or url, **options)

    Database.__init__ = pooled  # type: ignore[method-assign,assignment]


def stop_all() -> None:
    """End those that :func:`behind` has started."""
    while _running:
        _running.popitem()[1].stop()
