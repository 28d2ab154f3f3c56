"""One measurement: a server freshly started on an empty database, under a load."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchError
from bench.measuring import processes
from bench.measuring.load_generator import Event, Load, Traffic
from bench.measuring.postgres import Postgres
from bench.measuring.reading import Reading, steady_window, used_between
from bench.measuring.values import Values
from bench.servers.contender import Contender
from bench.servers.server import Server, free_port

DISCONNECT_TIME = 0.3
"""Seconds in which a server notices that the stub Ollama of the previous load has closed its connections."""


class Site:
    """A server under test with its PostgreSQL database and the port of its stub Ollama."""

    def __init__(
        self, server: Server, postgres: Postgres, database_url: str, ollama_port: int, report: Callable[[str], None]
    ) -> None:
        self.server = server
        self.database_url = database_url
        self._postgres = postgres
        self._ollama_port = ollama_port
        self._report = report

    def load(self, traffic: Traffic) -> Load:
        """Return a load on this server, not yet started."""
        return Load(traffic, self._ollama_port, self._ollama_port if traffic.direct else self.server.port)

    def run(self, traffic: Traffic) -> Values:
        """Run a load to its end; return the resources used while all its streams ran, and the clients' figures.

        If a server is so slow that the first stream ends before the last one begins, it is measured from its first
        line on.
        """
        readings: dict[str, Reading] = {}
        with self.load(traffic) as load:
            for event in load.events():
                if event["event"] != "over":
                    readings[event["event"]] = self.read(event, load)
                if event["event"] == "ending":
                    memory = processes.memory(self.server.pid)
        time.sleep(DISCONNECT_TIME)
        seen = self._client_figures(event)
        before, after = steady_window(readings)
        return {
            **used_between(before, after),
            **seen,
            "kept_up": (after.lines - before.lines) / (after.time - before.time) / traffic.streams / traffic.rate,
            "rss": memory.rss,
            "uss": memory.uss,
            "peak": processes.memory(self.server.pid).peak,
        }

    def run_clients(self, traffic: Traffic) -> Values:
        """Run a load to its end; return only the clients' figures."""
        with self.load(traffic) as load:
            over = load.wait_for("over")
        time.sleep(DISCONNECT_TIME)
        return self._client_figures(over)

    def _client_figures(self, over: Event) -> Values:
        """Return the clients' figures from a load's last event; latencies in microseconds."""
        if not over["complete"]:
            raise BenchError(_incomplete(over))
        if over["complete"] < over["streams"]:
            self._report(f"{self.server.contender.label}: {_incomplete(over)}")
        values: Values = {"streams": over["streams"], "complete": over["complete"]}
        for name, percentiles in (("latency", over["latency_us"]), ("first", over["first_event_us"])):
            values |= {f"{name}_{which}_us": value for which, value in (percentiles or {}).items()}
        return values

    def read(self, event: Event, load: Load) -> Reading:
        """Read all clocks at an event of the load."""
        machine = processes.core_time()
        return Reading(
            event["lines"],
            time.monotonic(),
            processes.cpu_seconds(self.server.pid),
            processes.cpu_seconds(self._postgres.pid),
            processes.cpu_seconds(load.pid),
            machine.busy,
            machine.stolen,
        )


@contextmanager
def site(postgres: Postgres, contender: Contender, folder: Path, report: Callable[[str], None]) -> Iterator[Site]:
    """Start a contender for the block, on a database of its own.

    :param folder: for the server's log.
    :param report: prints a message, here on replies that were incomplete.
    :raises BenchError: the contender is unavailable or does not start.
    """
    if contender.unavailable:
        raise BenchError(contender.unavailable)
    ollama_port = free_port()
    with postgres.database(contender.tables) as url, Server(contender, url, ollama_port, folder) as server:
        yield Site(server, postgres, url, ollama_port, report)


def _incomplete(over: Event) -> str:
    first = f"; {over['errors'][0]}" if over["errors"] else ""
    return f"{over['complete']} of {over['streams']} streams were complete{first}"
