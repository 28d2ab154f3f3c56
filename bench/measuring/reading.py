"""Readings of all clocks during a load, and the resources used between two of them."""

from dataclasses import dataclass

from bench.errors import BenchError
from bench.measuring.cores import OTHER_CORES
from bench.measuring.values import Values


@dataclass(frozen=True, slots=True)
class Reading:
    """The clocks at one moment, in seconds.

    :ivar lines: lines that had reached their clients.
    :ivar time: monotonic clock.
    :ivar server: CPU time of the server under test.
    :ivar postgres: CPU time of PostgreSQL.
    :ivar load: CPU time of the load generator.
    :ivar busy: CPU time of all processes of the machine.
    :ivar stolen: steal time of all cores.
    """

    lines: int
    time: float
    server: float
    postgres: float
    load: float
    busy: float
    stolen: float


def steady_window(readings: dict[str, Reading]) -> tuple[Reading, Reading]:
    """Return the readings between which all streams ran.

    :raises BenchError: there are none.
    """
    if "steady" in readings and readings["steady"].lines < readings["ending"].lines:
        return readings["steady"], readings["ending"]
    if "tick" in readings and readings["tick"].lines:
        return readings["listening"], readings["tick"]
    raise BenchError("the load ended too soon to be measured")


def used_between(before: Reading, after: Reading) -> Values:
    """Return what was used between two readings: by line, and as shares of a core."""
    lines, seconds = after.lines - before.lines, after.time - before.time
    server = after.server - before.server
    postgres = after.postgres - before.postgres
    load = after.load - before.load
    others = after.busy - before.busy - server - postgres - load
    return {
        "seconds": seconds,
        "lines": lines,
        "cpu_us": server / lines * 1e6,
        "postgres_us": postgres / lines * 1e6,
        "load_us": load / lines * 1e6,
        "server_share": server / seconds,
        "load_share": load / seconds,
        "load_and_postgres_share": (load + postgres) / seconds / len(OTHER_CORES),
        "other_cores": max(0.0, others / seconds),
        "stolen_cores": (after.stolen - before.stolen) / seconds,
    }


def cpu_us_per_line(before: Reading, after: Reading) -> float:
    """Return the server's CPU time for each line between two readings, in microseconds."""
    return (after.server - before.server) / max(1, after.lines - before.lines) * 1e6
