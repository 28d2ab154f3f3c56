"""All machines tried: the latest full results of each CPU, and figures recorded by other means (results.json)."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.reporting.results import Results


@dataclass(frozen=True, slots=True)
class Recorded:
    """Figures that no benchmark of this repository has measured.

    :param machine: its name.
    :param date: when.
    :param note: how they were measured.
    :param base: the label of the server that ratios are relative to.
    :param ours: chatterd's figures: lowest, median and highest by the figure's name in reporting/ratios.py. Where
        only a range or a median is known, the rest is None.
    :param theirs: the same of the other server.
    """

    machine: str
    date: str
    note: str
    base: str
    ours: dict[str, list[float | None]]
    theirs: dict[str, list[float | None]]


@dataclass(slots=True)
class Machines:
    """The content of results.json.

    :ivar results: by the name of the CPU.
    """

    results: dict[str, Results] = field(default_factory=dict)
    recorded: list[Recorded] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read results.json; empty if there is none."""
        if not path.exists():
            return cls()
        kept: dict[str, Any] = json.loads(path.read_text())
        results = {cpu: Results.from_json(value) for cpu, value in kept["machines"].items()}
        return cls(results, [Recorded(**value) for value in kept["recorded"]])

    def save(self, path: Path) -> None:
        """Write results.json, with a line for each run."""
        path.parent.mkdir(parents=True, exist_ok=True)
        machines = {cpu: vars(results) for cpu, results in self.results.items()}
        content = {"machines": machines, "recorded": [asdict(one) for one in self.recorded]}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        path.write_text(re.sub(r"[{\[][^{}\[\]]*[}\]]", _on_one_line, text) + "\n")

    def latest(self) -> Results:
        """Return the results that were measured last."""
        return max(self.results.values(), key=lambda results: results.written)

    def earlier(self, results: Results) -> Results | None:
        """Return the results of the same machine with the same software, of which sections can be kept."""
        kept = self.results.get(results.cpu)
        return kept if kept and _fixed(kept) == _fixed(results) and kept.quick == results.quick else None


def _fixed(results: Results) -> dict[str, str]:
    """Return the machine without its frequency, which the kernel measures anew at each boot."""
    return {name: value for name, value in results.machine.items() if name != "MHz"}


def _on_one_line(found: re.Match[str]) -> str:
    return re.sub(r"\n\s*", " ", found[0]).replace("{ ", "{").replace(" }", "}").replace("[ ", "[").replace(" ]", "]")
