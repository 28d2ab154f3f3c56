"""Snapshots of the metrics, and the rates and quantiles between two of them. Pure: no clock, no I/O."""

from dataclasses import dataclass

from relay.metrics import FAILURES, Histogram, Metrics, quantile

Measurements = dict[str, float | None]
"""Values by name: times in seconds, rates per second; None if there was nothing to measure."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The values of all counters at one moment.

    :ivar time: seconds, by ``time.monotonic``.
    :ivar cpu: CPU time in seconds.
    :ivar first_event: counts of the histogram's buckets, as in all histograms here.
    """

    time: float
    cpu: float
    lines: int
    ended: int
    failed: int
    first_event: tuple[float, ...]
    line_latency: tuple[float, ...]
    journal_batch: tuple[float, ...]


def take_snapshot(metrics: Metrics, time: float, cpu: float, lines: int) -> Snapshot:
    """Copy the present values of the metrics."""
    return Snapshot(
        time,
        cpu,
        lines,
        sum(metrics.replies_ended.values()),
        sum(metrics.replies_ended[status] for status in FAILURES),
        _counts(metrics.first_event),
        _counts(metrics.line_latency),
        _counts(metrics.journal_batch),
    )


def _counts(histogram: Histogram) -> tuple[float, ...]:
    return tuple(histogram.counts)


def measure_between(before: Snapshot, after: Snapshot) -> Measurements:
    """Return rates, numbers of ended replies, and the median and 99th percentile of each histogram."""
    seconds = max(after.time - before.time, 1e-9)
    measurements: Measurements = {
        "lines": (after.lines - before.lines) / seconds,
        "batches": (sum(after.journal_batch) - sum(before.journal_batch)) / seconds,
        "cpu": (after.cpu - before.cpu) / seconds,
        "ended": after.ended - before.ended,
        "failed": after.failed - before.failed,
    }
    for name in ("first_event", "line_latency", "journal_batch"):
        pairs = zip(getattr(after, name), getattr(before, name), strict=True)
        counts = [new - old for new, old in pairs]
        measurements[f"{name}_p50"] = quantile(0.5, counts)
        measurements[f"{name}_p99"] = quantile(0.99, counts)
    return {name: None if value is None else round(value, 6) for name, value in measurements.items()}
