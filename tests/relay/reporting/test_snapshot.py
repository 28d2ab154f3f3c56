"""Measurements between two snapshots of the metrics."""

import pytest

from relay.metrics import Metrics
from relay.reporting.snapshot import measure_between, take_snapshot


def test_measurements_cover_the_time_between_two_snapshots() -> None:
    metrics = Metrics()
    metrics.replies_ended["done"] = 3
    metrics.journal_batch.observe(9.0)
    before = take_snapshot(metrics, 100.0, 1.0, 1_000)
    metrics.replies_ended["done"] += 2
    metrics.replies_ended["truncated"] += 1
    for _ in range(20):
        metrics.journal_batch.observe(0.0011)
    metrics.line_latency.spread(0.002, 0.003, 50)
    measurements = measure_between(before, take_snapshot(metrics, 102.0, 1.5, 1_050))
    assert measurements["lines"] == 25
    assert measurements["batches"] == 10
    assert measurements["cpu"] == 0.25
    assert (measurements["ended"], measurements["failed"]) == (3, 1)
    assert measurements["journal_batch_p50"] == pytest.approx(0.0015, abs=0.0005)
    assert measurements["line_latency_p99"] == pytest.approx(0.003, abs=0.0001)
    assert measurements["first_event_p50"] is None and measurements["first_event_p99"] is None
