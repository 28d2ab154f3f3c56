"""The results of one benchmark on one machine: every value of every run."""

import time
from typing import Any, Self

from bench.measuring.values import Values

Row = list[Values]
"""One measurement, repeated: its values and the number of the run (``run``) for each run."""


class Results:
    """Sections of rows. A row's name begins with the key of its contender.

    :ivar machine: the description of the machine.
    :ivar labels: the names of the contenders, by key.
    :ivar durable: whether every line that a client sees is in PostgreSQL first, by key.
    :ivar measured: when and at which commit each section was measured, in how many seconds.
    :ivar sections: rows by section and name.
    :ivar note: on how it was measured, if not as ``METHOD`` in reporting/markdown.py says.
    :ivar failures: why measurements could not be made, by section and row.
    """

    def __init__(self, machine: dict[str, str], quick: bool) -> None:
        self.machine = machine
        self.quick = quick
        self.note = ""
        self.labels: dict[str, str] = {}
        self.durable: dict[str, bool] = {}
        self.measured: dict[str, dict[str, Any]] = {}
        self.sections: dict[str, dict[str, Row]] = {}
        self.failures: dict[str, dict[str, str]] = {}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what was once ``vars(results)``."""
        results = cls(value["machine"], value["quick"])
        vars(results).update(value)
        return results

    @property
    def cpu(self) -> str:
        """The name of the CPU."""
        return self.machine["CPU"]

    @property
    def written(self) -> str:
        """The date of the latest section."""
        return max((section["date"] for section in self.measured.values()), default="")

    def begin(self, section: str, commit: str) -> None:
        """Start a section, and discard what an earlier benchmark measured in it."""
        self.measured[section] = {"date": time.strftime("%Y-%m-%d"), "commit": commit}
        self.sections[section] = {}
        self.failures[section] = {}

    def end(self, section: str, seconds: float) -> None:
        """Record how long a section took."""
        self.measured[section]["seconds"] = round(seconds)

    def add(self, section: str, row: str, run: int, values: Values) -> None:
        """Record the values of a run."""
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        self.sections[section].setdefault(row, []).append({"run": run, **rounded})

    def fail(self, section: str, row: str, reason: str) -> None:
        """Record that a measurement could not be made."""
        self.failures[section].setdefault(row, reason)

    def row(self, section: str, name: str) -> Row:
        """Return a row; empty if it was not measured."""
        return self.sections.get(section, {}).get(name, [])

    def keys(self, section: str) -> list[str]:
        """Return the keys of the contenders that were measured in a section."""
        rows = self.sections.get(section, {})
        return [key for key in self.labels if any(name == key or name.startswith(f"{key} ") for name in rows)]

    def variants(self, section: str) -> list[str]:
        """Return the names of a section's rows without the contender, each once."""
        found = [
            name.removeprefix(f"{key} ")
            for name in self.sections.get(section, {})
            for key in self.labels
            if name.startswith(f"{key} ")
        ]
        return list(dict.fromkeys(found))

    def series(self, section: str, prefix: str) -> list[tuple[float, Row]]:
        """Return the rows whose name is a prefix and a number, with the number, ascending."""
        rows = self.sections.get(section, {})
        numbered = ((name.removeprefix(f"{prefix} "), row) for name, row in rows.items() if name.startswith(prefix))
        return sorted(((float(rest), row) for rest, row in numbered if rest.isdigit()), key=_number)


def _number(point: tuple[float, Row]) -> float:
    return point[0]
