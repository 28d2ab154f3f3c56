"""chatterd's figures as ratios to a reference server, on all machines tried."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from bench.reporting import figures
from bench.reporting.comparison import grid
from bench.reporting.machines import Machines, Recorded
from bench.reporting.results import Results
from bench.reporting.samples import ratio
from bench.servers.catalog import CHATTERD, REFERENCE

RATIOS = {
    "cpu": ("CPU per line", figures.CPU),
    "burst": ("first event of 200 simultaneous prompts, p50", figures.BURST),
    "one": ("first event of one prompt at a time, p50", figures.ONE_PROMPT),
    "latency": ("added latency p50", figures.LATENCY),
    "rss": ("RSS", figures.RSS),
}
"""By the name in results.json: label and figure."""


@dataclass(frozen=True, slots=True)
class Range:
    """A ratio: lowest, median if known, highest."""

    low: float
    middle: float | None
    high: float

    def __str__(self) -> str:
        ends = f"{_digits(self.low)} – {_digits(self.high)}"
        if self.middle is None:
            return ends
        middle = _digits(self.middle)
        return middle if _digits(self.low) == _digits(self.high) else f"{middle} ({ends})"


@dataclass(frozen=True, slots=True)
class MachineRatios:
    """The ratios on one machine to one server, by the names of ``RATIOS``."""

    machine: str
    date: str
    base: str
    ratios: dict[str, Range]


def machine_ratios(machines: Machines) -> list[MachineRatios]:
    """Return the ratios of all machines tried."""
    measured = [_measured(results) for results in machines.results.values()]
    return [one for one in measured if one.ratios] + [_recorded(one) for one in machines.recorded]


def _measured(results: Results) -> MachineRatios:
    found = {}
    for name, (_, figure) in RATIOS.items():
        ratios = ratio(figure.samples(results, CHATTERD.key), figure.samples(results, REFERENCE.key)).values()
        if ratios:
            found[name] = Range(min(ratios), statistics.median(ratios), max(ratios))
    return MachineRatios(results.cpu, results.written, results.labels.get(REFERENCE.key, REFERENCE.label), found)


def _recorded(recorded: Recorded) -> MachineRatios:
    found = {}
    for name, ours in recorded.ours.items():
        if theirs := recorded.theirs.get(name):
            low, middle, high = ours
            base_low, base, base_high = theirs
            found[name] = Range(
                _divide(low, middle, base_high, base),
                middle / base if middle and base else None,
                _divide(high, middle, base_low, base),
            )
    return MachineRatios(recorded.machine, recorded.date, recorded.base, found)


def _divide(value: float | None, median: float | None, base: float | None, base_median: float | None) -> float:
    """Divide the end of a range, or the median where the end is unknown."""
    above, below = value or median, base or base_median
    if not above or not below:
        raise ValueError("a recorded figure needs a range or a median")
    return above / below


def ratio_table(machines: Machines) -> str:
    """Write a line for each machine and server, and one for the range over all of them."""
    rows = machine_ratios(machines)
    head = ("machine", "date", "ratios to", *(f"{label}, ×" for label, _ in RATIOS.values()))
    lines = [(row.machine, row.date, row.base, *_cells(row.ratios)) for row in rows]
    return grid(head, [*lines, ("**range over all machines and runs**", "", "", *_overall(rows))])


def _cells(ratios: dict[str, Range]) -> Iterator[str]:
    return (str(ratios.get(name, "–")) for name in RATIOS)


def _overall(rows: list[MachineRatios]) -> Iterator[str]:
    for name in RATIOS:
        ranges = [row.ratios[name] for row in rows if name in row.ratios]
        if not ranges:
            yield "–"
        else:
            yield f"**{_digits(min(one.low for one in ranges))} – {_digits(max(one.high for one in ranges))}**"


def _digits(value: float) -> str:
    """Write a ratio with two or three digits."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 3 else f"{value:.2f}"
