"""docs/benchmarks.md: ratios over all machines first, then the figures of each machine."""

from bench.reporting.comparison import comparison, grid
from bench.reporting.figures import FIGURES, TABLE, TITLES
from bench.reporting.machines import Machines
from bench.reporting.ratios import machine_ratios, ratio_table
from bench.reporting.remarks import interference, remarks
from bench.reporting.results import Results
from bench.reporting.samples import ratio, ratio_spread, samples, spread
from bench.servers.catalog import REFERENCE

METHOD = """\
The server under test has a core to itself; the load generator, which is the stub Ollama too, shares another with
PostgreSQL. CPU time is the kernel's count, between the moment when all streams run and the end of the first one. Runs
are interleaved: run 1 of every contender, then run 2 in reverse order, and so on. Figures are medians, in brackets the
lowest and the highest run; a ratio is computed run by run, which cancels the machine's drift.
"""


def results_md(machines: Machines) -> str:
    """Return docs/benchmarks.md."""
    parts = ["# Benchmark results\n", METHOD]
    if machine_ratios(machines):
        parts.append(_ratios(machines))
    for results in sorted(machines.results.values(), key=lambda results: results.written, reverse=True):
        parts += [f"## {results.cpu}\n", f"{machine_line(results)}\n"]
        if warning := interference(results):
            parts.append(f"**{warning}**\n")
        parts += [
            _contenders(results) if section == "table" else comparison(results, section, REFERENCE.key)
            for section in FIGURES
            if results.sections.get(section)
        ]
    return "\n".join(parts)


def _ratios(machines: Machines) -> str:
    recorded = dict.fromkeys(f"{one.machine}, {one.date}: {one.note}" for one in machines.recorded)
    notes = "".join(f"\n{note}\n" for note in recorded)
    return f"## chatterd's figures as ratios to servers in Rust\n\n{ratio_table(machines)}{notes}"


def machine_line(results: Results) -> str:
    """Write the machine's description, and when and at which commit it was measured."""
    when = dict.fromkeys(
        f"{section['date']} at commit {section['commit'] or 'unknown'}" for section in results.measured.values()
    )
    described = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    return f"{described}. Measured {', '.join(when)}.{results.note and ' ' + results.note}"


def _contenders(results: Results) -> str:
    """Write the section ``table``: a line for each contender, the ratio of its CPU time first."""
    head = ("server", "durable log", "CPU per line, × Rust", *(figure.label for figure in TABLE), "complete replies")
    base = TABLE[0].samples(results, REFERENCE.key)
    lines = []
    for key, label in results.labels.items():
        if row := results.row("table", key):
            ratios = ratio(TABLE[0].samples(results, key), base)
            cells = ["1" if key == REFERENCE.key else ratio_spread(ratios)]
            cells += [spread(figure.samples(results, key)) for figure in TABLE]
            remark = remarks(row)
            complete = _complete(results, key) + (remark and f" ({remark})")
            lines.append((label, _yes(results.durable[key]), *cells, complete))
        elif reason := results.failures["table"].get(key):
            lines.append((label, f"not measured: {reason}", *[""] * (len(head) - 2)))
    return f"### {TITLES['table']}\n\n{grid(head, lines)}"


def _complete(results: Results, key: str) -> str:
    row = results.row("table", key)
    complete, streams = (
        sum(sum(samples(row, f"{part}{name}").values()) for part in ("", "burst_")) for name in ("complete", "streams")
    )
    return f"{complete:,.0f} of {streams:,.0f}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
