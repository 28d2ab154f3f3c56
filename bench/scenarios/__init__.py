"""The scenarios: what is run, in which order, and under which names the values are kept."""

from collections.abc import Callable

from bench.scenarios import first, latency, long, memory, scaling, start, table, window
from bench.scenarios.context import Context

SCENARIOS: dict[str, Callable[[Context], None]] = {
    "table": table.measure,
    "latency": latency.measure,
    "first": first.measure,
    "memory": memory.measure,
    "long": long.measure,
    "start": start.measure,
    "scaling": scaling.measure,
    "window": window.measure,
}
"""By their names on the command line, which are the results' sections."""

FOR_REVISIONS = ("table", "latency", "first", "memory")
"""Measured by default when revisions are compared."""
