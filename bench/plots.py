"""The results as pictures: docs/bench-*.png."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # type: ignore[import-not-found] # it is in .venv/bench only
from matplotlib.ticker import LogLocator, NullLocator  # type: ignore[import-not-found]

from bench.contenders import CHATTERD, RUST
from bench.results import Results, Row, median
from bench.table import MEGA, MILLI, slope

WIDTH = 8.2
DPI = 150
INK = "#24292f"
FAINT = "#d0d7de"
OTHERS = "#afb8c1"
LEGEND = {"loc": "outside lower left", "frameon": False}
COLORS = {CHATTERD.key: "#0969da", RUST: "#bc4c00", "viewers": "#1a7f37"}


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw what was measured; returns the files."""
    pictures: dict[str, tuple[bool, Callable[[Results], Figure]]] = {
        "bench-table.png": (bool(results.rows("table")), _table),
        "bench-streams.png": (bool(results.rows("plots")), _streams),
        "bench-history.png": (bool(results.series("long", "history")), _history),
        "bench-memory.png": (bool(results.rows("memory")), _memory),
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (measured, picture) in pictures.items():
        if measured:
            drawn.append(folder / name)
            picture(results).savefig(drawn[-1], dpi=DPI, facecolor="white")
    return drawn


def _table(results: Results) -> Figure:
    rows = results.rows("table")
    keys = [key for key in results.labels if key in rows]
    figure, [axes] = _figure(1, 0.9 + 0.38 * len(keys))
    values = [median(rows[key], "cpu_us") for key in keys]
    colors = [COLORS.get(key, OTHERS) for key in keys]
    names = [results.labels[key] + (", with durable log" if results.durable[key] else "") for key in keys]
    bars = axes.barh(names, values, height=0.62, color=colors)
    axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=5, color=INK)
    axes.invert_yaxis()
    axes.set_title("CPU time per relayed line, µs (200 streams × 50 lines/s)", loc="left", fontsize=11)
    axes.set_xlim(0, 1.1 * max(values))
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.grid(False)
    axes.tick_params(length=0)
    return figure


def _streams(results: Results) -> Figure:
    figure, [cpu, latency] = _figure(2, 3.4)
    for key in (CHATTERD.key, RUST):
        if series := results.series("plots", key):
            _line(cpu, series, "cpu_us", key, results.labels[key])
            _line(latency, series, "latency_p99_us", key, results.labels[key], MILLI)
    cpu.set_title("CPU time per line, µs", loc="left", fontsize=11)
    latency.set_title("added latency p99, ms", loc="left", fontsize=11)
    for axes in (cpu, latency):
        axes.set_xlabel("streams of 20 lines/s")
        _logarithmic(axes)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda number, _: f"{number:,g}")
        axes.yaxis.set_minor_locator(NullLocator())
    figure.legend(*cpu.get_legend_handles_labels(), **LEGEND)
    return figure


def _history(results: Results) -> Figure:
    figure, [axes] = _figure(1, 3.0)
    _line(axes, results.series("long", "history"), "first_p50_us", CHATTERD.key, CHATTERD.label, MILLI)
    axes.set_title("from a prompt to its first event, p50, ms", loc="left", fontsize=11)
    axes.set_xlabel("messages in the conversation before it (the model is given the newest 500)")
    _logarithmic(axes)
    axes.set_ylim(bottom=0)
    return figure


def _memory(results: Results) -> Figure:
    figure, [axes] = _figure(1, 3.2)
    names = {CHATTERD.key: "streaming replies", RUST: "streaming replies", "viewers": "idle viewers of one reply"}
    for key, what in names.items():
        series = results.series("memory", key)
        if len(series) > 1:
            each = f"{slope(series, 'rss') / 1024:.0f} kB each"
            label = f"{results.labels.get(key, CHATTERD.label)}, {what}: {each}"
            _line(axes, series, "rss", key, label, MEGA)
    axes.set_title("resident memory, MB", loc="left", fontsize=11)
    axes.set_xlabel("streaming replies with a viewer each, or idle viewers")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    figure.legend(**LEGEND)
    return figure


def _figure(panels: int, height: float) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    all_axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    for axes in all_axes:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(FAINT)
        axes.tick_params(length=0, colors=INK)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.margins(y=0.1)
    return figure, all_axes


def _line(axes: Any, series: list[tuple[float, Row]], name: str, key: str, label: str, scale: float = 1.0) -> None:
    """A line through the medians, and a shade from the lowest to the highest."""
    series = [point for point in series if name in point[1]]
    numbers = [number for number, _ in series]
    color = COLORS[key]
    axes.plot(
        numbers, [median(row, name) * scale for _, row in series], color=color, label=label, marker="o", markersize=4
    )
    low = [min(row[name]) * scale for _, row in series]
    high = [max(row[name]) * scale for _, row in series]
    axes.fill_between(numbers, low, high, color=color, alpha=0.15, linewidth=0)


def _logarithmic(axes: Any) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
