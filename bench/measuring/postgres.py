"""The PostgreSQL that all servers under test share: a database for each, and messages to fill it with."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from embedded.postgres import EmbeddedPostgres
from tests.database import execute

TEXT = "repeat('four words of text. ', 10)"


class Postgres:
    """A PostgreSQL in a temporary folder; both are removed at the end of the ``with`` block.

    :ivar url: URL of its maintenance database.
    :ivar pid: id of the postmaster.
    """

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="chatterd-bench-"))
        self._server = EmbeddedPostgres(self._folder / "postgres")
        self._numbers = count()
        try:
            self.url = self._server.start()
            self.pid = self._find_pid()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        try:
            self._server.stop()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _find_pid(self) -> int:
        return int((self._folder / "postgres/postmaster.pid").read_text().split()[0])

    @contextmanager
    def database(self, statements: str = "") -> Iterator[str]:
        """Create a database for the block, run ``statements`` in it, and return its URL."""
        name = f"bench_{next(self._numbers)}"
        execute(self.url, f"CREATE DATABASE {name}")
        try:
            url = urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))
            if statements:
                execute(url, statements)
            yield url
        finally:
            execute(self.url, f"DROP DATABASE {name} WITH (FORCE)")


def fill_with_others(url: str, messages: int, one_in: int, appid: str) -> None:
    """Insert messages into chatterd's table: one in ``one_in`` into conversation ``appid``, the rest into thousands
    of other conversations."""
    execute(
        url,
        f"""
        INSERT INTO chatts (appid, username, message)
        SELECT CASE WHEN n % {one_in} = 0 THEN '{appid}' ELSE 'other-' || n % 9973 END, {_role(f"n / {one_in}")}, {TEXT}
        FROM generate_series(1, {messages}) AS n ORDER BY n
        """,
    )
    execute(url, "VACUUM (ANALYZE) chatts")


def fill_conversations(url: str, appid: str, conversations: int, messages: int) -> None:
    """Insert ``messages`` messages into each of the conversations ``appid-0``, ``appid-1``, ..., interleaved."""
    execute(
        url,
        f"""
        INSERT INTO chatts (appid, username, message)
        SELECT '{appid}-' || c, {_role("n")}, {TEXT}
        FROM generate_series(1, {messages}) AS n, generate_series(0, {conversations - 1}) AS c ORDER BY n, c
        """,
    )
    execute(url, "VACUUM (ANALYZE) chatts")


def _role(number: str) -> str:
    return f"CASE WHEN {number} % 2 = 1 THEN 'user' ELSE 'assistant' END"
