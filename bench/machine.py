"""The machine: its name, and which of its cores works for whom."""

import os
import platform
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.database import rows

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venv/bin/python"
"""The Python that runs chatterd; the benchmark itself runs in .venv/bench."""

_ours = sorted(os.sched_getaffinity(0))
SERVER_CORE = {_ours[0]}
"""For the server under test, and nothing else."""

OTHER_CORES = set(_ours[1:]) or SERVER_CORE
"""For the load generator, PostgreSQL and the benchmark."""


def prepare() -> None:
    """Move this process, and so all it starts, to the other cores, and let all of it open as many files as may be."""
    os.sched_setaffinity(0, OTHER_CORES)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def on_server_core() -> Iterator[None]:
    """What is started in this block runs on the server's core."""
    os.sched_setaffinity(0, SERVER_CORE)
    try:
        yield
    finally:
        os.sched_setaffinity(0, OTHER_CORES)


def describe(postgres_url: str) -> dict[str, str]:
    """Name the machine and what is on it."""
    [postgres] = rows(postgres_url, "SHOW server_version")
    return {
        "CPU": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": _python_version(),
        "PostgreSQL": str(postgres[0]),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _python_version() -> str:
    said = subprocess.run([PYTHON, "--version"], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    return said.stdout.strip().removeprefix("Python ")


def load_average() -> float:
    """How many processes wanted a core in the last minute."""
    return os.getloadavg()[0]
