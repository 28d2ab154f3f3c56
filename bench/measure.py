"""One measurement: a server freshly started on an empty database, under a load; what it used, what its clients saw."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.failure import Failed
from bench.machine import OTHER_CORES
from bench.postgres import Postgres
from bench.results import Values
from bench.servers import Contender, Server, free_port
from bench.traffic import Event, Load, Traffic

STALE = 0.3
"""Seconds in which a server notices that the Ollama of the load before is gone, and its connections with it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The clocks of all that takes part, in seconds, and how many lines had reached their clients."""

    lines: int
    time: float
    server: float
    postgres: float
    load: float
    cores: float


class Site:
    """One server under test, and the PostgreSQL and the port of the Ollama that it uses."""

    def __init__(
        self, server: Server, postgres: Postgres, database_url: str, ollama_port: int, say: Callable[[str], None]
    ) -> None:
        self.server = server
        self.database_url = database_url
        self._postgres = postgres
        self._ollama_port = ollama_port
        self._say = say

    def load(self, traffic: Traffic) -> Load:
        """A load on this server, not yet begun."""
        return Load(traffic, self._ollama_port, self._ollama_port if traffic.direct else self.server.port)

    def run(self, traffic: Traffic) -> Values:
        """Let a load run to its end: what was used while all its streams ran, what its clients saw.

        A server so slow that its first stream ends before its last one begins is measured from its first line on.
        """
        readings: dict[str, Reading] = {}
        with self.load(traffic) as load:
            for event in load.events():
                if event["event"] != "over":
                    readings[event["event"]] = self.read(event, load)
                if event["event"] == "ending":
                    memory = processes.memory(self.server.pid)
        time.sleep(STALE)
        seen = self._seen(event)
        before, after = _window(readings)
        return {
            **_used(before, after),
            **seen,
            "kept_up": (after.lines - before.lines) / (after.time - before.time) / traffic.streams / traffic.rate,
            "rss": memory.rss,
            "uss": memory.uss,
            "peak": processes.memory(self.server.pid).peak,
        }

    def run_to_the_end(self, traffic: Traffic) -> Values:
        """Let a load run to its end: only what its clients saw."""
        with self.load(traffic) as load:
            over = load.wait_for("over")
        time.sleep(STALE)
        return self._seen(over)

    def _seen(self, over: Event) -> Values:
        """What the clients of a load saw, of its last event; latencies in microseconds."""
        if not over["whole"]:
            raise Failed(_complaint(over))
        if over["whole"] < over["streams"]:
            self._say(f"{self.server.contender.label}: {_complaint(over)}")
        values: Values = {"streams": over["streams"], "whole": over["whole"]}
        for name, percentiles in (("latency", over["latency_us"]), ("first", over["first_event_us"])):
            values |= {f"{name}_{which}_us": value for which, value in (percentiles or {}).items()}
        return values

    def read(self, event: Event, load: Load) -> Reading:
        """Read all clocks at an event of the load."""
        return Reading(
            event["lines"],
            time.monotonic(),
            processes.cpu_seconds(self.server.pid),
            processes.cpu_seconds(self._postgres.pid),
            processes.cpu_seconds(load.pid),
            processes.busy_seconds(),
        )


@contextmanager
def site(postgres: Postgres, contender: Contender, folder: Path, say: Callable[[str], None]) -> Iterator[Site]:
    """Start a contender for the block, on a database of its own.

    :param say: tells whoever waits of replies that were not whole.
    """
    if contender.missing:
        raise Failed(contender.missing)
    ollama_port = free_port()
    with postgres.database(contender.tables) as url, Server(contender, url, ollama_port, folder) as server:
        yield Site(server, postgres, url, ollama_port, say)


def _window(readings: dict[str, Reading]) -> tuple[Reading, Reading]:
    """Between which readings the load was even; the server shall be judged by what it did there."""
    if "steady" in readings and readings["steady"].lines < readings["ending"].lines:
        return readings["steady"], readings["ending"]
    if "tick" in readings and readings["tick"].lines:
        return readings["listening"], readings["tick"]
    raise Failed("it was over too soon to be measured")


def _used(before: Reading, after: Reading) -> Values:
    lines, seconds = after.lines - before.lines, after.time - before.time
    server = after.server - before.server
    postgres = after.postgres - before.postgres
    load = after.load - before.load
    strangers = after.cores - before.cores - server - postgres - load
    return {
        "seconds": seconds,
        "lines": lines,
        "cpu_us": server / lines * 1e6,
        "postgres_us": postgres / lines * 1e6,
        "load_us": load / lines * 1e6,
        "share": server / seconds,
        "load_share": load / seconds,
        "others_share": (load + postgres) / seconds / len(OTHER_CORES),
        "strangers_cores": max(0.0, strangers / seconds),
    }


def cpu_us_per_line(before: Reading, after: Reading) -> float:
    """The server's CPU time for each line between two readings, in microseconds."""
    return (after.server - before.server) / max(1, after.lines - before.lines) * 1e6


def _complaint(over: Event) -> str:
    said = f"; {over['broken'][0]}" if over["broken"] else ""
    return f"{over['whole']} of {over['streams']} streams came whole{said}"
