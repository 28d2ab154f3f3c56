"""A single chatterd with a PostgreSQL and a scripted Ollama, for the campaigns with hostile clients and models."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from embedded.postgres import EmbeddedPostgres
from tests.fakes.ollama import ScriptedOllama
from tests.program import Program

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Alone:
    """What runs."""

    program: Program
    ollama: ScriptedOllama
    database_url: str

    @property
    def port(self) -> int:
        return int(urlsplit(self.program.url).port or 0)

    @property
    def memory(self) -> float:
        """Resident memory of chatterd, in megabytes."""
        return float(psutil.Process(self.program.process.pid).memory_info().rss) / MEGABYTE

    @property
    def files(self) -> int:
        """How many files and sockets it has open."""
        return int(psutil.Process(self.program.process.pid).num_fds())


@contextmanager
def alone(**settings: object) -> Iterator[Alone]:
    """Run it."""
    folder = Path(tempfile.mkdtemp(prefix="chatterd-soak-"))
    postgres = EmbeddedPostgres(folder / "postgres")
    try:
        url = postgres.start()
        with (
            ScriptedOllama() as ollama,
            Program(
                database_url=url, ollama_host=ollama.url, embedded_model=False, drain_timeout=1, **settings
            ) as program,
        ):
            yield Alone(program, ollama, url)
    finally:
        postgres.stop()
        shutil.rmtree(folder)
