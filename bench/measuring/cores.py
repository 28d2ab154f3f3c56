"""Which CPU core runs what."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

_available = sorted(os.sched_getaffinity(0))
SERVER_CORE = {_available[0]}
"""Reserved for the server under test."""

OTHER_CORES = set(_available[1:]) or SERVER_CORE
"""For the load generator, PostgreSQL and the benchmark itself."""


def prepare() -> None:
    """Move this process and its future children to the other cores, and raise the limit of open files."""
    os.sched_setaffinity(0, OTHER_CORES)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def on_server_core() -> Iterator[None]:
    """Start processes on the server's core within the block."""
    os.sched_setaffinity(0, SERVER_CORE)
    try:
        yield
    finally:
        os.sched_setaffinity(0, OTHER_CORES)
