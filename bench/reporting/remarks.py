"""Remarks on measurements whose circumstances may have affected them."""

import statistics

from bench.reporting.results import Results, Row
from bench.reporting.samples import median, samples

BUSY = 0.8
"""Share of its core from which on the load generator's own waiting may be in the latencies."""

KEPT_UP = 0.97
"""Share of the lines offered that a server must relay in time, or its backlog grows."""

OTHER_CORES = 0.2
"""Cores used by other processes that are worth a remark."""

STOLEN_CORES = 0.05
"""The same, of steal time."""


def remarks(row: Row) -> str:
    """Return remarks, separated by semicolons; "" if there are none."""
    if not any("kept_up" in values for values in row):
        return ""
    found = []
    if (kept_up := median(row, "kept_up")) < KEPT_UP:
        found.append(f"relayed {kept_up:.0%} of the lines in time")
    streams, complete = (sum(samples(row, name).values()) for name in ("streams", "complete"))
    if streams > complete:
        found.append(f"{streams - complete:,.0f} of {streams:,.0f} replies were incomplete")
    if (load := median(row, "load_share")) > BUSY:
        found.append(f"the load generator used {load:.0%} of its core")
    elif (both := median(row, "load_and_postgres_share")) > BUSY:
        found.append(f"load generator and PostgreSQL used {both:.0%} of their core")
    if (others := median(row, "other_cores")) > OTHER_CORES:
        found.append(f"other processes used {others:.1f} cores")
    if (stolen := _steal(row)) > STOLEN_CORES:
        found.append(f"the hypervisor took {stolen:.2f} cores")
    return "; ".join(found)


def _steal(row: Row) -> float:
    return statistics.median(samples(row, "stolen_cores").values() or [0.0])


def interference(results: Results) -> str:
    """Return a warning if other processes or the hypervisor used the machine during the runs; "" if not."""
    runs = [values for rows in results.sections.values() for row in rows.values() for values in row]
    others = [values["other_cores"] for values in runs if "other_cores" in values]
    stolen = [values["stolen_cores"] for values in runs if "stolen_cores" in values]
    warnings = []
    if busy := sum(value > OTHER_CORES for value in others):
        warnings.append(f"other processes used more than {OTHER_CORES} cores (at most {max(others):.1f}) in {busy}")
    if busy := sum(value > STOLEN_CORES for value in stolen):
        warnings.append(f"steal time was more than {STOLEN_CORES} cores (at most {max(stolen):.2f}) in {busy}")
    if not warnings:
        return ""
    return f"The machine was busy, so figures may be wrong: {', and '.join(warnings)} of {len(others)} runs."
