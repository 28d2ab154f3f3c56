"""A batch: the lines of several replies that the journal writes with one statement. Pure: no I/O."""

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate

from relay.generation.reply_buffer import ReplyBuffer

MAX_BATCH_LINES = 1_000
"""Lines of one batch at most: no line is shown before the whole batch is committed."""

MAX_BATCH_BYTES = 8_388_608
"""Bytes of one batch at most, unless its first line is longer. PostgreSQL rejects messages of 1 GB."""

Segment = tuple[ReplyBuffer, int, list[bytes]]
"""Consecutive lines of one reply, and the number of the first."""


@dataclass(slots=True)
class Batch:
    """The lines to write with one statement.

    :ivar owner: process id under which they are written.
    :ivar oldest_read_at: when the first of the lines was read from Ollama, by ``time.monotonic``.
    :ivar newest_read_at: when the last of them was, by the same clock.
    :ivar reply_ids: for each line, its reply's id.
    :ivar numbers: for each line, its number.
    :ivar lines: the lines.
    :ivar segments: the same lines by reply.
    :ivar may_exist: whether some of the lines may be in the log already.
    """

    owner: int
    oldest_read_at: float
    newest_read_at: float
    reply_ids: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    may_exist: bool = False

    @property
    def full(self) -> bool:
        """Whether the batch has :data:`MAX_BATCH_LINES` lines."""
        return len(self.lines) >= MAX_BATCH_LINES

    def add(self, reply: ReplyBuffer) -> None:
        """Add the reply's unwritten lines, as many as fit."""
        first = reply.written
        lines = reply.unwritten(MAX_BATCH_LINES - len(self.lines))
        end = first + len(lines)
        self.reply_ids += [reply.key] * len(lines)
        self.numbers += range(first, end)
        self.lines += lines
        self.segments.append((reply, first, lines))
        if first < reply.attempted:
            self.may_exist = True
        if end > reply.attempted:
            reply.attempted = end

    def truncate(self) -> list[ReplyBuffer]:
        """Remove the lines beyond :data:`MAX_BATCH_BYTES`, but not the first line.

        :returns: the replies of which no line is left.
        """
        if sum(map(len, self.lines)) <= MAX_BATCH_BYTES:
            return []
        remaining = max(1, bisect_right(list(accumulate(map(len, self.lines))), MAX_BATCH_BYTES))
        del self.reply_ids[remaining:], self.numbers[remaining:], self.lines[remaining:]
        segments: list[Segment] = []
        for reply, first, lines in self.segments:
            segments.append((reply, first, lines[:remaining]))
            remaining = max(0, remaining - len(lines))
        self.segments = [segment for segment in segments if segment[2]]
        return [reply for reply, _, lines in segments if not lines]

    def count_uncommitted(self) -> int:
        """Return how many of the lines are not committed."""
        if not self.may_exist:
            return len(self.lines)
        return sum(reply.count_uncommitted(first, lines) for reply, first, lines in self.segments)
