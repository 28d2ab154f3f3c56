"""Adopts replies whose process is gone: finds them, makes them this process's, and goes on with them."""

import asyncio
import logging
from uuid import UUID

import asyncpg

from db import messages, ownership, reply_lines
from db.ownership import AdoptedReply, Orphan
from relay.cluster.lease import ProcessLease
from relay.generation import prompt, resume
from relay.generation.generation import Generation, RelayContext
from relay.generation.registry import GenerationRegistry
from relay.generation.reply_buffer import MAX_LINES_PER_READ, ReplyBuffer
from relay.generation.transcript import Transcript
from relay.stream.cursor import PAGE_BYTES

log = logging.getLogger("chatterd.relay")

ADOPTION_BATCH = 5
"""Orphans adopted at once, each with a connection; the other processes take others in the meantime."""


class Failover:
    """Goes on with orphans, unless this process is itself about to leave.

    :ivar open: whether orphans are welcome.
    """

    def __init__(self, relay: RelayContext, lease: ProcessLease, registry: GenerationRegistry) -> None:
        self.accepting = True
        self._relay = relay
        self._database = relay.database
        self._settings = relay.settings
        self._lease = lease
        self._registry = registry
        self._under_way: set[UUID] = set()

    async def adopt_from_dead(self, owned: bool) -> None:
        """Adopt the replies whose process is dead.

        :param owned: False if it is known that there are some, True to look for dead processes first.
        :raises Unavailable: the database is away.
        """
        if await self._lease.reap_dead() or not owned:
            await self.adopt_orphans()

    async def adopt_orphans(self) -> None:
        """Go on with the replies that no living process owns.

        :raises Unavailable: the database is away.
        """
        while True:
            async with self._database.acquire() as connection:
                orphans = await ownership.find_orphans(connection, ADOPTION_BATCH)
            adopted = await asyncio.gather(*(self._adopt(orphan) for orphan in orphans))
            if not any(adopted):
                return

    async def reconcile_owned(self) -> None:
        """Stop the replies of this process that another was asked to stop, should the notifier not have been heard,
        and generate those that are this process's without its knowing: the answer to a statement was lost.

        :raises Unavailable: the database is away.
        """
        owner = self._lease.owner
        async with self._database.acquire() as connection:
            owned = await ownership.find_owned(connection, owner)
        for id, stop in owned:
            if self._registry.get(id) is None:
                await self._adopt(Orphan(id, owner))
            elif stop:
                self._registry.stop(id)

    def on_orphan(self, id: UUID) -> None:
        """Adopt a reply that another process has released."""
        if self.accepting:
            self._registry.spawn(self.adopt_orphans())

    async def _adopt(self, orphan: Orphan) -> bool:
        """Go on with a reply; False if somebody else is faster, another process or another task of this one.

        Should this fail after the reply became this process's, look_after_own() finds it.
        """
        if orphan.id in self._under_way or self._registry.get(orphan.id) is not None or not self._has_room():
            return False
        self._under_way.add(orphan.id)
        try:
            return await self._take_over(orphan, self._lease.owner)
        finally:
            self._under_way.discard(orphan.id)

    def _has_room(self) -> bool:
        return self.accepting and self._lease.registered and len(self._registry) < self._settings.max_replies

    async def _take_over(self, orphan: Orphan, owner: int) -> bool:
        async with self._database.acquire() as connection:
            adopted = await ownership.adopt(connection, orphan, owner)
            if adopted is None:
                return False
            said, count = await self._read_log(connection, adopted)
            context = await messages.context(
                connection, adopted.tenant, adopted.appid, self._settings.context_messages, self._settings.context_bytes
            )
        if owner != self._lease.owner or not self.accepting:
            return False  # declared dead in the meantime, or about to leave: it is an orphan again, or will be
        log.info("Adopted reply %s after %d lines (attempt %d).", adopted.id, count, adopted.attempts)
        self._relay.metrics.replies_adopted += 1
        self._relay.notifier.mark_watched(adopted.id)
        reply = ReplyBuffer(adopted.id, adopted.tenant, adopted.model, owner, base=count)
        generation = Generation(reply, self._relay, said)
        request = resume.remaining_request(adopted.request, said)
        if adopted.stop:
            generation.stop()
        elif obstacle := resume.why_not_resumable(adopted.request, said, adopted.attempts):
            generation.interrupt(obstacle)
        elif request is None:
            generation.complete("length")
        conversation = resume.messages_to_continue(context, said)
        self._registry.start(generation, prompt.chat_body(request or adopted.request, conversation))
        self._relay.notifier.wake(reply.id)
        return True

    async def _read_log(self, connection: asyncpg.Connection, adopted: AdoptedReply) -> tuple[Transcript, int]:
        """What the model had said of an adopted reply, and how many lines the log has of it."""
        said, count = Transcript(), 0
        retention = self._settings.reply_log_retention
        while page := await reply_lines.read_page(
            connection, adopted.tenant, adopted.id, count, retention, MAX_LINES_PER_READ, PAGE_BYTES
        ):
            if not page.lines:
                break
            resume.replay(said, page.lines)
            count += len(page.lines)
        return said, count
