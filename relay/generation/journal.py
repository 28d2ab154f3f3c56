"""The journal: writes the new lines of all replies to the log in batches, then marks them as committed."""

import asyncio
import logging
from time import monotonic

import asyncpg

from db import reply_lines
from db.connection.reasons import UNAVAILABLE_ERRORS
from db.connection.sqlstates import Verdict, verdict_of
from db.pool import Database
from errors import ServiceUnavailable
from logging_setup import describe
from relay.cluster.lease import ProcessLease
from relay.cluster.notifications import Notifier
from relay.generation.batch import Batch
from relay.generation.reply_buffer import ReplyBuffer
from relay.metrics import Metrics

log = logging.getLogger("chatterd.relay")

STATEMENT_TIMEOUT = "10s"
"""PostgreSQL's statement_timeout for one batch."""

PROBE_INTERVAL = 1.0
"""Seconds after which an empty batch is written while there are replies, to detect an unavailable database."""

RETRY_INTERVAL = 0.25
"""Seconds between two attempts to write while the database is unavailable."""

JOURNAL = "journal"
"""The name of the journal among the users of the database."""

STOP_TIMEOUT = 1.0
"""Seconds at most for the batch in progress to be cancelled."""


class Journal:
    """Writes batches, each at least ``interval`` seconds after the previous one has started.

    A batch does not wait for PostgreSQL's disk (synchronous_commit = off). A crash of chatterd loses no committed line;
    lines lost in a crash of PostgreSQL are written again from memory.

    :ivar unavailable_since: when the database became unavailable, by ``time.monotonic``; None while it is available.
    :ivar last_chunk_at: when bytes of any reply were last read from Ollama, by the same clock. Set by generations: one
        time per chunk instead of one per line.
    """

    def __init__(
        self, database: Database, lease: ProcessLease, notifier: Notifier, interval: float, metrics: Metrics
    ) -> None:
        self.unavailable_since: float | None = None
        self.last_chunk_at = monotonic()
        self._oldest_dirty_at = self.last_chunk_at
        self._database = database
        self._lease = lease
        self._notifier = notifier
        self._interval = interval
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._tracked: set[ReplyBuffer] = set()
        self._dirty: dict[ReplyBuffer, None] = {}  # an ordered set
        self._flush_lock = asyncio.Lock()
        self._wakeup = asyncio.Event()
        self._probe_timer: asyncio.TimerHandle | None = None
        self._connection: asyncpg.Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._to_isolate = 0
        self._any_written = True
        self._failing: dict[ReplyBuffer, float] = {}
        self._retrying: set[ReplyBuffer] = set()

    async def start(self) -> None:
        """Start writing. The first batch is empty and opens the connection; if that fails, retry in the background."""
        self._database.availability.expect(JOURNAL)
        await self._write()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop writing."""
        if self._connection:
            self._connection.terminate()
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=STOP_TIMEOUT)

    def track(self, reply: ReplyBuffer) -> None:
        """Write lines of the reply again if the database loses them, until :meth:`untrack`."""
        self._tracked.add(reply)
        self._schedule_probe()

    def untrack(self, reply: ReplyBuffer) -> None:
        """Write no more lines of a reply. A batch in progress may hold some: see :meth:`wait_flushed`."""
        self._tracked.discard(reply)
        self._dirty.pop(reply, None)
        self._failing.pop(reply, None)
        self._retrying.discard(reply)

    def mark_dirty(self, reply: ReplyBuffer) -> None:
        """Write the reply's new lines with the next batch."""
        if not self._dirty:
            self._wakeup.set()
            self._oldest_dirty_at = self.last_chunk_at
        self._dirty[reply] = None

    def failing_for(self, seconds: float) -> list[ReplyBuffer]:
        """Return the replies whose lines could not be written for so long, although others' could."""
        now = monotonic()
        return [reply for reply, since in self._failing.items() if now - since > seconds]

    @property
    def flushing(self) -> bool:
        """Whether a batch is in progress."""
        return self._flush_lock.locked()

    async def wait_flushed(self) -> None:
        """Wait for the batch in progress. Replies untracked before are not written afterwards."""
        async with self._flush_lock:
            return

    async def _run(self) -> None:
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            # At least one iteration of the event loop, so that lines read in the meantime share one batch.
            await asyncio.sleep(await self._write())

    async def _write(self) -> float:
        """Write one batch; return the seconds until the next one."""
        started = monotonic()
        try:
            async with self._flush_lock:
                await self._flush()
        except ServiceUnavailable:  # reported already
            self._on_unavailable(started)
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:
            self._database.availability.failed(JOURNAL, error)
            self._on_unavailable(started)
        except Exception as error:
            # asyncpg raises other errors, too, if a connection is lost inside a call.
            if self._connection and self._connection.is_closed():
                self._database.availability.failed(JOURNAL, ConnectionResetError())
            else:
                log.exception("The journal cannot write; retrying.")
                self._database.availability.failed(JOURNAL, error)
            self._on_unavailable(started)
        else:
            self.unavailable_since = None
            self._database.availability.restored(JOURNAL)
            self._schedule_probe()
            return max(0.0, started + self._interval - monotonic())
        return RETRY_INTERVAL

    def _on_unavailable(self, since: float) -> None:
        if self._connection:
            self._connection.terminate()
            self._connection = None
        if self.unavailable_since is None:
            self.unavailable_since = since
        self._wakeup.set()

    def _schedule_probe(self) -> None:
        """Write an empty batch after :data:`PROBE_INTERVAL`: a model may send nothing for minutes."""
        if self._probe_timer:
            self._probe_timer.cancel()
        self._probe_timer = self._loop.call_later(PROBE_INTERVAL, self._wakeup.set) if self._tracked else None

    async def _flush(self) -> None:
        connection = await self._connect()
        batch = self._take_batch()
        payloads, next_notification = self._notifier.due_notifications(reply.id for reply, _, _ in batch.segments)
        if next_notification is not None:
            self._loop.call_at(next_notification, self._wakeup.set)
        started = monotonic()
        try:
            registered = await reply_lines.append(
                connection, batch.owner, batch.reply_ids, batch.numbers, batch.lines, payloads, batch.may_exist
            )
        except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError) as error:
            # Finisher has stored some of the lines in the meantime. With may_exist set, the rest is written again.
            log.info("A batch conflicted with another statement; retrying: %s", error)
            self._requeue(batch)
        except asyncpg.PostgresError as error:
            if not self._isolate(connection, batch, error):
                self._requeue(batch)
                raise
        except BaseException:
            self._requeue(batch)
            raise
        else:
            self._metrics.journal_batch.observe(monotonic() - started)
            self._note_written(batch)
            if registered:
                self._commit(batch)
            elif batch.owner == self._lease.owner and self._lease.registered:
                self._lease.rejoin_with_new_id()

    def _isolate(self, connection: asyncpg.Connection, batch: Batch, error: asyncpg.PostgresError) -> bool:
        """Write the replies of a failed batch one by one if the reason may be in one of them: a damaged page of the
        table's index fails those whose lines belong there.

        :returns: False if the reason is not in one reply, and the batch is to be written again as it is.
        """
        if connection.is_closed() or verdict_of(error) not in (Verdict.DEFECT, Verdict.REFUSAL):
            return False
        if len(batch.segments) > 1:
            self._to_isolate, self._any_written = len(batch.segments), False
            self._requeue(batch)
            return True
        self._to_isolate = max(0, self._to_isolate - 1)
        others_are_written = self._to_isolate > 0 or self._any_written
        for reply, _, _ in batch.segments:  # one, or none
            self._retrying.discard(reply)
            if reply in self._tracked:
                if others_are_written and reply not in self._failing:
                    what = "The database does not store lines of reply %s; trying again: %s"
                    log.warning(what, reply.id, describe(error))
                self._failing.setdefault(reply, monotonic())
                self._loop.call_later(RETRY_INTERVAL, self._try_again, reply)
        return bool(batch.segments) and others_are_written

    def _try_again(self, reply: ReplyBuffer) -> None:
        if reply in self._failing:
            self._retrying.add(reply)
            self.mark_dirty(reply)

    def _note_written(self, batch: Batch) -> None:
        if batch.segments:
            self._to_isolate = max(0, self._to_isolate - 1)
            self._any_written = True
            first = batch.segments[0][0]
            self._failing.pop(first, None)  # of those that failed each has a batch of its own
            self._retrying.discard(first)

    def _has_own_batch(self, reply: ReplyBuffer, batch: Batch) -> bool:
        """Return whether a reply has to wait for another batch, since it or the one in ``batch`` is written alone."""
        if not batch.segments:
            return False
        return self._to_isolate > 0 or reply in self._retrying or batch.segments[0][0] in self._retrying

    async def _connect(self) -> asyncpg.Connection:
        """Return the journal's own connection. After a reconnection all lines in memory are written again."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.open_dedicated(
                JOURNAL, synchronous_commit="off", statement_timeout=STATEMENT_TIMEOUT
            )
            self._connection.add_termination_listener(lambda _: self._wakeup.set())  # to open another one at once
            for reply in self._tracked:
                reply.written = reply.base
                self._dirty[reply] = None
        return self._connection

    def _take_batch(self) -> Batch:
        batch = Batch(self._lease.owner, self._oldest_dirty_at, self.last_chunk_at)
        dirty, self._dirty = self._dirty, {}
        for reply in dirty:
            if reply.owner != batch.owner:
                self.untrack(reply)
            elif self._failing and reply in self._failing and reply not in self._retrying:
                pass  # until _try_again
            elif batch.full or self._has_own_batch(reply, batch):
                self._mark_still_dirty(reply, batch)
            else:
                batch.add(reply)
        for reply in batch.truncate():
            self._mark_still_dirty(reply, batch)
        return batch

    def _requeue(self, batch: Batch) -> None:
        for reply, _, _ in batch.segments:
            if reply in self._tracked:
                self._mark_still_dirty(reply, batch)

    def _mark_still_dirty(self, reply: ReplyBuffer, batch: Batch) -> None:
        """Write lines of ``batch`` with the next batch; they keep their age."""
        self.mark_dirty(reply)
        self._oldest_dirty_at = min(self._oldest_dirty_at, batch.oldest_read_at)

    def _commit(self, batch: Batch) -> None:
        now = monotonic()
        count = batch.count_uncommitted()
        for reply, first, lines in batch.segments:
            if reply.ended or reply.lost:
                continue
            reply.written = max(reply.written, first + len(lines))
            try:
                reply.commit(first, lines, now)
            except Exception:
                log.exception("Lines of reply %s could not be shown.", reply.id)  # other replies are not affected
            if reply.written < reply.count and reply not in self._dirty:
                self._mark_still_dirty(reply, batch)
        if count:
            self._loop.call_soon(self._observe_latency, batch, count)  # after the viewers' sockets were written to

    def _observe_latency(self, batch: Batch, count: int) -> None:
        now = monotonic()
        self._metrics.line_latency.spread(
            max(0.0, now - batch.newest_read_at), max(0.0, now - batch.oldest_read_at), count
        )
