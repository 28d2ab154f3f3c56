"""Problems of a process: when they are reported, in which order and words."""

import pytest

from relay.reporting.problems import ProcessCondition, find_problems, format_duration

IDLE = {"ended": 0.0, "failed": 0.0, "journal_batch_p50": None}


def condition(**changes: object) -> ProcessCondition:
    healthy: dict[str, object] = {
        "draining": False,
        "streaming": 5,
        "max_replies": 10,
        "database": "ok",
        "database_seconds": 60.0,
        "database_reason": "",
        "ollama": "ok",
        "ollama_seconds": 60.0,
        "ollama_problem": "",
        "loop_lag": 0.01,
        "last_minute": IDLE,
    }
    return ProcessCondition(**{**healthy, **changes})  # type: ignore[arg-type]


def test_healthy_process_has_no_problems() -> None:
    assert not list(find_problems(condition()))
    assert not list(find_problems(condition(database="unknown", ollama="unknown")))


@pytest.mark.parametrize(
    ("changes", "kind", "severe", "message"),
    [
        (
            {"database": "unreachable", "database_seconds": 12.3},
            "database",
            True,
            "The database has been unreachable for 12 s: replies are paused.",
        ),
        (
            {"database": "unreachable", "database_seconds": 12.3, "database_reason": "disk full"},
            "database",
            True,
            "The database has been unreachable for 12 s (disk full): replies are paused.",
        ),
        (
            {"ollama": "unreachable", "ollama_seconds": 240.0},
            "ollama",
            True,
            "Ollama has been unreachable for 4 min: new replies fail.",
        ),
        (
            {"ollama": "silent", "ollama_seconds": 5.0},
            "ollama",
            True,
            "Ollama has not responded for 5 s: new replies may fail.",
        ),
        ({"ollama": "answered 500", "ollama_problem": "It is another."}, "ollama", True, "It is another."),
        ({"ollama": "unreachable", "ollama_problem": "Not trusted."}, "ollama", True, "Not trusted."),
        (
            {"ollama": "stand-in"},
            "stand-in",
            False,
            "No Ollama answers: a small embedded model replies until one does. It is a toy.",
        ),
        ({"draining": True}, "draining", True, "This process is shutting down and accepts no new prompts."),
        (
            {"streaming": 10},
            "full",
            True,
            "10 replies in progress, the limit of --max-replies: new prompts are rejected.",
        ),
        (
            {"last_minute": IDLE | {"ended": 5.0, "failed": 2.0}},
            "failures",
            True,
            "In the last minute, 2 of 5 replies failed.",
        ),
        (
            {"loop_lag": 0.3},
            "lag",
            False,
            "The event loop lags by 300 ms: this process is overloaded.",
        ),
        (
            {"last_minute": IDLE | {"journal_batch_p50": 0.4}},
            "batches",
            False,
            "The database takes 400 ms to store a batch of lines: replies are delayed.",
        ),
    ],
)
def test_each_problem_has_its_message(changes: dict[str, object], kind: str, severe: bool, message: str) -> None:
    [problem] = find_problems(condition(**changes))
    assert (problem.kind, problem.severe, problem.message) == (kind, severe, message)


def test_most_severe_problem_comes_first() -> None:
    problems = find_problems(condition(loop_lag=1.0, ollama="unreachable", database="unreachable"))
    assert [problem.kind for problem in problems] == ["database", "ollama", "lag"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.3, "300 ms"), (12.4, "12 s"), (99.0, "99 s"), (150.0, "2 min"), (9_000.0, "2.5 h")]
)
def test_durations_have_a_suitable_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
