"""Memory and CPU time of this process, from the operating system."""

import os
import resource
import sys
from pathlib import Path
from time import process_time

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1_024
"""Bytes per unit of ``ru_maxrss``: kilobytes on Linux (getrusage(2)), bytes on macOS."""


def memory_bytes() -> int:
    """Return the resident memory (proc(5), ``statm``); without /proc, its maximum so far."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * PAGE_SIZE
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def cpu_seconds() -> float:
    """Return the CPU time since the start of this process, in seconds."""
    return process_time()
