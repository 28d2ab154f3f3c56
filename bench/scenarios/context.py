"""What every scenario uses: the plan, the contenders and their order, PostgreSQL, the results."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.measuring.postgres import Postgres
from bench.measuring.site import Site, site
from bench.measuring.values import Values
from bench.plan import Plan
from bench.reporting.remarks import remarks
from bench.reporting.results import Results
from bench.servers.contender import Contender

BRIEF = {
    "cpu_us": "{:.1f} µs of CPU per line",
    "latency_p99_us": "p99 {:,.0f} µs",
    "first_p50_us": "first event p50 {:,.0f} µs",
    "rss": "RSS {:,.0f} bytes",
    "begin_us": "{:.1f} µs of CPU per line in the first fifth",
    "end_us": "{:.1f} in the last",
    "ready_s": "ready after {:.2f} s",
    "before_p50_s": "first words p50 {:.2f} s before the window is full",
    "after_p50_s": "{:.2f} s then",
    "after_mean_s": "{:.2f} s on average",
    "after_max_s": "{:.2f} s at most",
}
"""The values that are printed during a benchmark."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every scenario uses.

    :param contenders: all that are measured, in the table.
    :param compared: those that are measured in all scenarios.
    :param folder: for the servers' logs.
    :param report: prints a message.
    """

    plan: Plan
    contenders: Sequence[Contender]
    compared: Sequence[Contender]
    postgres: Postgres
    folder: Path
    results: Results
    report: Callable[[str], None]

    @property
    def durable(self) -> list[Contender]:
        """Those of ``compared`` that keep lines for later viewers, and prompts as chatterd does."""
        return [contender for contender in self.compared if contender.durable]

    def runs(self) -> range:
        """Return the numbers of the runs."""
        return range(1, self.plan.runs + 1)

    @staticmethod
    def order(run: int, contenders: Sequence[Contender]) -> list[Contender]:
        """Return the contenders in a run's order, reversed every second run: a drift of the machine favours none."""
        return list(contenders) if run % 2 else list(reversed(contenders))

    def site(self, contender: Contender) -> AbstractContextManager[Site]:
        """Start a contender for a ``with`` block."""
        return site(self.postgres, contender, self.folder, self.report)

    @contextmanager
    def sites(self, contenders: Sequence[Contender]) -> Iterator[dict[str, Site]]:
        """Start several contenders for a block, to be measured in turns; returns them by key."""
        with ExitStack() as started:
            yield {contender.key: started.enter_context(self.site(contender)) for contender in contenders}

    @contextmanager
    def row(self, section: str, row: str) -> Iterator[None]:
        """Measure within the block; if that fails, record the reason and continue after the block."""
        try:
            yield
        except BenchError as error:
            self.results.fail(section, row, str(error))
            self.report(f"{section}, {row}: {error}")

    def keep(self, section: str, row: str, run: int, values: Values) -> None:
        """Record the values of a run."""
        self.results.add(section, row, run, values)
        brief = ", ".join(text.format(values[name]) for name, text in BRIEF.items() if name in values)
        remark = remarks(self.results.row(section, row)[-1:])
        self.report(f"{section}, {row}, run {run}: {brief}{remark and f' ({remark})'}")
