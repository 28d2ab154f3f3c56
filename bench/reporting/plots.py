"""The results of one machine as plots: docs/bench-*.png."""

from collections.abc import Callable
from pathlib import Path
from statistics import median as median_of
from typing import Any

from matplotlib.figure import Figure  # type: ignore[import-not-found] # it is in .venv/bench only
from matplotlib.ticker import LogLocator, NullLocator  # type: ignore[import-not-found]

from bench.reporting.figures import KIBI, MEGA, MILLI
from bench.reporting.results import Results, Row
from bench.reporting.samples import median, samples, slope
from bench.servers.catalog import CHATTERD, REFERENCE

WIDTH = 8.2
DPI = 150
INK = "#24292f"
FAINT = "#d0d7de"
OTHERS = "#afb8c1"
LEGEND = {"loc": "outside lower left", "frameon": False}
COLORS = {CHATTERD.key: "#0969da", REFERENCE.key: "#bc4c00"}
VIEWERS = "#1a7f37"

Series = list[tuple[float, Row]]


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw the sections that were measured, and return the files."""
    pictures: dict[str, tuple[bool, Callable[[Results], Figure]]] = {
        "bench-table.png": (bool(results.sections.get("table")), _table),
        "bench-streams.png": (bool(results.sections.get("scaling")), _streams),
        "bench-history.png": (bool(results.series("long", f"{CHATTERD.key} history")), _history),
        "bench-memory.png": (bool(results.sections.get("memory")), _memory),
        "bench-window.png": (bool(results.sections.get("window")), _window),
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (measured, picture) in pictures.items():
        if measured:
            drawn.append(folder / name)
            picture(results).savefig(drawn[-1], dpi=DPI, facecolor="white")
    return drawn


def _table(results: Results) -> Figure:
    keys = results.keys("table")
    figure, [axes] = _figure(1, 0.9 + 0.38 * len(keys))
    values = [median(results.row("table", key), "cpu_us") for key in keys]
    colors = [COLORS.get(key, OTHERS) for key in keys]
    names = [results.labels[key] + (", with durable log" if results.durable[key] else "") for key in keys]
    bars = axes.barh(names, values, height=0.62, color=colors)
    axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=5, color=INK)
    axes.invert_yaxis()
    _title(axes, f"CPU time per relayed line, µs (200 streams × 50 lines/s)\n{_cpu(results)}")
    axes.set_xlim(0, 1.1 * max(values))
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.grid(False)
    axes.tick_params(length=0)
    return figure


def _streams(results: Results) -> Figure:
    figure, [cpu, latency] = _figure(2, 3.5)
    for key in (CHATTERD.key, REFERENCE.key):
        if series := _scaling(results, key):
            _line(cpu, series, "cpu_us", COLORS[key], results.labels[key])
            _line(latency, series, "latency_p99_us", COLORS[key], results.labels[key], MILLI)
    _title(cpu, f"CPU time per line, µs\n{_cpu(results)}")
    _title(latency, "added latency p99, ms")
    for axes in (cpu, latency):
        axes.set_xlabel("streams of 20 lines/s")
        _logarithmic(axes)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda number, _: f"{number:,g}")
        axes.yaxis.set_minor_locator(NullLocator())
    figure.legend(*cpu.get_legend_handles_labels(), **LEGEND)
    return figure


def _scaling(results: Results, key: str) -> Series:
    """Return the measurements against the number of streams; the highest is one of the latencies."""
    points = dict(results.series("scaling", f"{key} streams"))
    for variant in results.variants("latency"):
        streams, rate = variant.replace(",", "").split(" x ")
        if rate == "20" and (row := results.row("latency", f"{key} {variant}")):
            points.setdefault(float(streams), row)
    return sorted(points.items(), key=lambda point: point[0])


def _history(results: Results) -> Figure:
    figure, [axes] = _figure(1, 3.1)
    series = results.series("long", f"{CHATTERD.key} history")
    _line(axes, series, "first_p50_us", COLORS[CHATTERD.key], CHATTERD.label, MILLI)
    _title(axes, f"time from a prompt to its first event, p50, ms\n{_cpu(results)}")
    axes.set_xlabel("messages already in the conversation (the newest 500 are sent to the model)")
    _logarithmic(axes)
    axes.set_ylim(bottom=0)
    return figure


def _memory(results: Results) -> Figure:
    figure, [axes] = _figure(1, 3.3)
    lines = (
        (CHATTERD, "replies", "streaming replies", COLORS[CHATTERD.key]),
        (REFERENCE, "replies", "streaming replies", COLORS[REFERENCE.key]),
        (CHATTERD, "viewers", "idle viewers of one reply", VIEWERS),
    )
    for contender, variant, what, color in lines:
        series = results.series("memory", f"{contender.key} {variant}")
        if len(series) > 1:
            each = median_of(slope(series, "rss", KIBI).values())
            _line(axes, series, "rss", color, f"{contender.label}, {what}: {each:.0f} KiB each", MEGA)
    _title(axes, f"resident memory, MB\n{_cpu(results)}")
    axes.set_xlabel("streaming replies with a viewer each, or idle viewers")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    figure.legend(**LEGEND)
    return figure


def _window(results: Results) -> Figure:
    figure, panels = _figure(2, 3.5)
    rows = (
        (panels[0], "blocks", "cut in blocks by chatterd", COLORS[CHATTERD.key]),
        (panels[0], "message by message", "cut message by message by Ollama", COLORS[REFERENCE.key]),
        (panels[1], "blocks, two by turns", "two conversations by turns", VIEWERS),
        (panels[1], "blocks, restart", "kill -9 of chatterd in the middle", COLORS[CHATTERD.key]),
    )
    window = next(iter(results.sections["window"].values()))[0]["window"]
    for axes, variant, label, color in rows:
        for values in results.row("window", f"{CHATTERD.key} {variant}"):
            first = [value for name, value in values.items() if name.startswith("turn_") and name.endswith("_s")]
            repeated = values["run"] > 1
            axes.plot(range(1, len(first) + 1), first, color=color, label="" if repeated else label, linewidth=1.2)
    figure.suptitle(_cpu(results), x=0.01, ha="left", fontsize=10)
    _title(panels[0], "seconds to the first words of a reply")
    _title(panels[1], "the same, cut in blocks")
    top = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_xlabel(f"turn of a conversation in a window of {window:,.0f} tokens")
        axes.set_ylim(0, top)
        axes.legend(frameon=False, loc="upper left", fontsize=9)
    return figure


def _cpu(results: Results) -> str:
    return f"{results.cpu}, {results.machine['cores']} cores"


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10)


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


def _line(axes: Any, series: Series, name: str, color: str, label: str, scale: float = 1.0) -> None:
    """Draw a line through the medians, and shade the range of the runs."""
    points = [(number, list(samples(row, name, scale).values())) for number, row in series]
    points = [(number, values) for number, values in points if values]
    numbers = [number for number, _ in points]
    middle = [median_of(values) for _, values in points]
    axes.plot(numbers, middle, color=color, label=label, marker="o", markersize=4)
    low, high = ([end(values) for _, values in points] for end in (min, max))
    axes.fill_between(numbers, low, high, color=color, alpha=0.15, linewidth=0)


def _logarithmic(axes: Any) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
