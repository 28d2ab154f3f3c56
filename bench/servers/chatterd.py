"""chatterd as a contender: this tree, with and without its log, or the tree of another revision."""

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from bench.errors import BenchError
from bench.paths import PYTHON, ROOT
from bench.servers.contender import Contender

SETTINGS = {
    ("max-replies",): "4000",
    ("embedded-model",): "false",
    ("drain-timeout", "drain"): "0",
    ("logging",): "warning",
}
"""Values by the names of a setting, newest first: a revision gets the first name that its ``--help`` lists.

Settings whose unit has changed under one name (``journal-interval``) are left at their defaults, which mean the same.
"""

HELP_TIMEOUT = 30.0
"""Seconds that ``server.py --help`` may take."""


def chatterd(key: str, label: str, folder: Path = ROOT, program: Sequence[str] = ("server.py",)) -> Contender:
    """Describe the chatterd of a source tree. It runs on the packages of this tree's .venv."""

    def command(port: int, ollama: str) -> Sequence[str]:
        return [str(PYTHON), *program, f"--port={port}", f"--ollama-host={ollama}", *options(folder)]

    return Contender(key, label, command, set_up=_checker(folder), folder=folder, durable=True, ready_path="/readyz")


def _checker(folder: Path) -> Callable[[], str | None]:
    def check() -> str | None:
        try:
            options(folder)
        except BenchError as error:
            return str(error)
        return None

    return check


@cache
def options(folder: Path) -> list[str]:
    """Return the benchmark's settings as command line options, in the spelling of a source tree.

    :raises BenchError: its server.py does not start, or lacks a setting.
    """
    known = _known_options(folder)
    return list(_spell(known, folder))


def _spell(known: set[str], folder: Path) -> Iterator[str]:
    for names, value in SETTINGS.items():
        name = next((name for name in names if name in known), None)
        if name is None:
            raise BenchError(f"server.py in {folder} has no setting --{names[0]}")
        yield f"--{name}={value}"


def _known_options(folder: Path) -> set[str]:
    try:
        done = subprocess.run(  # noqa: S603 - a revision of this repository
            [PYTHON, "server.py", "--help"], cwd=folder, capture_output=True, text=True, timeout=HELP_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"server.py --help does not run in {folder}: {error}") from error
    # Tornado prints the help on stderr.
    if names := set(re.findall(r"^\s+--([a-z0-9-]+)", done.stdout + done.stderr, re.MULTILINE)):
        return names
    last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or [f"exit status {done.returncode}"]
    raise BenchError(f"server.py --help fails in {folder}: {last[0].strip()}")
