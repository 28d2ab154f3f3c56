"""Detects problems of a process and describes them for its operator. Pure: no clock, no I/O."""

from collections.abc import Iterator
from dataclasses import dataclass

from relay.reporting.snapshot import Measurements

MAX_LOOP_LAG = 0.25
"""Seconds of event loop lag above which it is reported."""

MAX_BATCH_TIME = 0.25
"""Seconds above which PostgreSQL's median time for a batch is reported. Each line waits for one or two batches."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    :ivar kind: identifies the problem while its message changes with the numbers in it.
    :ivar severe: whether users of the chat are affected.
    """

    kind: str
    severe: bool
    message: str


@dataclass(frozen=True, slots=True)
class ProcessCondition:
    """The state of a process.

    :ivar database: ``ok``, ``unreachable``, or ``unknown`` if it was not checked.
    :ivar database_seconds: for how long it has been in this state.
    :ivar database_reason: why it is unreachable, in words, or empty.
    :ivar ollama: likewise, or another state of :mod:`relay.ollama.foreign_server`.
    :ivar ollama_problem: what answers at Ollama's address instead of it; empty if nothing does.
    :ivar loop_lag: maximum lag of the event loop in the last seconds, in seconds.
    :ivar last_minute: measurements of the last minute.
    """

    draining: bool
    streaming: int
    max_replies: int
    database: str
    database_seconds: float
    database_reason: str
    ollama: str
    ollama_seconds: float
    ollama_problem: str
    loop_lag: float
    last_minute: Measurements


def find_problems(condition: ProcessCondition) -> Iterator[Problem]:
    """Yield all problems, the most severe first."""
    if condition.database == "unreachable":
        time = format_duration(condition.database_seconds)
        reason = f" ({condition.database_reason})" if condition.database_reason not in ("", "unreachable") else ""
        yield Problem("database", True, f"The database has been unreachable for {time}{reason}: replies are paused.")
    if condition.ollama_problem:
        yield Problem("ollama", True, condition.ollama_problem)
    elif condition.ollama == "unreachable":
        time = format_duration(condition.ollama_seconds)
        yield Problem("ollama", True, f"Ollama has been unreachable for {time}: new replies fail.")
    elif condition.ollama == "silent":
        time = format_duration(condition.ollama_seconds)
        yield Problem("ollama", True, f"Ollama has not responded for {time}: new replies may fail.")
    elif condition.ollama == "stand-in":
        yield Problem(
            "stand-in", False, "No Ollama answers: a small embedded model replies until one does. It is a toy."
        )
    if condition.draining:
        yield Problem("draining", True, "This process is shutting down and accepts no new prompts.")
    if condition.streaming >= condition.max_replies:
        count = _format_replies(condition.streaming)
        yield Problem("full", True, f"{count} in progress, the limit of --max-replies: new prompts are rejected.")
    if failed := int(condition.last_minute["failed"] or 0):
        ended = _format_replies(int(condition.last_minute["ended"] or 0))
        yield Problem("failures", True, f"In the last minute, {failed} of {ended} failed.")
    if condition.loop_lag > MAX_LOOP_LAG:
        time = format_duration(condition.loop_lag)
        yield Problem("lag", False, f"The event loop lags by {time}: this process is overloaded.")
    batch_time = condition.last_minute["journal_batch_p50"] or 0.0
    if condition.database != "unreachable" and batch_time > MAX_BATCH_TIME:
        time = format_duration(batch_time)
        yield Problem("batches", False, f"The database takes {time} to store a batch of lines: replies are delayed.")


def format_duration(seconds: float) -> str:
    """Return a duration in a suitable unit.

    >>> [format_duration(0.3), format_duration(12.4), format_duration(150), format_duration(9000)]
    ['300 ms', '12 s', '2 min', '2.5 h']
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3600:.1f} h"


def _format_replies(count: int) -> str:
    return "1 reply" if count == 1 else f"{count} replies"
