"""The figures of each section: label, unit, and where their values are."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.reporting.results import Results
from bench.reporting.samples import Samples, samples, slope

MILLI = 1e-3
MEGA = 1e-6
KIBI = 1 / 1024


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a contender.

    :param label: with its unit.
    :param samples: returns its values for a contender's key.
    """

    label: str
    samples: Callable[[Results, str], Samples]


def _value(label: str, section: str, variant: str, name: str, scale: float = 1.0) -> Figure:
    def read(results: Results, key: str) -> Samples:
        return samples(results.row(section, f"{key} {variant}".strip()), name, scale)

    return Figure(label, read)


def _slope(label: str, variant: str, name: str) -> Figure:
    def read(results: Results, key: str) -> Samples:
        return slope(results.series("memory", f"{key} {variant}"), name, KIBI)

    return Figure(label, read)


CPU = _value("CPU per line, µs", "table", "", "cpu_us")
BURST = _value("first event of 200 simultaneous prompts, p50, ms", "table", "", "burst_first_p50_us", MILLI)
LATENCY = _value("added latency p50, ms", "table", "", "latency_p50_us", MILLI)
RSS = _value("RSS, MB", "table", "", "rss", MEGA)
ONE_PROMPT = _value("first event of one prompt at a time, p50, ms", "first", "new", "first_p50_us", MILLI)

TABLE = [
    CPU,
    LATENCY,
    _value("added latency p99, ms", "table", "", "latency_p99_us", MILLI),
    BURST,
    _value("first event of 200 simultaneous prompts, p99, ms", "table", "", "burst_first_p99_us", MILLI),
    RSS,
    _value("peak RSS, MB", "table", "", "peak", MEGA),
    _value("PostgreSQL's CPU per line, µs", "table", "", "postgres_us"),
]


def _table(results: Results) -> list[Figure]:
    return TABLE


def _latency(results: Results) -> list[Figure]:
    return [
        figure
        for variant in results.variants("latency")
        for what in [variant.replace("x", "×")]
        for figure in (
            _value(f"{what}: CPU per line, µs", "latency", variant, "cpu_us"),
            _value(f"{what}: added latency p50, ms", "latency", variant, "latency_p50_us", MILLI),
            _value(f"{what}: added latency p99, ms", "latency", variant, "latency_p99_us", MILLI),
            _value(f"{what}: added latency maximum, ms", "latency", variant, "latency_max_us", MILLI),
            _value(f"{what}: share of the core, %", "latency", variant, "server_share", 100),
        )
    ]


FIRST = {
    "direct": "Ollama without a server between",
    "new": "new database",
    "large": "a million messages, 10,000 of them in the conversation",
}


def _first(results: Results) -> list[Figure]:
    return [
        _value(f"{what}: {which}, ms", "first", variant, f"first_{which}_us", MILLI)
        for variant, what in FIRST.items()
        if variant in results.variants("first")
        for which in ("p50", "p99")
    ]


def _memory(results: Results) -> list[Figure]:
    found = []
    for variant, what in (("replies", "streaming reply with a viewer"), ("viewers", "idle viewer")):
        found += [_slope(f"{name.upper()} per {what}, KiB", variant, name) for name in ("rss", "uss")]
        counts = [int(name.split()[1]) for name in results.variants("memory") if name.startswith(f"{variant} ")]
        if counts:
            label = f"RSS in all with {max(counts):,} of them, MB"
            found.append(_value(label, "memory", f"{variant} {max(counts)}", "rss", MEGA))
    return found


def _long(results: Results) -> list[Figure]:
    found = [
        _value("long reply, first fifth: CPU per line, µs", "long", "reply", "begin_us"),
        _value("long reply, last fifth: CPU per line, µs", "long", "reply", "end_us"),
    ]
    for variant in results.variants("long"):
        if variant.startswith("history "):
            what = f"first event after {int(variant.split()[1]):,} messages, p50, ms"
            found.append(_value(what, "long", variant, "first_p50_us", MILLI))
    return found


def _start(results: Results) -> list[Figure]:
    return [
        _value("with an empty database, s", "start", "empty", "ready_s"),
        _value("with a database used before, s", "start", "used", "ready_s"),
    ]


def _scaling(results: Results) -> list[Figure]:
    return [
        _value(f"{variant.split()[1]} streams: {label}", "scaling", variant, name, scale)
        for variant in results.variants("scaling")
        for label, name, scale in (("CPU per line, µs", "cpu_us", 1), ("p99, ms", "latency_p99_us", MILLI))
    ]


WINDOW = {
    "full_turn": "first turn of which the window does not hold all",
    "before_p50_s": "first words before it, p50, s",
    "after_p50_s": "from it on, p50, s",
    "after_mean_s": "from it on, mean, s",
    "after_max_s": "from it on, maximum, s",
    "p50_ratio": "p50 from it on, × p50 before",
    "mean_ratio": "mean from it on, × p50 before",
}


def _window(results: Results) -> list[Figure]:
    return [
        _value(f"{variant}: {what}", "window", variant, name)
        for variant in results.variants("window")
        for name, what in WINDOW.items()
    ]


FIGURES: dict[str, Callable[[Results], list[Figure]]] = {
    "table": _table,
    "latency": _latency,
    "first": _first,
    "memory": _memory,
    "long": _long,
    "start": _start,
    "scaling": _scaling,
    "window": _window,
}

TITLES = {
    "table": "200 streams × 50 lines/s, and before them 200 simultaneous prompts (`table`)",
    "latency": "Streams × lines/s (`latency`)",
    "first": "From a prompt to its first event, one prompt at a time (`first`)",
    "memory": "Memory (`memory`)",
    "long": "A long reply, a long history (`long`)",
    "start": "From the start to readiness (`start`)",
    "scaling": "More and more streams of 20 lines/s (`scaling`)",
    "window": "A conversation with the embedded model that outgrows its window (`window`)",
}
