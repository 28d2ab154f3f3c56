"""A viewer's position in a reply: reads lines from memory if this process generates the reply, else from the log."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol
from uuid import UUID

from db.replies import STREAMING
from db.reply_lines import LogPage
from errors import ServiceUnavailable
from relay.cluster.notifications import Notifier
from relay.generation.reply_buffer import ReplyBuffer
from relay.stream.log_reader import PAGE_BYTES, LogReader
from settings import Settings

POLL_INTERVAL = 1.0
"""Seconds after which a log is read again without a notification: one can be lost."""

TryWrite = Callable[[int, list[bytes]], bool]
"""Writes lines to a client: called with the number of the first line, and the lines. Returns False, and has written
nothing, if it cannot write them without waiting."""


def write_nothing(first: int, lines: list[bytes]) -> bool:
    """Be the :data:`TryWrite` of a reader without fast path."""
    return False


class LineReader(Protocol):
    """What a viewer reads: the :class:`Cursor` of a reply, or a prompt that waits for its reply to begin.

    :ivar id: the reply's id.
    """

    id: UUID

    async def next(self, seconds: float, try_write: TryWrite = write_nothing) -> tuple[int, list[bytes]] | None:
        """Wait for lines and return the next few; see :meth:`Cursor.next`."""

    def leave(self) -> None:
        """Note that the viewer reads no more."""


class CursorInvalidated(Exception):
    """This process cannot show the rest of the reply: it shuts down, or the reply was deleted or pruned meanwhile."""


class ReplySource(Protocol):
    """What a cursor needs of :class:`relay.service.ReplyService`.

    :ivar leaving: this process shuts down; viewers have to reconnect.
    """

    leaving: bool

    def find_local(self, tenant: str, id: UUID) -> ReplyBuffer | None:
        """Return the tenant's reply, if this process generates it."""

    async def adopt_from_dead(self, always_search: bool = False) -> None:
        """Adopt replies of dead processes; see :meth:`relay.failover.Failover.adopt_from_dead`."""


@dataclass(frozen=True, slots=True)
class CursorContext:
    """The components that all cursors of a process share."""

    replies: ReplySource
    log: LogReader
    notifier: Notifier
    settings: Settings


class LiveSubscriber:
    """Writes lines at their commit, without an iteration of the event loop in between.

    It stops when lines cannot be written without waiting, when the reply ends or is lost, and when there were no lines
    for ``seconds``.

    :ivar next_line: number of the next line to write.
    :ivar deadline: when it stops if there are no lines until then, by the event loop's clock.
    """

    __slots__ = ("_loop", "_seconds", "_stopped", "_timer", "_try_write", "deadline", "next_line")

    def __init__(self, next_line: int, deadline: float, seconds: float, try_write: TryWrite) -> None:
        self.next_line = next_line
        self.deadline = deadline
        self._seconds = seconds
        self._try_write = try_write
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = self._loop.create_future()

    async def run(self, reply: ReplyBuffer) -> None:
        """Subscribe to the reply until stopped."""
        self._timer = self._loop.call_at(self.deadline, self._on_timer)
        reply.subscribe(self._on_commit)
        try:
            await self._stopped
        finally:
            self._timer.cancel()
            reply.unsubscribe(self._on_commit)

    def _on_commit(self, first: int, lines: list[bytes]) -> None:
        if lines and first == self.next_line and self._try_write(first, lines):
            self.next_line += len(lines)
            self.deadline = self._loop.time() + self._seconds
        else:
            self._stop()

    def _on_timer(self) -> None:
        if self._loop.time() < self.deadline:  # lines were written since the timer was started
            self._timer = self._loop.call_at(self.deadline, self._on_timer)
        else:
            self._stop()

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)


