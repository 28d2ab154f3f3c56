"""What is wrong, in words for the person who runs the server. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from relay.reporting.snapshot import Measured

LAG_LIMIT = 0.25
"""Seconds that the event loop may be late before it is worth a word."""

ROUND_LIMIT = 0.25
"""Seconds that PostgreSQL may take for half of all rounds; each line waits for one or two of them."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    :ivar kind: the same for as long as it is the same trouble, whatever numbers its sentence tells.
    :ivar serious: people who chat notice it.
    """

    kind: str
    serious: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class ProcessCondition:
    """How a process is.

    :ivar database: ``ok``, ``unreachable``, or ``unknown`` as long as nobody has looked.
    :ivar database_seconds: for how long it has been so.
    :ivar ollama: likewise, or ``answered <status>``.
    :ivar lag: how late the event loop was at worst in the last seconds.
    :ivar minute: what happened in the last minute.
    """

    draining: bool
    streaming: int
    max_replies: int
    database: str
    database_seconds: float
    ollama: str
    ollama_seconds: float
    lag: float
    minute: Measured


def find_problems(now: ProcessCondition) -> Iterator[Problem]:
    """Say what is wrong, the worst first; nothing if all is well."""
    if now.database == "unreachable":
        away = duration(now.database_seconds)
        yield Problem("database", True, f"The database has been out of reach for {away}: replies pause.")
    if now.ollama == "unreachable":
        away = duration(now.ollama_seconds)
        yield Problem("ollama", True, f"Ollama has not answered at its address for {away}: new replies fail.")
    elif now.ollama.startswith("answered"):
        status = now.ollama.removeprefix("answered ")
        yield Problem("ollama", True, f"What answers at Ollama's address answers with status {status}.")
    if now.draining:
        yield Problem("draining", True, "This process is being stopped: it takes no new prompts.")
    if now.streaming >= now.max_replies:
        yield Problem(
            "full", True, f"{_replies(now.streaming)} at once is all that --max-replies allows: more are refused."
        )
    if failed := int(now.minute["failed"] or 0):
        ended = _replies(int(now.minute["ended"] or 0))
        yield Problem("failures", True, f"In the last minute, {failed} of {ended} did not end well.")
    if now.lag > LAG_LIMIT:
        late = duration(now.lag)
        yield Problem("lag", False, f"The event loop was late by {late}: this process has too much to do.")
    if now.database != "unreachable" and (took := now.minute["journal_round_p50"] or 0.0) > ROUND_LIMIT:
        yield Problem(
            "rounds", False, f"The database takes {duration(took)} to store a round of lines: words come late."
        )


def duration(seconds: float) -> str:
    """Say how long something takes.

    >>> [duration(0.3), duration(12.4), duration(150), duration(9000)]
    ['300 ms', '12 s', '2 min', '2.5 h']
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3600:.1f} h"


def _replies(count: int) -> str:
    return "1 reply" if count == 1 else f"{count} replies"
