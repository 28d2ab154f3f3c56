"""Several processes on one database: a model that signs its lines, advisory locks, and a PostgreSQL to crash."""

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from embedded.postgres import EmbeddedPostgres
from embedded.postgres.file_lock import is_locked
from tests.database import eventually, postmaster_pid, rows
from tests.fakes.ollama import Prompt, Words


@dataclass(eq=False, kw_only=True)
class SignedWords(Words):
    """The model of ``Words`` with a field ``asked`` in each line: the number of the request that it answers.

    Two processes that both extend a reply would write the same words; ``asked`` distinguishes their lines.
    """

    _requests: Iterator[int] = field(default_factory=itertools.count)

    def signature(self, prompt: Prompt) -> Mapping[str, Any]:
        return {"asked": next(self._requests)}


def words(count: int, first: int = 0) -> str:
    """Return the model's text from word ``first`` up to word ``count``."""
    return "".join(f"w{number} " for number in range(first, count))


def lock_holders(url: str, owner: int) -> list[int]:
    """Return the PIDs of the backends that hold a process's advisory lock: its lease session, or none."""
    query = """
        SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32) | objid::bigint = $1
    """
    return [int(row["pid"]) for row in rows(url, query, owner)]


def lock_holder(url: str, owner: int) -> int:
    """Return the PID of the backend that holds a process's advisory lock."""
    [pid] = lock_holders(url, owner)
    return pid


class OwnPostgres:
    """A PostgreSQL for one test, which can be restarted and crashed within its ``with`` block."""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="chatterd-own-"))
        self._server = EmbeddedPostgres(self._folder / "postgres")
        self.url = self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop()
        shutil.rmtree(self._folder)

    def restart(self, mode: str) -> None:
        """Restart it and wait until it accepts connections.

        :param mode: as pg_ctl's: ``fast`` ends all sessions in order, ``immediate`` is a crash.
        """
        os.kill(postmaster_pid(self._folder / "postgres"), {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
        lock = self._folder / "postgres-run" / "server.lock"
        eventually("PostgreSQL has ended", lambda: not is_locked(lock))
        assert self._server.start() == self.url
