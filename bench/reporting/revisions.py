"""The comparison of revisions, as Markdown."""

from bench.reporting.comparison import comparison
from bench.reporting.markdown import machine_line
from bench.reporting.remarks import interference
from bench.reporting.results import Results

METHOD = """\
Runs are interleaved: run 1 of every revision, then run 2 in reverse order, and so on. Figures are medians, in brackets
the lowest and the highest run. A ratio compares a revision with {base}, run by run, which cancels the machine's drift;
a `*` marks ratios of which all runs, five or more, lie on the same side of 1; with five runs, chance alone does that
to one figure in 16. All revisions run on the packages of this tree's .venv.
"""


def revisions_md(results: Results) -> str:
    """Write a table for each section, with ratios to the first revision."""
    base = next(iter(results.labels))
    parts = ["# Revisions compared\n", f"{machine_line(results)}\n", METHOD.format(base=results.labels[base])]
    if warning := interference(results):
        parts.append(f"**{warning}**\n")
    parts += [comparison(results, section, base, mark=True) for section in results.sections]
    return "\n".join(parts)
