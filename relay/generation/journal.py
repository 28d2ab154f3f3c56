"""The journal: commits the new lines of all replies together, then lets them be shown."""

import asyncio
import logging
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from time import monotonic

import asyncpg

from db import reply_lines
from db.pool import UNAVAILABLE_ERRORS, Database
from errors import ServiceUnavailable
from relay.cluster.lease import ProcessLease
from relay.cluster.notifications import Notifier
from relay.generation.reply_buffer import ReplyBuffer
from relay.metrics import Metrics

log = logging.getLogger("chatterd.relay")

MAX_BATCH_LINES = 1_000
"""Lines after which a round is full: a longer one would keep all its lines waiting for the last."""

MAX_BATCH_BYTES = 8_388_608
"""Bytes after which a round is full: PostgreSQL takes no message of 1 GB, and works at a long one for long."""

STATEMENT_TIMEOUT = "10s"
"""How long PostgreSQL may work at one round."""

PROBE_INTERVAL = 1.0
"""Seconds after which a round of nothing is written while there are replies."""

STOP_TIMEOUT = 1.0
"""Seconds at most for a round under way to be given up."""

RETRY_INTERVAL = 0.25
"""Seconds between two attempts to write while the database is away."""


@dataclass(slots=True)
class _Batch:
    """What one statement writes.

    :ivar replies: of each line, its reply's id.
    :ivar numbers: of each line.
    :ivar pieces: each reply's own lines, with the number of the first.
    :ivar again: whether some of the lines may be in the log already.
    :ivar oldest: when the first of the lines was heard, by the event loop's clock.
    :ivar newest: when the last of them was.
    """

    owner: int
    oldest: float
    newest: float
    replies: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    pieces: list[tuple[ReplyBuffer, int, list[bytes]]] = field(default_factory=list)
    again: bool = False

    def add(self, reply: ReplyBuffer) -> None:
        """Take the reply's next lines."""
        first = reply.written
        lines = reply.unwritten(MAX_BATCH_LINES - len(self.lines))
        end = first + len(lines)
        self.replies += [reply.key] * len(lines)
        self.numbers += range(first, end)
        self.lines += lines
        self.pieces.append((reply, first, lines))
        if first < reply.attempted:
            self.again = True
        if end > reply.attempted:
            reply.attempted = end

    def cut(self) -> list[ReplyBuffer]:
        """Leave the lines beyond :data:`ROUND_BYTES`, if there are any, to later rounds; one stays in any case.

        :returns: the replies of which none stayed.
        """
        if sum(map(len, self.lines)) <= MAX_BATCH_BYTES:
            return []
        count = max(1, bisect_right(list(accumulate(map(len, self.lines))), MAX_BATCH_BYTES))
        del self.replies[count:], self.numbers[count:], self.lines[count:]
        kept: list[tuple[ReplyBuffer, int, list[bytes]]] = []
        for reply, first, own in self.pieces:
            kept.append((reply, first, own[:count]))
            count = max(0, count - len(own))
        self.pieces = [piece for piece in kept if piece[2]]
        return [reply for reply, _, own in kept if not own]


