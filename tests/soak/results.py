"""The results of a campaign, as rows of a table: every line is counted, every pause measured."""

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from tests.soak.viewer import Seen

RHYTHM = 1.0
"""Seconds after a fault within which a viewer's connection counts as broken by it."""

LETTERS = "abcdefghij"
"""Digits of numbers in words that consist of letters only."""

DIGITS = str.maketrans(LETTERS, "0123456789")

WINDOW = 30.0
"""Seconds after a fault, up to the next one, in which a viewer's longest pause is attributed to it."""


@dataclass
class Count:
    """Counts of lines or words, each of which should arrive once and in order."""

    right: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0

    def add(self, numbers: Sequence[int], wanted: int) -> None:
        """Count a sequence that should be 0, 1, ... ``wanted`` - 1."""
        self.lost += len(set(range(wanted)) - set(numbers))
        self.doubled += len(numbers) - len(set(numbers))
        self.disordered += sum(after < before for before, after in itertools.pairwise(numbers))
        self.right += len(set(numbers))

    @property
    def wrong(self) -> int:
        return self.lost + self.doubled + self.disordered

    def __str__(self) -> str:
        return f"{self.lost} / {self.doubled} / {self.disordered} (of {self.right:,})"


def percentiles(values: Iterable[float]) -> str:
    """Return p50 / p99 / max, in seconds."""
    ordered = sorted(values)
    if not ordered:
        return "-"
    found = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1.0))
    return " / ".join(f"{value:.2f} s" for value in found) + f" (of {len(ordered)})"


@dataclass
class Result:
    """The result of a campaign.

    :ivar rows: the rows of the table: name and value.
    :ivar wrong: descriptions of failed checks.
    """

    title: str
    rows: dict[str, str]
    wrong: list[str]

    def markdown(self) -> str:
        """Return the result as a table in Markdown."""
        rows = [f"| {name} | {value} |" for name, value in self.rows.items()]
        wrong = [f"\n**Wrong:** {one}" for one in self.wrong]
        return "\n".join([f"### {self.title}", "", "| | |", "|---|---|", *rows, *wrong, ""])


async def judge(title: str, seen: Sequence[Seen], database_url: str) -> Result:
    """Compare the text shown to viewers with the model's text, the log and the conversations."""
    words, wrong = Count(), []
    for one in seen:
        erred = any(event.error is not None for event in one.events)
        said = [int(word.removeprefix("w").translate(DIGITS)) for word in one.text.split()]
        wanted = max(said, default=-1) + 1 if erred else one.words
        words.add(said, wanted)
        if said != list(range(wanted)):
            wrong.append(f"{one.name} ({one.path}) has {len(said)} of {wanted} words and ends in {_last(one)}")
    if words.wrong:
        wrong.append(f"words lost, doubled or out of order: {words}")
    result = await judge_plain(title, seen, database_url)
    [viewers, lines, *others] = result.rows.items()
    rows = dict([viewers, lines, ("words lost / doubled / out of order", str(words)), *others])
    return Result(title, rows, wrong + result.wrong)


async def judge_plain(title: str, seen: Sequence[Seen], database_url: str) -> Result:
    """Compare the text shown to viewers with the log and the conversations; what the model had to say is unknown."""
    lines, wrong = Count(), []
    for one in seen:
        ids = [event.id for event in one.events]
        lines.add(ids, max(ids, default=-1) + 1)
        if not one.ended:
            wrong.append(f"{one.name} ({one.path}) never ended for its viewer, who has {len(ids)} lines")
    if lines.wrong:
        wrong.append(f"lines lost, doubled or out of order: {lines}")
    statuses, in_database = await _compare(seen, database_url)
    if "streaming" in statuses:
        wrong.append(f"{statuses['streaming']} replies have the status streaming")
    rows = {
        "replies, viewers": f"{len(seen):,}",
        "lines lost / doubled / out of order": str(lines),
        "replies that differ between viewer, log and conversation": str(len(in_database)),
        "errors shown to viewers": _errors(seen),
        "replies by status": ", ".join(f"{name} {count:,}" for name, count in sorted(statuses.items())),
    }
    return Result(title, rows, wrong + in_database)


def _last(one: Seen) -> str:
    return f"{one.events[-1].id}: {one.events[-1].data.decode()}" if one.events else "nothing"


