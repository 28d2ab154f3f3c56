"""Adopts replies whose process is gone: finds them, makes them this process's, and goes on with them."""

import asyncio
import logging
from uuid import UUID

import asyncpg

from db import adoption, chatts, lines
from db.adoption import Adopted, Orphan
from relay import continuation, prompt
from relay.cursor import PAGE_BYTES
from relay.generation import Generation, Parts
from relay.presence import Presence
from relay.reply import AT_ONCE, Reply
from relay.running import Running
from relay.transcript import Transcript

log = logging.getLogger("chatterd.relay")

ADOPT_AT_ONCE = 5
"""Orphans adopted at once, each with a connection; the other processes take others in the meantime."""


class Adoption:
    """Goes on with orphans, unless this process is itself about to leave.

    :ivar open: whether orphans are welcome.
    """

    def __init__(self, parts: Parts, presence: Presence, running: Running) -> None:
        self.open = True
        self._parts = parts
        self._database = parts.database
        self._settings = parts.settings
        self._presence = presence
        self._running = running
        self._under_way: set[UUID] = set()
        parts.doorbell.on_orphan = self._hear_of_orphan

    async def rescue(self, owned: bool) -> None:
        """Adopt the replies whose process is dead.

        :param owned: False if it is known that there are some, True to look for dead processes first.
        :raises Unavailable: the database is away.
        """
        if await self._presence.bury() or not owned:
            await self.adopt_orphans()

    async def adopt_orphans(self) -> None:
        """Go on with the replies that no living process owns.

        :raises Unavailable: the database is away.
        """
        while True:
            async with self._database.acquire() as connection:
                orphans = await adoption.orphans(connection, ADOPT_AT_ONCE)
            adopted = await asyncio.gather(*(self._adopt(orphan) for orphan in orphans))
            if not any(adopted):
                return

    async def look_after_own(self) -> None:
        """Stop the replies of this process that another was asked to stop, should the doorbell not have been heard,
        and generate those that are this process's without its knowing: the answer to a statement was lost.

        :raises Unavailable: the database is away.
        """
        owner = self._presence.owner
        async with self._database.acquire() as connection:
            owned = await adoption.owned(connection, owner)
        for id, stop in owned:
            if self._running.get(id) is None:
                await self._adopt(Orphan(id, owner))
            elif stop:
                self._running.stop(id)

    def _hear_of_orphan(self, id: UUID) -> None:
        if self.open:
            self._running.spawn(self.adopt_orphans())

    async def _adopt(self, orphan: Orphan) -> bool:
        """Go on with a reply; False if somebody else is faster, another process or another task of this one.

        Should this fail after the reply became this process's, look_after_own() finds it.
        """
        if orphan.id in self._under_way or self._running.get(orphan.id) is not None or not self._has_room():
            return False
        self._under_way.add(orphan.id)
        try:
            return await self._take_over(orphan, self._presence.owner)
        finally:
            self._under_way.discard(orphan.id)

    def _has_room(self) -> bool:
        return self.open and self._presence.known and len(self._running) < self._settings.max_replies

    async def _take_over(self, orphan: Orphan, owner: int) -> bool:
        async with self._database.acquire() as connection:
            adopted = await adoption.adopt(connection, orphan, owner)
            if adopted is None:
                return False
            said, count = await self._read_log(connection, adopted)
            context = await chatts.context(
                connection, adopted.tenant, adopted.appid, self._settings.context_messages, self._settings.context_bytes
            )
        if owner != self._presence.owner or not self.open:
            return False  # declared dead in the meantime, or about to leave: it is an orphan again, or will be
        log.info("Adopted reply %s after %d lines (attempt %d).", adopted.id, count, adopted.attempts)
        self._parts.figures.replies_adopted += 1
        self._parts.doorbell.expect_watchers(adopted.id)
        reply = Reply(adopted.id, adopted.tenant, adopted.model, owner, base=count)
        generation = Generation(reply, self._parts, said)
        request = continuation.remaining(adopted.request, said)
        if adopted.stop:
            generation.stop()
        elif obstacle := continuation.obstacle(adopted.request, said, adopted.attempts):
            generation.interrupt(obstacle)
        elif request is None:
            generation.complete("length")
        messages = continuation.continued(context, said)
        self._running.start(generation, prompt.chat_body(request or adopted.request, messages))
        self._parts.doorbell.wake(reply.id)
        return True

    async def _read_log(self, connection: asyncpg.Connection, adopted: Adopted) -> tuple[Transcript, int]:
        """What the model had said of an adopted reply, and how many lines the log has of it."""
        said, count = Transcript(), 0
        retention = self._settings.reply_log_retention
        while page := await lines.page(connection, adopted.tenant, adopted.id, count, retention, AT_ONCE, PAGE_BYTES):
            if not page.lines:
                break
            continuation.add_logged(said, page.lines)
            count += len(page.lines)
        return said, count