class Journal:
    """Writes rounds: one statement for the new lines of every reply, at least ``interval`` seconds after the last.

    A round does not wait for PostgreSQL's disk (synchronous_commit = off): what a killed chatterd had committed is
    safe all the same, and what a crashed PostgreSQL has lost is written again from the replies' memory.

    :ivar away_since: since when the database takes no rounds, by the event loop's clock; None while it does.
    :ivar heard: when the model was last heard, whichever reply it was about, by the same clock.
    """

    def __init__(
        self, database: Database, lease: ProcessLease, notifier: Notifier, interval: float, metrics: Metrics
    ) -> None:
        self._database = database
        self._lease = lease
        self._notifier = notifier
        self._interval = interval
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self.last_chunk_at = self._oldest = self._loop.time()
        self._open: set[ReplyBuffer] = set()
        self._fresh: dict[ReplyBuffer, None] = {}  # a set that keeps its order
        self._round = asyncio.Lock()
        self._work = asyncio.Event()
        self._probe: asyncio.TimerHandle | None = None
        self._connection: asyncpg.Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self.unavailable_since: float | None = None

    def start(self) -> None:
        """Begin to write; the first round, of nothing, opens the connection."""
        self._work.set()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write nothing more."""
        if self._connection:
            self._connection.terminate()
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=STOP_TIMEOUT)

    def track(self, reply: ReplyBuffer) -> None:
        """Look after a reply: should the database lose lines of it, they are written again."""
        self._open.add(reply)
        self._plan_probe()

    def untrack(self, reply: ReplyBuffer) -> None:
        """Look no more after a reply that has ended or is lost."""
        self._open.discard(reply)
        self._fresh.pop(reply, None)

    def mark_dirty(self, reply: ReplyBuffer) -> None:
        """Write a reply's new lines in the next round."""
        if not self._fresh:
            self._work.set()
            self._oldest = self.last_chunk_at
        self._fresh[reply] = None

    @property
    def flushing(self) -> bool:
        """Whether a round is under way."""
        return self._round.locked()

    async def wait_flushed(self) -> None:
        """Wait until no round is under way: what was closed before is not written afterwards."""
        async with self._round:
            return

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            started = self._loop.time()
            try:
                async with self._round:
                    await self._write_round()
            except (ServiceUnavailable, *UNAVAILABLE_ERRORS) as error:
                self._go_away(started)
                log.info("The journal cannot write: %s", error)
                await asyncio.sleep(RETRY_INTERVAL)
            except Exception:
                # A connection that is cut at a bad moment makes asyncpg raise what is in no list.
                level = logging.INFO if self._connection and self._connection.is_closed() else logging.ERROR
                log.log(level, "The journal cannot write; trying on.", exc_info=True)
                self._go_away(started)
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                self.unavailable_since = None
                self._plan_probe()
                # Never less than a turn of the loop: what came in the meantime goes into one round.
                await asyncio.sleep(max(0.0, started + self._interval - self._loop.time()))

    def _plan_probe(self) -> None:
        """A model may be silent for minutes; that the database went away is noticed all the same."""
        if self._probe:
            self._probe.cancel()
        self._probe = self._loop.call_later(PROBE_INTERVAL, self._work.set) if self._open else None

    async def _write_round(self) -> None:
        connection = await self._connect()
        due = self._take_due()
        notices, again_at = self._notifier.due_notifications(reply.id for reply, _, _ in due.pieces)
        if again_at is not None:
            self._loop.call_at(again_at, self._work.set)
        started = monotonic()
        try:
            alive = await reply_lines.append(
                connection, due.owner, due.replies, due.numbers, due.lines, notices, due.again
            )
        except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError) as error:
            # A reply's end was faster (Generation._store), or nobody knows why; lines that were tried are tried again.
            log.info("A round held lines that something else writes, too: %s", error)
            self._put_back(due)
        except BaseException:
            self._put_back(due)
            raise
        else:
            self._metrics.journal_round.observe(monotonic() - started)
            if alive:
                self._commit(due)
            elif due.owner == self._lease.owner and self._lease.registered:
                self._lease.rejoin_with_new_id()

    def _take_due(self) -> _Batch:
        due = _Batch(self._lease.owner, self._oldest, self.last_chunk_at)
        fresh, self._fresh = self._fresh, {}
        for reply in fresh:
            if reply.owner != due.owner:
                self.untrack(reply)
            elif len(due.lines) < MAX_BATCH_LINES:
                due.add(reply)
            else:
                self._note_again(reply, due)
        for reply in due.cut():
            self._note_again(reply, due)
        return due

    def _put_back(self, due: _Batch) -> None:
        for reply, _, _ in due.pieces:
            if reply in self._open:
                self._note_again(reply, due)

    def _note_again(self, reply: ReplyBuffer, due: _Batch) -> None:
        """Write lines of a round in the next one; they are as old as they are."""
        self.mark_dirty(reply)
        self._oldest = min(self._oldest, due.oldest)

    def _commit(self, due: _Batch) -> None:
        now = self._loop.time()
        shown = (
            sum(reply.count_uncommitted(first, written) for reply, first, written in due.pieces)
            if due.again
            else len(due.lines)
        )
        for reply, first, written in due.pieces:
            if reply.ended or reply.lost:
                continue
            reply.written = max(reply.written, first + len(written))
            try:
                reply.commit(first, written, now)
            except Exception:
                log.exception("Lines of reply %s could not be shown.", reply.id)  # the other replies go on
            if reply.written < reply.count and reply not in self._fresh:
                self._note_again(reply, due)
        if shown:
            self._loop.call_soon(self._note_latency, due, shown)  # when the viewers' sockets have been given them

    def _note_latency(self, due: _Batch, count: int) -> None:
        now = monotonic()
        self._metrics.line_latency.spread(max(0.0, now - due.newest), max(0.0, now - due.oldest), count)

    async def _connect(self) -> asyncpg.Connection:
        """The journal's own connection; a new one begins with all that is in memory of every reply."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.open_dedicated(
                synchronous_commit="off", statement_timeout=STATEMENT_TIMEOUT
            )
            for reply in self._open:
                reply.written = reply.base
                self._fresh[reply] = None
        return self._connection

    def _go_away(self, since: float) -> None:
        if self._connection:
            self._connection.terminate()
            self._connection = None
        if self.unavailable_since is None:
            self.unavailable_since = since
            log.warning("The database takes no lines; replies pause until it does.")
        self._work.set()
