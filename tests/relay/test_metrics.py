"""Counting and timing: buckets, quantiles, what two snapshots say, and how it is told in words."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.metrics import SECONDS, Histogram, Metrics, quantile
from relay.reporting.problems import ProcessCondition, duration, find_problems
from relay.reporting.snapshot import between, snapshot

TIMES = st.floats(min_value=0, max_value=200, allow_nan=False)


def test_a_bucket_counts_what_is_up_to_its_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1, 99.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.sum == pytest.approx(105.6)


@given(TIMES, TIMES, st.integers(min_value=1, max_value=1000))
def test_spread_values_are_all_counted_between_their_bounds(one: float, other: float, count: int) -> None:
    least, most = sorted((one, other))
    histogram = Histogram()
    histogram.spread(least, most, count)
    assert sum(histogram.counts) == pytest.approx(count)
    assert histogram.sum == pytest.approx(count * (least + most) / 2)
    edges = [0.0, *SECONDS, math.inf]
    for lower, upper, counted in zip(edges, edges[1:], histogram.counts, strict=False):
        assert counted >= 0
        assert not counted or (least <= upper and most >= lower)


def test_spread_values_lie_evenly() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    histogram.spread(0.5, 4.5, 8)
    assert histogram.counts == [1, 2, 4, 1]


def test_quantiles_are_near_those_of_the_values() -> None:
    chance = random.Random(5)
    values = [chance.lognormvariate(-4, 1) for _ in range(10_000)]
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    exact = statistics.quantiles(values, n=100)
    for part in (0.5, 0.9, 0.99):
        assert quantile(part, histogram.counts) == pytest.approx(exact[round(100 * part) - 1], rel=0.2)


def test_quantiles_at_the_edges() -> None:
    assert quantile(0.5, [0.0, 0.0, 0.0], (1.0, 2.0)) is None
    assert quantile(0.5, [0.0, 0.0, 7.0], (1.0, 2.0)) == 2.0
    assert quantile(1.0, [0.0, 4.0, 0.0], (1.0, 2.0)) == 2.0
    assert quantile(0.5, [4.0, 0.0, 0.0], (1.0, 2.0)) == 0.5


def test_two_snapshots_say_what_happened_between_them() -> None:
    figures = Metrics()
    figures.replies_ended["done"] = 3
    figures.journal_round.observe(9.0)
    before = snapshot(figures, 100.0, 1.0, 1_000)
    figures.replies_ended["done"] += 2
    figures.replies_ended["truncated"] += 1
    for _ in range(20):
        figures.journal_round.observe(0.0011)
    figures.line_latency.spread(0.002, 0.003, 50)
    said = between(before, snapshot(figures, 102.0, 1.5, 1_050))
    assert said["lines"] == 25
    assert said["rounds"] == 10
    assert said["processor"] == 0.25
    assert (said["ended"], said["failed"]) == (3, 1)
    assert said["journal_round_p50"] == pytest.approx(0.0015, abs=0.0005)
    assert said["line_latency_p99"] == pytest.approx(0.003, abs=0.0001)
    assert said["first_event_p50"] is None and said["first_event_p99"] is None


# In words.

NOTHING = {"ended": 0.0, "failed": 0.0, "journal_round_p50": None}


def condition(**other: object) -> ProcessCondition:
    well: dict[str, object] = {
        "draining": False,
        "streaming": 5,
        "max_replies": 10,
        "database": "ok",
        "database_seconds": 60.0,
        "ollama": "ok",
        "ollama_seconds": 60.0,
        "lag": 0.01,
        "minute": NOTHING,
    }
    return ProcessCondition(**{**well, **other})  # type: ignore[arg-type]


def test_if_all_is_well_nothing_is_said() -> None:
    assert not list(find_problems(condition()))
    assert not list(find_problems(condition(database="unknown", ollama="unknown")))


@pytest.mark.parametrize(
    ("wrong", "kind", "serious", "sentence"),
    [
        (
            {"database": "unreachable", "database_seconds": 12.3},
            "database",
            True,
            "The database has been out of reach for 12 s: replies pause.",
        ),
        (
            {"ollama": "unreachable", "ollama_seconds": 240.0},
            "ollama",
            True,
            "Ollama has not answered at its address for 4 min: new replies fail.",
        ),
        ({"ollama": "answered 500"}, "ollama", True, "What answers at Ollama's address answers with status 500."),
        ({"draining": True}, "draining", True, "This process is being stopped: it takes no new prompts."),
        (
            {"streaming": 10},
            "full",
            True,
            "10 replies at once is all that --max-replies allows: more are refused.",
        ),
        (
            {"minute": NOTHING | {"ended": 5.0, "failed": 2.0}},
            "failures",
            True,
            "In the last minute, 2 of 5 replies did not end well.",
        ),
        (
            {"lag": 0.3},
            "lag",
            False,
            "The event loop was late by 300 ms: this process has too much to do.",
        ),
        (
            {"minute": NOTHING | {"journal_round_p50": 0.4}},
            "rounds",
            False,
            "The database takes 400 ms to store a round of lines: words come late.",
        ),
    ],
)
def test_each_trouble_has_its_sentence(wrong: dict[str, object], kind: str, serious: bool, sentence: str) -> None:
    [trouble] = find_problems(condition(**wrong))
    assert (trouble.kind, trouble.serious, trouble.sentence) == (kind, serious, sentence)


def test_the_worst_comes_first() -> None:
    said = [trouble.kind for trouble in find_problems(condition(lag=1.0, ollama="unreachable", database="unreachable"))]
    assert said == ["database", "ollama", "lag"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.3, "300 ms"), (12.4, "12 s"), (99.0, "99 s"), (150.0, "2 min"), (9_000.0, "2.5 h")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