def _errors(seen: Sequence[Seen]) -> str:
    """Return how often viewers were shown each error."""
    found = collections.Counter(error for one in seen for event in one.events if (error := event.error) is not None)
    return "; ".join(f"{error} {times}" for error, times in found.items()) or "none"


async def _compare(seen: Sequence[Seen], database_url: str) -> tuple[dict[str, int], list[str]]:
    connection = await asyncpg.connect(database_url)
    try:
        replies = await connection.fetch(
            "SELECT replies.id, replies.status, replies.idempotency_key, chatts.message FROM replies "
            "LEFT JOIN chatts ON chatts.id = replies.id"
        )
        logs = await connection.fetch(
            "SELECT reply, array_agg(line ORDER BY seq) AS lines, count(*) = max(seq) + 1 AS whole "
            "FROM reply_lines GROUP BY reply"
        )
    finally:
        await connection.close()
    statuses: dict[str, int] = {}
    for row in replies:
        statuses[row["status"]] = statuses.get(row["status"], 0) + 1
    messages = {row["id"]: row["message"] for row in replies}
    log_of = {row["reply"]: row for row in logs}
    wrong = [f"{one.name}: {what}" for one in seen if one.path and (what := _difference(one, messages, log_of))]
    names = [row["idempotency_key"] for row in replies if row["idempotency_key"]]
    if len(names) != len(set(names)):
        wrong.append(f"{len(names) - len(set(names))} prompts were answered twice")
    return statuses, wrong


def _difference(one: Seen, messages: Mapping[UUID, str], logs: Mapping[UUID, Any]) -> str | None:
    id = UUID(one.path.removeprefix("/llmchat/"))
    if id not in messages:
        return f"{one.path} is not in the database"
    if (messages[id] or "") != one.text:
        return f"the message in {one.path} differs from the shown text"
    log = logs.get(id)
    if log is None or not log["whole"] or [line.encode() for line in log["lines"]] != [e.data for e in one.events]:
        return f"the log of {one.path} differs from the shown text"
    return None


def pauses(
    seen: Sequence[Seen],
    deaths: Sequence[float],
    asked: Sequence[tuple[float, str, int]],
    effect: str = "its reply's owner died",
) -> dict[str, str]:
    """Return the pauses of viewers after each fault, by its effect on them, and the delays of continuing requests.

    :param effect: what the fault did to replies whose rest was generated by another request.
    """
    cut_only: list[float] = []
    orphaned: list[float] = []
    neither: list[float] = []
    adopters: list[float] = []
    worst = (0.0, "")
    for death, until in zip(deaths, [*deaths[1:], float("inf")], strict=True):
        until = min(until, death + WINDOW)
        adopted: dict[str, float] = {}
        for when, name, said in asked:
            if death < when <= until and said:
                adopted.setdefault(name, when - death)
        adopters += adopted.values()
        for one in seen:
            if (wait := _longest_wait(one, death, until)) is None:
                continue
            if one.name in adopted:
                orphaned.append(wait)
            elif any(death <= broken <= death + RHYTHM for broken in one.breaks):
                cut_only.append(wait)
            else:
                neither.append(wait)
            worst = max(worst, (wait, f"{one.name}, {death - deaths[0]:.0f} s after the first death"))
    return {
        f"viewer's pause, {effect}: p50 / p99 / max": percentiles(orphaned),
        "viewer's pause, only its connection was cut: p50 / p99 / max": percentiles(cut_only),
        "viewer's pause, all others: p50 / p99 / max": percentiles(neither),
        "from the death to the request that continues the reply: p50 / p99 / max": percentiles(adopters),
        "replies continued after a death (times)": str(len(adopters)),
        "longest pause": f"{worst[0]:.2f} s between two lines ({worst[1]})",
    }


def _longest_wait(one: Seen, death: float, until: float) -> float | None:
    """Return the longest pause that this fault may have caused; None if the viewer was not watching.

    A pause that the next fault interrupts, and that began just before it, is the next one's.
    """
    waits = [
        after - before
        for before, after in itertools.pairwise(one.times)
        if after > death and death - RHYTHM <= before < until and (after <= until or before < until - RHYTHM)
    ]
    return max(waits, default=None)
