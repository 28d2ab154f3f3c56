"""CPU time and memory of a process with all its descendants, and of the machine, as the kernel counts them."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in bytes.

    :ivar rss: resident set size.
    :ivar uss: unique set size, the part of it that no other process shares.
    :ivar peak: the highest resident set size so far.
    """

    rss: int
    uss: int
    peak: int


def tree(root: int) -> list[int]:
    """Return the ids of a process and its living descendants."""
    found = [root]
    for pid in found:
        with suppress(OSError):  # it has exited
            for thread in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def cpu_seconds(root: int) -> float:
    """Return the CPU time of a process, its threads and its descendants, those that have exited included."""
    return sum(_own_seconds(pid) + _reaped_seconds(pid) for pid in tree(root))


def _own_seconds(pid: int) -> float:
    """Read the process's CPU clock, in nanoseconds' resolution (the clock id is that of clock_getcpuclockid(3))."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def _reaped_seconds(pid: int) -> float:
    """Return the CPU time of its children that have exited."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[13]) + int(fields[14])) * TICK


@dataclass(frozen=True, slots=True)
class CoreTime:
    """Seconds since boot, summed over all cores.

    :ivar busy: spent by this machine's own processes and interrupts.
    :ivar stolen: spent waiting for the hypervisor (steal time).
    """

    busy: float
    stolen: float


def core_time() -> CoreTime:
    """Read the machine's CPU time from /proc/stat."""
    fields = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return CoreTime((user + nice + system + irq + softirq) * TICK, steal * TICK)


def memory(root: int) -> Memory:
    """Return the memory of a process and its descendants. Pages that these share count several times in ``rss``."""
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
