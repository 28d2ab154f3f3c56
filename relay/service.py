"""The one door for handlers to replies: begin, follow, stop, forget, drain."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import msgspec

from db import messages, ownership, replies, reply_lines
from db.replies import NewReply, StoredReply
from db.reply_lines import LogPage
from errors import Conflict, NotFound, ServiceUnavailable
from relay.cluster.lease import ProcessLease
from relay.failover import Failover
from relay.generation import prompt
from relay.generation.at_once import ConcurrencyCounter
from relay.generation.generation import Generation, RelayContext
from relay.generation.prompt import Prompt
from relay.generation.registry import GenerationRegistry
from relay.generation.reply_buffer import MAX_LINES_PER_READ, ReplyBuffer
from relay.ollama import chat_line
from relay.stream.cursor import PAGE_BYTES, Cursor, CursorInvalidated

log = logging.getLogger("chatterd.relay")

RESTARTING = "The server is being restarted. Try again in a moment."

LEAVE_SECONDS = 1.0
"""Seconds at most for the last writes of a process that leaves."""


class ReplyService:
    """All replies that this process generates, and the way to all others.

    :ivar draining: no reply is begun or adopted any more.
    :ivar leaving: no reply is shown any more either.
    """

    def __init__(
        self, relay: RelayContext, lease: ProcessLease, registry: GenerationRegistry, failover: Failover
    ) -> None:
        self.draining = False
        self.leaving = False
        self._registry = registry
        self._failover = failover
        self._relay = relay
        self._database = relay.database
        self._settings = relay.settings
        self._lease = lease
        self._notifier = relay.notifier
        self._begin_batcher = relay.begin_batcher

    @property
    def ready(self) -> bool:
        """Whether prompts are welcome here, if the database answers."""
        return self._lease.registered and not self.draining

    @property
    def at_once(self) -> ConcurrencyCounter:
        """How many replies this process generates for whom."""
        return self._registry.at_once

    async def begin(self, asked: Prompt) -> Cursor:
        """Record a prompt and start its reply, or find the reply that the same idempotency key began.

        :returns: a viewer's place before the reply's first line.
        :raises Conflict: the conversation has a reply being generated already.
        :raises Unavailable: the database is away, too many replies at once, or draining.
        :raises NotAcceptable: the database refuses the text.
        """
        if self.draining:
            raise ServiceUnavailable(RESTARTING)
        if len(self._registry) >= self._settings.max_replies:
            if known := await self.find_by_idempotency_key(asked):
                return known
            raise ServiceUnavailable("The server is generating as many replies as it can. Try again in a moment.")
        reply = ReplyBuffer(uuid4(), asked.tenant, asked.model, self._lease.owner)
        generation = Generation(reply, self._relay, address=asked.address)
        self._registry.add(generation)  # before it is recorded: whoever learns its id there must find it here
        own, messages_left, bytes_left = prompt.trim_to_context(
            asked.messages, self._settings.context_messages, self._settings.context_bytes
        )
        try:
            begun = await self._begin_batcher.submit(_new_row(reply, asked, messages_left, bytes_left))
        except BaseException:  # had it been recorded all the same, Adoption.look_after_own() would find it
            self._registry.remove(reply.id)
            raise
        if begun.context is not None:
            self._relay.metrics.replies_begun += 1
            self._registry.start(generation, prompt.chat_body(asked.stored_request(), [*begun.context, *own]))
            return self._cursor(asked.tenant, reply.id, 0, reply=reply)
        self._registry.remove(reply.id)
        if begun.existing is not None:
            return await self.follow(asked.tenant, begun.existing, 0)
        raise Conflict(
            "A reply is being generated for this conversation already. Follow it, stop it, or wait for its end.",
            f"/llmchat/{begun.running}",
        )

    async def find_by_idempotency_key(self, asked: Prompt) -> Cursor | None:
        """Find the reply that the same idempotency key began, which takes no room.

        :raises Unavailable: the database is away.
        """
        if asked.idempotency_key is None:
            return None
        async with self._database.acquire() as connection:
            known = await replies.find_by_idempotency_key(connection, asked.tenant, asked.appid, asked.idempotency_key)
        return None if known is None else await self.follow(asked.tenant, known, 0)

    async def follow(self, tenant: str, id: UUID, at: int) -> Cursor:
        """Find a reply to show, whichever process generates it, or did.

        :param at: the number of the first line to show.
        :raises NotFound: there is no such reply, or it is somebody else's.
        :raises Unavailable: the database is away.
        """
        reply = self.find_local(tenant, id)
        if reply is not None and at >= reply.base:
            return self._cursor(tenant, id, at, reply=reply)
        async with self._database.acquire() as connection:
            page = await self._page(connection, tenant, id, at)
            if page is None:
                raise NotFound("There is no such reply.")
            if page.pruned and at == 0 and not page.lines:
                stored = await replies.find(connection, tenant, id)
                return self._cursor(tenant, id, 0, reply=_whole(tenant, stored) if stored else None)
        return self._cursor(tenant, id, at, page=page)

    async def stop(self, tenant: str, id: UUID) -> bool:
        """Stop a reply, whichever process generates it; its end is committed and shown like any other.

        :returns: False if it had ended already.
        :raises NotFound: there is no such reply.
        """
        generation = self._registry.get(id)
        if generation is not None and generation.reply.tenant == tenant:
            generation.stop()
            return True
        async with self._database.acquire() as connection:
            asked = await replies.request_stop(connection, tenant, id)
            if not asked and await replies.find(connection, tenant, id) is None:
                raise NotFound("There is no such reply.")
        if asked:
            self._registry.spawn(self.adopt_from_dead(owned=True))
        return asked

    async def delete_conversation(self, tenant: str, appid: str, since: int) -> None:
        """Stop a conversation's reply, then delete its messages from ``since`` (a seq) on."""
        while True:
            async with self._database.acquire() as connection:
                running = await messages.delete_conversation_messages(connection, tenant, appid, since)
            if running is None:
                return
            cursor = await self.follow(tenant, running, 0)
            await self.stop(tenant, running)
            await self._wait_for_end(cursor)

    async def _wait_for_end(self, cursor: Cursor) -> None:
        try:
            while await cursor.next(self._settings.heartbeat_interval) is not None:
                pass
        except CursorInvalidated as error:  # somebody else has forgotten it, unless
            if self.leaving:
                raise ServiceUnavailable(RESTARTING) from error

    def find_local(self, tenant: str, id: UUID) -> ReplyBuffer | None:
        """The reply, if this process generates it and it is the tenant's."""
        generation = self._registry.get(id)
        return generation.reply if generation and generation.reply.tenant == tenant else None

    async def adopt_from_dead(self, owned: bool) -> None:
        """See to it that replies whose process is dead go on; see :meth:`relay.failover.Adoption.rescue`."""
        await self._failover.adopt_from_dead(owned)

    async def drain(self, seconds: float) -> None:
        """Begin no reply any more; give those that run ``seconds`` to end, give the rest up, send the viewers away."""
        self.draining = True
        self._failover.accepting = False
        if self._registry:
            log.info("Waiting %g s at most for %d replies to end.", seconds, len(self._registry))
        await self._registry.wait(seconds)
        left = self._registry.ids()
        self._registry.abandon_all()
        await self._registry.wait(LEAVE_SECONDS)
        await self._release([id for id in left if self._registry.get(id) is None])
        self.leaving = True
        self._notifier.wake_all()

    async def _release(self, ids: Sequence[UUID]) -> None:
        if not ids:
            return
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._relay.journal.wait_flushed()  # an adopter must find every line that is still to be written
                async with self._database.acquire() as connection:
                    await ownership.release(connection, self._lease.owner, ids)
            log.info("Gave up %d replies for others to go on with.", len(ids))
        except (TimeoutError, ServiceUnavailable):
            log.warning("%d replies could not be given up; others find them when this process is gone.", len(ids))

    def _cursor(self, tenant: str, id: UUID, at: int, **found: Any) -> Cursor:
        return Cursor(self, self._database, self._notifier, tenant, id, at, self._settings, **found)

    async def _page(self, connection: Any, tenant: str, id: UUID, first: int) -> LogPage | None:
        return await reply_lines.read_page(
            connection, tenant, id, first, self._settings.reply_log_retention, MAX_LINES_PER_READ, PAGE_BYTES
        )


def _new_row(reply: ReplyBuffer, asked: Prompt, context_messages: int, context_bytes: int) -> NewReply:
    return NewReply(
        reply.id,
        asked.tenant,
        asked.appid,
        asked.model,
        asked.stored_request(),
        reply.owner,
        asked.idempotency_key,
        asked.messages,
        context_messages,
        context_bytes,
    )


def _whole(tenant: str, stored: StoredReply) -> ReplyBuffer:
    """Show a reply whose lines are gone: what the model said as one line, and how it ended if that was not well."""
    reply = ReplyBuffer(stored.id, tenant, stored.model, owner=0)
    message = {"content": ""}
    if stored.message is not None:
        message = {"content": stored.message.content, **msgspec.json.decode(stored.message.extra or "{}")}
    if stored.error is None:
        reply.append(chat_line.own_line(stored.model, message, "stopped" if stored.status == "stopped" else "stop"))
    else:
        if stored.message is not None:
            reply.append(chat_line.own_line(stored.model, message, None))
        reply.append(chat_line.error_line(stored.error))
    reply.commit_all(0.0)
    reply.end()
    return reply
