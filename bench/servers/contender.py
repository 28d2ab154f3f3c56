"""The description of a server that can be measured."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.paths import ROOT


def database_in_environment(port: int, ollama: str, database_url: str) -> Mapping[str, str]:
    """Return this process's environment with ``DATABASE_URL``."""
    return os.environ | {"DATABASE_URL": database_url}


def nothing_to_set_up() -> str | None:
    """Do nothing: ``make bench`` has set it up."""
    return None


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that can be measured.

    :param key: its name on the command line and in results.json.
    :param label: its name in tables and plots.
    :param command: returns the command line for a port and Ollama's ``host:port``.
    :param environment: returns the environment for the same and a database URL.
    :param set_up: installs and builds it, quickly the second time; returns the reason if it is not available here.
    :param folder: its working directory.
    :param durable: whether every line that a client sees is in PostgreSQL first, for later viewers too.
    :param tables: SQL for an empty database, if the server has no migrations of its own.
    :param ready_path: answers 200 once the server is ready; "" if accepting connections is enough.
    :param unavailable: what ``set_up`` returned.
    """

    key: str
    label: str
    command: Callable[[int, str], Sequence[str]]
    environment: Callable[[int, str, str], Mapping[str, str]] = database_in_environment
    set_up: Callable[[], str | None] = nothing_to_set_up
    folder: Path = ROOT
    durable: bool = False
    tables: str = ""
    ready_path: str = ""
    unavailable: str | None = None

    @property
    def file_name(self) -> str:
        """The key with everything replaced that a file name cannot hold."""
        return re.sub(r"[^\w.@-]", "_", self.key)
