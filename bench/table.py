"""The results as Markdown tables, for the README."""

import statistics
from collections.abc import Iterable

from bench.contenders import RUST
from bench.results import Results, Row, median

MILLI = 1e-3
MEGA = 1e-6

BUSY = 0.8
"""Share of its core from which on the load generator's own waiting may be in the latencies."""

KEPT_UP = 0.97
"""Share of the lines offered that a server must relay at once, or it falls further and further behind."""

STRANGERS = 0.2
"""How much of a core other processes, or the machine's host, must take to be worth a word."""


def markdown(results: Results) -> str:
    """All sections that were measured."""
    writers = {
        "table": _table,
        "latency": _latency,
        "first": _first,
        "memory": _memory,
        "long": _long,
        "start": _start,
    }
    written = [_machine(results)]
    for section, write in writers.items():
        if results.rows(section):
            written.append(write(results) + _failures(results, section))
    return "\n".join(written)


def _machine(results: Results) -> str:
    named = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    return (
        f"{named}.\n\nMedians, in brackets the lowest and the highest of the runs. The server has a core to itself; "
        "the load generator, which is the Ollama too, shares another with PostgreSQL.\n"
    )


def _table(results: Results) -> str:
    rows = results.rows("table")
    head = (
        "server",
        "durable log",
        "CPU per line, µs",
        "of Rust's",
        "added latency p50, ms",
        "p99, ms",
        "first event of 200 prompts at once, p50, ms",
        "peak RSS, MB",
        "PostgreSQL's CPU per line, µs",
        "whole replies",
    )
    rust = median(rows[RUST], "cpu_us") if RUST in rows else None
    lines = []
    for key, label in results.labels.items():
        if row := rows.get(key):
            lines.append((label, "yes" if results.durable[key] else "no", *_table_cells(row, rust)))
        elif why := results.failures["table"].get(key):
            lines.append((label, f"not measured: {why}", *[""] * (len(head) - 2)))
    return _grid(head, lines)


def _table_cells(row: Row, rust: float | None) -> list[str]:
    whole = sum(row["whole"]) + sum(row["burst_whole"])
    return [
        _spread(row, "cpu_us"),
        f"{median(row, 'cpu_us') / rust:.1f} ×" if rust else "",
        _spread(row, "latency_p50_us", MILLI),
        _spread(row, "latency_p99_us", MILLI) + doubts(row),
        _spread(row, "burst_first_p50_us", MILLI),
        _spread(row, "peak", MEGA),
        _spread(row, "postgres_us"),
        f"{whole:,.0f} of {sum(row['streams']) + sum(row['burst_streams']):,.0f}",
    ]


def _latency(results: Results) -> str:
    head = ("streams × lines a second", "added latency p50, ms", "p99, ms", "most, ms", "share of the core")
    lines = [
        (
            name.replace("x", "×"),
            _spread(row, "latency_p50_us", MILLI),
            _spread(row, "latency_p99_us", MILLI),
            _spread(row, "latency_max_us", MILLI) + doubts(row),
            _spread(row, "share", 100) + " %",
        )
        for name, row in results.rows("latency").items()
    ]
    return _grid(head, lines)


def _first(results: Results) -> str:
    names = {
        "direct": "Ollama asked directly, one prompt at a time",
        "new": "chatterd, one prompt at a time, new database",
        "large": "chatterd, one prompt at a time, a million messages, 10,000 of them in the conversation",
    }
    rows = results.rows("first")
    names |= {f"burst {key}": f"{label}, 200 prompts at once" for key, label in results.labels.items()}
    head = ("from the prompt to its first event", "p50, ms", "p99, ms")
    lines = [
        (name, _spread(rows[key], "first_p50_us", MILLI), _spread(rows[key], "first_p99_us", MILLI))
        for key, name in names.items()
        if key in rows
    ]
    return _grid(head, lines)


def _memory(results: Results) -> str:
    head = ("memory", "RSS", "USS")
    lines = []
    names = {"viewers": "of an idle viewer"}
    names |= {key: f"of a streaming reply with a viewer, {label}" for key, label in results.labels.items()}
    for key, name in names.items():
        if len(series := results.series("memory", key)) > 1:
            lines.append((name, *(f"{slope(series, of) / 1024:.1f} kB" for of in ("rss", "uss"))))
            last, row = series[-1]
            lines.append((f"in all with {last:,.0f}", *(_spread(row, of, MEGA) + " MB" for of in ("rss", "uss"))))
    return _grid(head, lines)


def slope(series: list[tuple[float, Row]], name: str) -> float:
    """By how much a value grows with each one more."""
    numbers = [number for number, _ in series]
    return statistics.linear_regression(numbers, [median(row, name) for _, row in series]).slope


def _long(results: Results) -> str:
    head = ("long things", "")
    rows = results.rows("long")
    lines = []
    if reply := rows.get("reply"):
        lines.append(("CPU per line, µs: first fifth of a long reply", _spread(reply, "begin_us")))
        lines.append(("last fifth of it", _spread(reply, "end_us")))
    for messages, row in results.series("long", "history"):
        name = f"first event, p50, ms: after {messages:,.0f} messages of the conversation"
        lines.append((name, _spread(row, "first_p50_us", MILLI)))
    return _grid(head, lines)


def _start(results: Results) -> str:
    rows = results.rows("start")
    names = {"empty": "with an empty database", "again": "with a database that was used before"}
    lines = [(name, _spread(rows[key], "ready_s")) for key, name in names.items() if key in rows]
    return _grid(("from the start to ready", "s"), lines)


def _failures(results: Results, section: str) -> str:
    shown = {*results.labels} - {*results.rows("table")} if section == "table" else set()
    rest = {name: why for name, why in results.failures[section].items() if name not in shown}
    return "".join(f"\nNot measured: {name}: {why}\n" for name, why in rest.items())


def doubts(row: Row) -> str:
    """What to know beside a latency, in brackets; empty if there is nothing."""
    if "kept_up" not in row:
        return ""
    found = []
    if (kept_up := median(row, "kept_up")) < KEPT_UP:
        found.append(f"kept up with {kept_up:.0%} of the lines")
    if broken := sum(row["streams"]) - sum(row["whole"]):
        found.append(f"{broken:,.0f} of {sum(row['streams']):,.0f} replies did not come whole")
    if (load := median(row, "load_share")) > BUSY:
        found.append(f"the load took {load:.0%} of its core")
    elif (others := median(row, "others_share")) > BUSY:
        found.append(f"load and PostgreSQL took {others:.0%} of their core")
    if (strangers := median(row, "strangers_cores")) > STRANGERS:
        found.append(f"other processes took {strangers:.1f} cores")
    return f" ({'; '.join(found)})" if found else ""


def _spread(row: Row, name: str, scale: float = 1.0) -> str:
    """The median, and between which values it lies."""
    if name not in row:
        return "–"
    values = [value * scale for value in row[name]]
    middle = _number(statistics.median(values))
    low, high = _number(min(values)), _number(max(values))
    return middle if low == high else f"{middle} ({low} – {high})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _grid(head: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    rows = [head, ("---",) * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
