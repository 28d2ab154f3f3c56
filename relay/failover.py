"""Failover: finds replies whose process is dead or has released them, adopts them and resumes their generation."""

import asyncio
import logging
from uuid import UUID

import asyncpg

from db import ownership, reply_lines
from db.ownership import AdoptedReply, Orphan
from errors import ServiceUnavailable
from relay.cluster.lease import ProcessLease
from relay.components import RelayComponents
from relay.generation import resume
from relay.generation.generation import Generation
from relay.generation.prompt import conversation_key
from relay.generation.registry import GenerationRegistry
from relay.generation.reply_buffer import MAX_LINES_PER_READ, ReplyBuffer
from relay.generation.transcript import Transcript
from relay.stream.log_reader import PAGE_BYTES

log = logging.getLogger("chatterd.relay")

ADOPTION_BATCH = 5
"""Orphans adopted concurrently, each with a database connection. The other processes adopt others meanwhile."""


class Failover:
    """Adopts orphans: streaming replies that no living process owns.

    :ivar accepting: whether orphans are adopted; False while this process shuts down.
    """

    def __init__(self, relay: RelayComponents, lease: ProcessLease, registry: GenerationRegistry) -> None:
        self.accepting = True
        self._relay = relay
        self._database = relay.database
        self._settings = relay.settings
        self._lease = lease
        self._registry = registry
        self._adopting: set[UUID] = set()

    async def adopt_from_dead(self, always_search: bool = False) -> None:
        """Remove dead processes, and adopt their replies if there were any.

        :param always_search: search for orphans even if no dead process was found.
        :raises ServiceUnavailable: the database is unavailable.
        """
        if await self._lease.reap_dead() or always_search:
            await self.adopt_orphans()

    async def adopt_orphans(self) -> None:
        """Adopt all orphans.

        :raises ServiceUnavailable: the database is unavailable.
        """
        while True:
            async with self._database.acquire() as connection:
                orphans = await ownership.find_orphans(connection, ADOPTION_BATCH)
            adopted = await asyncio.gather(*(self._try_to_adopt(orphan) for orphan in orphans))
            if not any(adopted):
                return

    async def reconcile_owned(self) -> None:
        """Compare the replies that this process owns in the database with those that it generates.

        Stop those with a stop request, whose notification may have been lost. Generate those that it owns but does not
        generate: the result of a statement may have been lost.

        :raises ServiceUnavailable: the database is unavailable.
        """
        owner = self._lease.owner
        async with self._database.acquire() as connection:
            owned = await ownership.find_owned(connection, owner)
        for id, stop in owned:
            if self._registry.get(id) is None:
                await self._try_to_adopt(Orphan(id, owner))
            elif stop:
                self._registry.stop(id)

    def on_orphan(self, id: UUID) -> None:
        """Adopt a reply that another process has released."""
        if self.accepting:
            self._registry.spawn(self.adopt_orphans())

    async def _try_to_adopt(self, orphan: Orphan) -> bool:
        """Adopt a reply. If this one fails, the others are adopted nevertheless; the next sweep tries again.

        :returns: see :meth:`_adopt`; False if it failed.
        """
        try:
            return await self._adopt(orphan)
        except ServiceUnavailable as error:
            log.info("Reply %s could not be adopted yet: %s", orphan.id, error)
            return False

    async def _adopt(self, orphan: Orphan) -> bool:
        """Adopt a reply and resume its generation.

        If this fails after the change of owner, :meth:`reconcile_owned` resumes the reply.

        :returns: False if another process or task was faster, or this process takes no replies.
        """
        if orphan.id in self._adopting or self._registry.get(orphan.id) is not None or not self._can_adopt():
            return False
        self._adopting.add(orphan.id)
        try:
            return await self._adopt_and_resume(orphan, self._lease.owner)
        finally:
            self._adopting.discard(orphan.id)

    def _can_adopt(self) -> bool:
        return self.accepting and self._lease.registered and len(self._registry) < self._settings.max_replies

    async def _adopt_and_resume(self, orphan: Orphan, owner: int) -> bool:
        async with self._database.acquire() as connection:
            adopted = await ownership.adopt(connection, orphan, owner)
            if adopted is None:
                return False
            transcript = await self._read_log(connection, adopted)
        if owner != self._lease.owner or not self.accepting:
            return False  # declared dead in the meantime, or shutting down: the reply is an orphan again, or will be
        log.info("Adopted reply %s after %d lines (attempt %d).", adopted.id, adopted.line_count, adopted.attempts)
        self._relay.metrics.replies_adopted += 1
        self._relay.notifier.mark_watched(adopted.id)
        reply = ReplyBuffer(adopted.id, adopted.tenant, adopted.model, owner, base=adopted.line_count)
        key = conversation_key(adopted.tenant, adopted.appid)
        generation = Generation(reply, self._relay, transcript, conversation_key=key, plain_client=adopted.plain_client)
        if adopted.stop:
            generation.stop()
        elif adopted.attempts > resume.MAX_ATTEMPTS:
            generation.interrupt("The reply was interrupted again and again without getting further.")
        self._registry.start(generation, None)
        self._relay.notifier.wake(reply.id)
        return True

    async def _read_log(self, connection: asyncpg.Connection, adopted: AdoptedReply) -> Transcript:
        """Return the transcript of an adopted reply. If it cannot be read, a reply that is to end ends without it."""
        transcript = Transcript(continues=adopted.continues_at is not None)
        try:
            await self._replay_log(connection, adopted, transcript)
        except ServiceUnavailable:
            raise
        except Exception:
            if not adopted.stop and adopted.attempts <= resume.MAX_ATTEMPTS:
                raise
            log.exception("The log of reply %s cannot be read. The reply ends without it.", adopted.id)
        return transcript

    async def _replay_log(self, connection: asyncpg.Connection, adopted: AdoptedReply, transcript: Transcript) -> None:
        count, retention = 0, self._settings.reply_log_retention
        while count < adopted.line_count and (
            page := await reply_lines.read_page(
                connection, adopted.tenant, adopted.id, count, retention, MAX_LINES_PER_READ, PAGE_BYTES
            )
        ):
            if not page.lines:
                break
            resume.replay(transcript, page.lines)
            count += len(page.lines)
