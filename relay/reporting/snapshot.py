"""Samples: what the metrics were at one moment, and what they say about the time between two. Pure."""

from dataclasses import dataclass

from relay.metrics import FAILURES, Histogram, Metrics, quantile

Measured = dict[str, float | None]
"""Figures by name: times in seconds, sizes in bytes, None where nothing happened that could be measured."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that only grows, at one moment.

    :ivar at: seconds, by a clock that only runs forwards.
    :ivar processor: seconds of processor time.
    """

    at: float
    processor: float
    lines: int
    ended: int
    failed: int
    first_event: tuple[float, ...]
    line_latency: tuple[float, ...]
    journal_round: tuple[float, ...]


def snapshot(metrics: Metrics, at: float, processor: float, lines: int) -> Snapshot:
    """Keep what the metrics are now."""
    return Snapshot(
        at,
        processor,
        lines,
        sum(metrics.replies_ended.values()),
        sum(metrics.replies_ended[status] for status in FAILURES),
        *(_counts(each) for each in (metrics.first_event, metrics.line_latency, metrics.journal_round)),
    )


def _counts(histogram: Histogram) -> tuple[float, ...]:
    return tuple(histogram.counts)


def between(before: Snapshot, after: Snapshot) -> Measured:
    """What happened between two moments: rates by the second, and of each time the median and the 99th percentile."""
    seconds = max(after.at - before.at, 1e-9)
    measured: Measured = {
        "lines": (after.lines - before.lines) / seconds,
        "rounds": (sum(after.journal_round) - sum(before.journal_round)) / seconds,
        "processor": (after.processor - before.processor) / seconds,
        "ended": after.ended - before.ended,
        "failed": after.failed - before.failed,
    }
    for name in ("first_event", "line_latency", "journal_round"):
        pairs = zip(getattr(after, name), getattr(before, name), strict=True)
        counts = [new - old for new, old in pairs]
        measured[f"{name}_p50"] = quantile(0.5, counts)
        measured[f"{name}_p99"] = quantile(0.99, counts)
    return {name: None if value is None else round(value, 6) for name, value in measured.items()}
