"""A viewer's place in a reply, wherever its lines are: in this process while it generates it, else in the log."""

import asyncio
from collections.abc import Callable
from typing import Protocol
from uuid import UUID

from db import reply_lines
from db.pool import Database
from db.replies import STREAMING
from db.reply_lines import LogPage
from errors import ServiceUnavailable
from relay.cluster.notifications import Notifier
from relay.generation.reply_buffer import MAX_LINES_PER_READ, ReplyBuffer
from settings import Settings

PAGE_BYTES = 65_536
"""Bytes of a log read at once."""

POLL_INTERVAL = 1.0
"""Seconds after which a log is read again though the notifier did not ring."""


class CursorInvalidated(Exception):
    """The rest cannot be shown here: this process is leaving, or the reply was forgotten or pruned under the viewer."""


TryWrite = Callable[[int, list[bytes]], bool]
"""Shows lines, the first of them with the given number, if it can at once; False if it can show none now."""


def _show_nothing(first: int, lines: list[bytes]) -> bool:
    return False


class ReplySource(Protocol):
    """Where a cursor finds lines, and whom it tells that nobody seems to write them."""

    leaving: bool

    def find_local(self, tenant: str, id: UUID) -> ReplyBuffer | None:
        """The reply, if this process generates it and it is the tenant's."""

    async def adopt_from_dead(self, owned: bool) -> None:
        """See to it that replies whose process is dead go on."""


class Cursor:
    """One viewer's place in one reply.

    :param at: the number of the next line to show.
    :param reply: the reply, if its lines are in memory.
    :param page: what was read of the log already.
    """

    def __init__(
        self,
        sources: ReplySource,
        database: Database,
        notifier: Notifier,
        tenant: str,
        id: UUID,
        next_line: int,
        settings: Settings,
        reply: ReplyBuffer | None = None,
        page: LogPage | None = None,
    ) -> None:
        self.id = id
        self.at = next_line
        self._sources = sources
        self._database = database
        self._notifier = notifier
        self._tenant = tenant
        self._settings = settings
        self._reply = reply
        self._page = page
        self._loop = asyncio.get_running_loop()
        self._deadline = 0.0
        self._away_since: float | None = None

    @property
    def exhausted(self) -> bool:
        """Whether the reply has ended and all its lines were seen, as far as is known without asking."""
        if self._reply is not None:
            return self._reply.ended and self.at >= self._reply.count
        return self._page is not None and self._page.status != STREAMING and not self._page.lines

    async def next(self, seconds: float, show: TryWrite = _show_nothing) -> list[bytes] | None:
        """Wait for the lines after those already given, and give the next few of them.

        :param seconds: how long to wait when there is nothing to show.
        :param show: is given lines in the moment they are committed, without a turn of the event loop in between, for
            as long as it can show them.
        :returns: an empty list if the time passed; None at the reply's end.
        :raises Moved: this process is leaving.
        :raises Unavailable: the database has been away for longer than the patience.
        """
        self._deadline = self._loop.time() + seconds
        while not self._sources.leaving:
            reply = self._in_memory()
            if reply is None:
                found = await self._next_of_log()
            else:
                found = await self._next_of_memory(reply, seconds, show)
            if found is None or found or self._loop.time() >= self._deadline:
                self.at += len(found or ())
                return found
        raise CursorInvalidated

    def _in_memory(self) -> ReplyBuffer | None:
        if self._reply is None or self._reply.lost:
            self._reply = self._sources.find_local(self._tenant, self.id)
        return self._reply if self._reply and not self._reply.lost and self.at >= self._reply.base else None

    async def _next_of_memory(self, reply: ReplyBuffer, seconds: float, show: TryWrite) -> list[bytes] | None:
        if not reply.committed_from(self.at) and not reply.ended:
            await self._watch(reply, seconds, show)
        return reply.committed_from(self.at) or (None if reply.ended else [])

    async def _watch(self, reply: ReplyBuffer, seconds: float, show: TryWrite) -> None:
        """Show lines as they are committed, until some cannot be shown at once, the reply ends, or nothing comes."""
        woken = self._loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        def take(first: int, lines: list[bytes]) -> None:
            if lines and first == self.at and show(first, lines):
                self.at += len(lines)
                self._deadline = self._loop.time() + seconds
            else:
                wake()

        def look_at_the_clock() -> None:
            if self._loop.time() < self._deadline:  # lines were shown meanwhile
                self._timer = self._loop.call_at(self._deadline, look_at_the_clock)
            else:
                wake()

        self._timer = self._loop.call_at(self._deadline, look_at_the_clock)
        reply.subscribe(take)
        try:
            await woken
        finally:
            self._timer.cancel()
            reply.unsubscribe(take)

    async def _next_of_log(self) -> list[bytes] | None:
        with self._notifier.subscribe(self.id) as rung:
            if (found := await self._look_in_log()) or found is None:
                return found
            if self._sources.find_local(self._tenant, self.id) is None:
                await self._notifier.wait(
                    self.id, rung, min(POLL_INTERVAL, max(0.0, self._deadline - self._loop.time()))
                )
        return []

    async def _look_in_log(self) -> list[bytes] | None:
        try:
            page = await self._read_log()
            self._away_since = None
            if page is None or page.pruned:
                raise CursorInvalidated
            if page.lines:
                return page.lines
            if page.status != STREAMING:
                return None
            await self._sources.adopt_from_dead(page.owner_alive)
        except ServiceUnavailable:
            self._check_patience()
        return []

    async def _read_log(self) -> LogPage | None:
        page, self._page = self._page, None
        if page is None:
            async with self._database.acquire() as connection:
                retention = self._settings.reply_log_retention
                page = await reply_lines.read_page(
                    connection, self._tenant, self.id, self.at, retention, MAX_LINES_PER_READ, PAGE_BYTES
                )
        return page

    def _check_patience(self) -> None:
        now = self._loop.time()
        self._away_since = self._away_since or now
        if now - self._away_since > self._settings.db_retry_timeout:
            raise ServiceUnavailable("The database cannot be reached.")
