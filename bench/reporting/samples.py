"""The values of one figure by run: their median and range, their ratios run by run."""

import statistics
from collections.abc import Sequence

from bench.reporting.results import Row

Samples = dict[int, float]
"""A figure's values, by the number of the run."""


MARKED_RUNS = 5
"""Runs from which on a ratio is marked: by chance all of 5 lie on the same side of 1 for one figure in 16."""


def samples(row: Row, name: str, scale: float = 1.0) -> Samples:
    """Return a value of a row's runs."""
    return {int(values["run"]): values[name] * scale for values in row if name in values}


def median(row: Row, name: str) -> float:
    """Return the median of a value over a row's runs."""
    return statistics.median(samples(row, name).values())


def slope(series: Sequence[tuple[float, Row]], name: str, scale: float = 1.0) -> Samples:
    """Return, run by run, by how much a value grows with each one more."""
    found: Samples = {}
    by_number = [(number, samples(row, name, scale)) for number, row in series]
    for run in by_number[0][1] if len(by_number) > 1 else ():
        points = [(number, values[run]) for number, values in by_number if run in values]
        if len(points) > 1:
            found[run] = statistics.linear_regression(*zip(*points, strict=True)).slope
    return found


def ratio(values: Samples, base: Samples) -> Samples:
    """Return the ratios of the runs that both have. Runs are interleaved, so this cancels the machine's drift."""
    return {run: value / base[run] for run, value in values.items() if base.get(run)}


def spread(values: Samples) -> str:
    """Write the median, and in brackets the lowest and the highest value."""
    if not values:
        return "–"
    middle = number(statistics.median(values.values()))
    low, high = number(min(values.values())), number(max(values.values()))
    return middle if low == high else f"{middle} ({low} – {high})"


def ratio_spread(values: Samples, mark: bool = False) -> str:
    """Write the median and the range of ratios.

    :param mark: add ``*`` where at least ``MARKED_RUNS`` runs all lie on the same side of 1.
    """
    if not values:
        return "–"
    middle, low, high = statistics.median(values.values()), min(values.values()), max(values.values())
    text = f"{middle:.2f} ×" if f"{low:.2f}" == f"{high:.2f}" else f"{middle:.2f} × ({low:.2f} – {high:.2f})"
    return text + " *" if mark and len(values) >= MARKED_RUNS and (low > 1 or high < 1) else text


def number(value: float) -> str:
    """Write a number with about three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
