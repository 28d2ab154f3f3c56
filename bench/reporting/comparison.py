"""A section as a table: a line for each figure, a column for each contender, and their ratios to one of them."""

from collections.abc import Iterable, Sequence

from bench.reporting.figures import FIGURES, TITLES
from bench.reporting.remarks import remarks
from bench.reporting.results import Results
from bench.reporting.samples import ratio, ratio_spread, spread


def comparison(results: Results, section: str, base: str, mark: bool = False) -> str:
    """Write a section.

    :param base: the key of the contender that ratios are relative to.
    :param mark: mark ratios whose runs all lie on the same side of 1.
    """
    keys = results.keys(section)
    others = [key for key in keys if key != base] if base in keys else []
    head = [*(results.labels[key] for key in keys), *(_ratio_title(results, key, base, others) for key in others)]
    lines = []
    for figure in FIGURES[section](results):
        values = {key: figure.samples(results, key) for key in keys}
        if any(values.values()):
            ratios = [ratio_spread(ratio(values[key], values[base]), mark) for key in others]
            lines.append((figure.label, *(spread(values[key]) for key in keys), *ratios))
    return f"### {TITLES[section]}\n\n{grid(('', *head), lines)}{_notes(results, section)}"


def _ratio_title(results: Results, key: str, base: str, others: Sequence[str]) -> str:
    return "ratio" if len(others) == 1 else f"{results.labels[key]} × {results.labels[base]}"


def _notes(results: Results, section: str) -> str:
    notes = [f"{name}: {text}" for name, row in results.sections[section].items() if (text := remarks(row))]
    notes += [f"{name} was not measured: {reason}" for name, reason in results.failures[section].items()]
    return "".join(f"\n{note}\n" for note in notes)


def grid(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
