"""One reply that this process generates: its lines, how many of them are committed, and who watches."""

from collections.abc import Callable
from uuid import UUID

Subscriber = Callable[[int, list[bytes]], None]
"""Is told of lines that may be shown now, the first of them with the given number."""

MAX_LINES_PER_READ = 1_000
"""Lines given to a viewer at once, so that a long backlog is not copied again for each piece of it."""

RETAIN_SECONDS = 30.0
"""For how long committed lines stay in memory at least: PostgreSQL commits rounds of lines without waiting for its
disk, and should it crash, those of its last moments are lost (three times wal_writer_delay, which is 10 s at most)."""

RETAIN_BYTES = 1_048_576
"""How large the committed lines must be for any to leave memory; viewers find them in the log from then on."""


class ReplyBuffer:
    """An append-only list of lines. Viewers are cursors into it; they may come, go and be slow as they like.

    :ivar key: the id as text, made once.
    :ivar owner: the id under which this process may write it; another one it has now does not count.
    :ivar base: the number of the first line that is held in memory; those before it are in the log only.
    :ivar written: the number of the next line to write to the log.
    :ivar tried: lines before this number may be in the log already, whatever became of the attempt to write them.
    :ivar committed: how many lines may be shown.
    :ivar ended: no line will follow.
    :ivar lost: another process generates it now; what was not committed never was.
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
        self._marks: list[tuple[float, int]] = []
        self._marked = 0.0
        self._watchers: tuple[Subscriber, ...] = ()

    @property
    def count(self) -> int:
        """How many lines there are, committed or not."""
        return self.base + len(self._lines)

    def append(self, line: bytes) -> None:
        """Add a line. It is shown when it is committed."""
        self._lines.append(line)
        self._size += len(line)

    def lines(self, first: int, end: int) -> list[bytes]:
        """The lines with numbers from ``first`` up to, not including, ``end``; ``first`` is ``base`` or above."""
        return self._lines[first - self.base : end - self.base]

    def committed_from(self, cursor: int) -> list[bytes]:
        """The next committed lines from number ``cursor`` on, :data:`AT_ONCE` at most."""
        return self.lines(cursor, min(self.committed, cursor + MAX_LINES_PER_READ))

    def unwritten(self, most: int) -> list[bytes]:
        """The next lines to write to the log, ``most`` at most."""
        first = self.written - self.base
        return self._lines[first : first + most]

    def commit(self, first: int, lines: list[bytes], now: float) -> None:
        """Let viewers see ``lines``, which are in the log, and all before them.

        :param first: the number of ``lines[0]``.
        :param now: the event loop's time, in seconds.
        """
        end = min(first + len(lines), self.count)  # those that were dropped meanwhile are not shown
        if end <= self.committed:
            return
        if first != self.committed or end != first + len(lines):
            first, lines = self.committed, self.lines(self.committed, end)
        self.committed = end
        for watcher in self._watchers:
            watcher(first, lines)
        if now - self._marked > 1:
            self._mark(now)

    def count_uncommitted(self, first: int, lines: list[bytes]) -> int:
        """How many of ``lines``, the first of them with the given number, may not be shown yet."""
        return max(0, first + len(lines) - max(first, self.committed))

    def commit_all(self, now: float) -> None:
        """Let viewers see all lines there are."""
        self.commit(self.committed, self.lines(self.committed, self.count), now)

    def _mark(self, now: float) -> None:
        """Note where the reply stands now, and drop what is large and has been committed for long."""
        self._marked = now
        self._marks.append((now, self.committed))
        while self._size > RETAIN_BYTES and self._marks[0][0] < now - RETAIN_SECONDS:
            self._drop_before(self._marks.pop(0)[1])

    def discard_uncommitted(self) -> None:
        """Forget the lines that were never shown."""
        del self._lines[self.committed - self.base :]
        self._size = sum(map(len, self._lines))
        self.written = min(self.written, self.committed)

    def end(self) -> None:
        """Add nothing more."""
        self.ended = True
        self._tell(self.committed, [])

    def mark_lost(self) -> None:
        """Generate no more: it is another process's."""
        self.lost = True
        self._tell(self.committed, [])

    def subscribe(self, watcher: Subscriber) -> None:
        """Call ``watcher`` whenever more lines may be shown, and, with none, when no more will come from here."""
        self._watchers += (watcher,)

    def unsubscribe(self, watcher: Subscriber) -> None:
        """Do not call it any more."""
        self._watchers = tuple(one for one in self._watchers if one is not watcher)

    def _drop_before(self, number: int) -> None:
        gone = number - self.base
        self._size -= sum(map(len, self._lines[:gone]))
        del self._lines[:gone]
        self.base = number

    def _tell(self, first: int, lines: list[bytes]) -> None:
        for watcher in self._watchers:
            watcher(first, lines)
