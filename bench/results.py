"""What was measured: every value of every run, kept in results.json."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

Values = dict[str, float]
"""What one run of one measurement gave, by name."""

Row = dict[str, list[float]]
"""The same of all its runs."""


class Results:
    """Sections of rows; a row is one measurement, repeated.

    :ivar labels: the names of the contenders, by their keys.
    :ivar durable: whether they show nothing that is not in PostgreSQL, by their keys.
    :ivar failures: why measurements could not be made, by their sections and rows.
    """

    def __init__(self, machine: dict[str, str], quick: bool) -> None:
        self.machine = machine
        self.quick = quick
        self.labels: dict[str, str] = {}
        self.durable: dict[str, bool] = {}
        self.sections: dict[str, dict[str, Row]] = {}
        self.failures: dict[str, dict[str, str]] = {}

    def begin(self, section: str) -> None:
        """Forget what an earlier benchmark found in a section."""
        self.sections[section] = {}
        self.failures[section] = {}

    def add(self, section: str, row: str, values: Values) -> None:
        """Record a run."""
        kept = self.sections[section].setdefault(row, {})
        for name, value in values.items():
            kept.setdefault(name, []).append(float(f"{value:.6g}"))

    def fail(self, section: str, row: str, why: str) -> None:
        """Record that a run could not be made."""
        self.failures[section].setdefault(row, why)

    def rows(self, section: str, prefix: str = "") -> dict[str, Row]:
        """A section's rows, by the rest of their names."""
        found = self.sections.get(section, {})
        return {name.removeprefix(prefix): row for name, row in found.items() if name.startswith(prefix)}

    def series(self, section: str, name: str) -> list[tuple[float, Row]]:
        """The rows that are called ``name`` and a number, by that number."""
        return sorted(((float(number), row) for number, row in self.rows(section, f"{name} ").items()), key=_number)

    def save(self, path: Path) -> None:
        """Write all of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**vars(self), "written": time.strftime("%Y-%m-%d %H:%M:%S %z")}, indent=1)
        path.write_text(text + "\n")

    def take_over(self, path: Path) -> None:
        """Take the sections that an earlier benchmark of the same kind on the same machine has left."""
        if not path.exists():
            return
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["machine"] == self.machine and kept["quick"] == self.quick:
            for name in ("labels", "durable", "sections", "failures"):
                setattr(self, name, kept[name])


def median(row: Row, name: str) -> float:
    """The middle one of a row's runs."""
    return statistics.median(row[name])


def _number(point: tuple[float, Row]) -> float:
    return point[0]
