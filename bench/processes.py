"""What processes use: the CPU time and the memory of one and of all it has started, as the kernel counts them."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes.

    :ivar rss: resident.
    :ivar uss: of it, what no other process shares.
    :ivar peak: the most that was ever resident.
    """

    rss: int
    uss: int
    peak: int


def tree(root: int) -> list[int]:
    """A process and all that it has started and that live."""
    found = [root]
    for pid in found:
        with suppress(OSError):  # it has ended
            for thread in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def cpu_seconds(root: int) -> float:
    """CPU time of a process, all its threads, and all that it has ever started."""
    return sum(_own_seconds(pid) + _reaped_seconds(pid) for pid in tree(root))


def _own_seconds(pid: int) -> float:
    """To the nanosecond, by the process's own clock (clock_getcpuclockid(3), as glibc and the kernel encode it)."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def _reaped_seconds(pid: int) -> float:
    """Of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[13]) + int(fields[14])) * TICK


def busy_seconds() -> float:
    """How long all cores together have worked since the machine's start, for its own processes or for its host."""
    fields = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) * TICK


def memory(root: int) -> Memory:
    """Memory of a process and all that it has started. What they share counts once for each, but in ``uss``."""
    rss = uss = peak = 0
    for pid in tree(root):
        with suppress(OSError):
            rollup = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"))
            rss += rollup["Rss"]
            uss += rollup["Private_Clean"] + rollup["Private_Dirty"]
            peak += _kilobytes(Path(f"/proc/{pid}/status"))["VmHWM"]
    return Memory(rss * 1024, uss * 1024, peak * 1024)


def _kilobytes(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {fields[0].rstrip(":"): int(fields[1]) for fields in lines if fields[-1] == "kB"}
