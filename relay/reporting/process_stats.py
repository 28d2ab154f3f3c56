"""What the operating system says of this process: its memory and its processor time."""

import os
import resource
import sys
from pathlib import Path
from time import process_time

PAGE = os.sysconf("SC_PAGE_SIZE")
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1_024
"""Bytes; getrusage(2) counts kilobytes on Linux."""


def memory_bytes() -> int:
    """Bytes of memory that this process holds now (proc(5), ``statm``); where there is no /proc, held at most."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * PAGE
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def cpu_seconds() -> float:
    """Seconds that this process has kept a core busy since it started."""
    return process_time()