class Cursor:
    """One viewer's position in one reply.

    :ivar next_line: number of the next line to return.
    :param reply: the reply, if its lines are in memory.
    :param page: what was read of the log already, from ``next_line`` on.
    """

    def __init__(
        self,
        context: CursorContext,
        tenant: str,
        id: UUID,
        next_line: int,
        reply: ReplyBuffer | None = None,
        page: LogPage | None = None,
    ) -> None:
        self.id = id
        self.next_line = next_line
        self._context = context
        self._tenant = tenant
        self._reply = reply
        self._page = page
        self._shown: LogPage | None = None
        self._loop = asyncio.get_running_loop()
        self._deadline = 0.0
        self._unavailable_since: float | None = None

    @property
    def exhausted(self) -> bool:
        """Whether the reply has ended and has no more lines, as far as is known without reading the log."""
        if self._reply is not None:
            return self._reply.ended and self.next_line >= self._reply.count
        return self._page is not None and self._page.status != STREAMING and not self._page.lines

    async def next(self, seconds: float, try_write: TryWrite = write_nothing) -> tuple[int, list[bytes]] | None:
        """Wait for lines and return the next few.

        :param seconds: how long to wait for lines.
        :param try_write: called with lines at their commit, as long as it can write them. They are not returned.
        :returns: the number of the first line, and the lines; an empty list after ``seconds`` without lines; None at
            the reply's end.
        :raises CursorInvalidated: this process cannot show the rest of the reply.
        :raises ServiceUnavailable: the database was unavailable for longer than ``--db-retry-timeout``.
        """
        self._deadline = self._loop.time() + seconds
        while not self._context.replies.leaving:
            reply = self._find_in_memory()
            if reply is None:
                lines = await self._read_log()
            else:
                lines = await self._read_memory(reply, seconds, try_write)
            if lines is None:
                return None
            if lines or self._loop.time() >= self._deadline:
                first = self.next_line
                self.next_line += len(lines)
                return first, lines
        raise CursorInvalidated

    def leave(self) -> None:
        """Note that the viewer reads no more: the reply goes on without it."""

    def _find_in_memory(self) -> ReplyBuffer | None:
        if self._reply is None or self._reply.lost:
            self._reply = self._context.replies.find_local(self._tenant, self.id)
        return self._reply if self._reply and not self._reply.lost and self.next_line >= self._reply.base else None

    async def _read_memory(self, reply: ReplyBuffer, seconds: float, try_write: TryWrite) -> list[bytes] | None:
        """Read committed lines, waiting for some if there are none.

        :returns: an empty list if there are still none; None at the reply's end.
        """
        if reply.committed <= self.next_line and not reply.ended:
            live = LiveSubscriber(self.next_line, self._deadline, seconds, try_write)
            await live.run(reply)
            self.next_line, self._deadline = live.next_line, live.deadline
        return _limited(reply.committed_from(self.next_line)) or (None if reply.ended else [])

    async def _read_log(self) -> list[bytes] | None:
        """Read lines from the log. If there are none, wait for a notification.

        :returns: an empty list if there were none; None at the reply's end.
        """
        with self._context.notifier.subscribe(self.id) as notified:
            lines = await self._try_read_log()
            if lines or lines is None:
                return lines
            if self._context.replies.find_local(self._tenant, self.id) is None:
                seconds = min(POLL_INTERVAL, max(0.0, self._deadline - self._loop.time()))
                await self._context.notifier.wait(self.id, notified, seconds)
        return []

    async def _try_read_log(self) -> list[bytes] | None:
        try:
            page = await self._read_page()
            self._unavailable_since = None
            if page is None or page.pruned:
                raise CursorInvalidated
            if page.lines:
                return page.lines
            if page.status != STREAMING:
                return None
            await self._context.replies.adopt_from_dead(always_search=not page.owner_alive)
        except ServiceUnavailable:
            self._check_retry_timeout()
        return []

    async def _read_page(self) -> LogPage | None:
        page, self._page, self._shown = self._page, None, None
        if page is None:
            page = await self._context.log.read(self._tenant, self.id, self.next_line)
        self._shown = page  # other cursors find a large line there until this one has sent it
        return page

    def _check_retry_timeout(self) -> None:
        now = monotonic()
        self._unavailable_since = self._unavailable_since or now
        if now - self._unavailable_since > self._context.settings.db_retry_timeout:
            raise ServiceUnavailable("The database is unavailable.")


def _limited(lines: list[bytes]) -> list[bytes]:
    """Return the first lines, as many as have :data:`PAGE_BYTES` together, but one at least: a viewer that does not
    read would keep the others in memory."""
    size = 0
    for count, line in enumerate(lines):
        size += len(line)
        if size > PAGE_BYTES and count:
            return lines[:count]
    return lines
