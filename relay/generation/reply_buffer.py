"""The lines of one reply that this process generates, how many of them are committed, and the reply's subscribers."""

from collections.abc import Callable
from uuid import UUID

Subscriber = Callable[[int, list[bytes]], None]
"""Called with the number of the first newly committed line, and the lines; without lines when the reply has ended or
is lost."""

MAX_LINES_PER_READ = 1_000
"""Lines returned by one read. A viewer with a long backlog would otherwise copy all of it again for each part sent."""

RETAIN_SECONDS = 30.0
"""Seconds for which committed lines stay in memory at least. Batches are committed without waiting for PostgreSQL's
disk; a crash of PostgreSQL loses those of the last moments (three times wal_writer_delay, which is at most 10 s)."""

RETAIN_BYTES = 1_048_576
"""Bytes of lines that stay in memory whatever their age. Viewers read older lines from the log."""


class ReplyBuffer:
    """An append-only list of lines. Viewers read it by line number.

    :ivar key: the id as text.
    :ivar owner: the process id under which the reply may be written. The process may have registered under a new id.
    :ivar base: number of the first line in memory; lines before it are in the log only.
    :ivar written: number of the next line to write to the log.
    :ivar attempted: lines before this number may be in the log: an attempt to write them was made.
    :ivar committed: number of committed lines; only these may be shown.
    :ivar ended: no line will be added.
    :ivar lost: another process generates the reply now; its uncommitted lines are void.
    """

    def __init__(self, id: UUID, tenant: str, model: str, owner: int, base: int = 0) -> None:
        self.id = id
        self.key = str(id)
        self.tenant = tenant
        self.model = model
        self.owner = owner
        self.base = base
        self.written = base
        self.attempted = base
        self.committed = base
        self.ended = False
        self.lost = False
        self._lines: list[bytes] = []
        self._size = 0
        self._checkpoints: list[tuple[float, int]] = []
        self._last_checkpoint = 0.0
        self._subscribers: tuple[Subscriber, ...] = ()

    @property
    def count(self) -> int:
        """Number of lines, committed or not."""
        return self.base + len(self._lines)

    def append(self, line: bytes) -> None:
        """Add a line. It is not shown before it is committed."""
        self._lines.append(line)
        self._size += len(line)

    def lines(self, first: int, end: int) -> list[bytes]:
        """Return the lines numbered ``first`` to ``end - 1``; ``first`` is at least :attr:`base`."""
        return self._lines[first - self.base : end - self.base]

    def committed_from(self, first: int) -> list[bytes]:
        """Return the committed lines from number ``first`` on, at most :data:`MAX_LINES_PER_READ`."""
        return self.lines(first, min(self.committed, first + MAX_LINES_PER_READ))

    def unwritten(self, limit: int) -> list[bytes]:
        """Return the next lines to write to the log, at most ``limit``."""
        first = self.written - self.base
        return self._lines[first : first + limit]

    def commit(self, first: int, lines: list[bytes], now: float) -> None:
        """Mark lines as committed, and all lines before them, and call the subscribers.

        :param first: the number of ``lines[0]``.
        :param now: seconds, by ``time.monotonic``.
        """
        end = min(first + len(lines), self.count)  # lines discarded in the meantime are not shown
        if end <= self.committed:
            return
        if first != self.committed or end != first + len(lines):
            first, lines = self.committed, self.lines(self.committed, end)
        self.committed = end
        for subscriber in self._subscribers:
            subscriber(first, lines)
        if now - self._last_checkpoint > 1:
            self._add_checkpoint(now)

    def count_uncommitted(self, first: int, lines: list[bytes]) -> int:
        """Return how many of ``lines``, numbered from ``first`` on, are not committed."""
        return max(0, first + len(lines) - max(first, self.committed))

    def commit_all(self, now: float) -> None:
        """Mark all lines as committed."""
        self.commit(self.committed, self.lines(self.committed, self.count), now)

    def _add_checkpoint(self, now: float) -> None:
        """Record how many lines are committed now. Drop those of checkpoints older than :data:`RETAIN_SECONDS`."""
        self._last_checkpoint = now
        self._checkpoints.append((now, self.committed))
        while self._size > RETAIN_BYTES and self._checkpoints[0][0] < now - RETAIN_SECONDS:
            self._drop_before(self._checkpoints.pop(0)[1])

    def _drop_before(self, number: int) -> None:
        count = number - self.base
        self._size -= sum(map(len, self._lines[:count]))
        del self._lines[:count]
        self.base = number

    def discard_uncommitted(self) -> None:
        """Remove the lines that are not committed."""
        del self._lines[self.committed - self.base :]
        self._size = sum(map(len, self._lines))
        self.written = min(self.written, self.committed)

    def end(self) -> None:
        """Mark the reply as ended: no line will be added."""
        self.ended = True
        self._notify_end()

    def mark_lost(self) -> None:
        """Mark the reply as generated by another process."""
        self.lost = True
        self._notify_end()

    def _notify_end(self) -> None:
        for subscriber in self._subscribers:
            subscriber(self.committed, [])

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call ``subscriber`` at each commit, and without lines when the reply has ended or is lost."""
        self._subscribers += (subscriber,)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Undo :meth:`subscribe`."""
        self._subscribers = tuple(other for other in self._subscribers if other != subscriber)
