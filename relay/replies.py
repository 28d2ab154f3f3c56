"""The one door for handlers to replies: begin, find, stop, drain."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from uuid import UUID, uuid4

import msgspec

from db import chatts, conversations, replies
from db.pool import Database
from db.replies import NewReply, StoredReply
from errors import ConnectionLost, Conflict, NotFound, Unavailable
from relay import chat_line, prompt
from relay.generation import Generation
from relay.ollama import Ollama
from relay.presence import Presence
from relay.prompt import Prompt
from relay.reply import Reply
from relay.shelf import Shelf
from settings import Settings

log = logging.getLogger("chatterd.relay")

SWEEP_INTERVAL = 5.0
"""Seconds between two looks for replies whose process is gone."""

SETTLE_INTERVAL = 1.0
"""Seconds between two looks for a reply of which it is not known whether it was begun."""

INTERRUPTED = "The server stopped before the reply was complete."


class Replies:
    """All replies that this process generates or can show."""

    def __init__(self, database: Database, ollama: Ollama, presence: Presence, settings: Settings) -> None:
        self._database = database
        self._ollama = ollama
        self._presence = presence
        self._settings = settings
        self._running: dict[UUID, Generation] = {}
        self._finished = Shelf(settings.log_retention, settings.log_bytes)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        self.draining = False

    async def start(self) -> None:
        """End what a process that is gone left behind, and keep looking for more."""
        await self._sweep()
        self._sweeping = asyncio.create_task(self._keep_sweeping())

    async def begin(self, asked: Prompt) -> Reply:
        """Record a prompt and start its reply, or find the reply that the same idempotency key began.

        :raises Conflict: the conversation has a reply being generated already.
        :raises Unavailable: the database is away, too many replies at once, or draining.
        :raises NotAcceptable: the database refuses the text.
        """
        if self.draining:
            raise Unavailable("The server is being restarted. Try again in a moment.")
        if len(self._running) >= self._settings.max_replies:
            raise Unavailable("The server is generating as many replies as it can. Try again in a moment.")
        reply = Reply(uuid4(), asked.tenant, asked.appid, asked.model)
        generation = Generation(reply, self._ollama, self._database, self._settings)
        self._running[reply.id] = generation  # before it is recorded: whoever learns its id there must find it here
        own, messages_left, bytes_left = prompt.within(
            asked.messages, self._settings.context_messages, self._settings.context_bytes
        )
        try:
            async with self._database.acquire() as connection:
                begun = await replies.begin(
                    connection, self._new_row(reply, asked), asked.messages, messages_left, bytes_left
                )
        except ConnectionLost:
            self._spawn(self._settle(generation, asked))
            raise
        except BaseException:
            del self._running[reply.id]
            raise
        if begun.context is not None:
            self._spawn(self._generate(generation, prompt.chat_body(asked.stored_request(), begun.context + own)))
            return reply
        del self._running[reply.id]
        if begun.known is not None:
            return await self.find(asked.tenant, begun.known)
        raise Conflict(
            "A reply is being generated for this conversation already. Follow it, stop it, or wait for its end.",
            f"/llmchat/{begun.running}",
        )

    async def find(self, tenant: str, id: UUID) -> Reply:
        """Find a reply to follow: one of this process's, else what the database kept of it.

        :raises NotFound: there is no such reply, or it is somebody else's.
        """
        generation = self._running.get(id)
        reply = generation.reply if generation else self._finished.get(id)
        if reply is None:
            return _from_stored(tenant, await self._find_stored(tenant, id))
        if reply.tenant != tenant:
            raise NotFound("There is no such reply.")
        return reply

    async def stop(self, tenant: str, id: UUID) -> bool:
        """Stop a reply; its end is committed and shown like any other.

        :returns: False if it had ended already.
        :raises NotFound: there is no such reply.
        """
        reply = await self.find(tenant, id)
        generation = self._running.get(id)
        if generation is None or reply.ended:
            return False
        generation.stop()
        return True

    async def forget(self, tenant: str, appid: str, since: int) -> None:
        """Stop a conversation's reply, then delete its messages from ``since`` (a seq) on."""
        while True:
            async with self._database.acquire() as connection:
                running = await conversations.forget(connection, tenant, appid, since)
            if running is None:
                break
            reply = await self.find(tenant, running)
            await self.stop(tenant, running)
            while not reply.ended:
                await reply.more(len(reply.lines), self._settings.heartbeat)
        self._finished.drop(tenant, appid)

    async def drain(self, seconds: float) -> None:
        """Begin no reply any more; give those that run ``seconds`` to end, then interrupt them."""
        self.draining = True
        if self._sweeping:
            self._sweeping.cancel()
        if self._tasks:
            log.info("Waiting %g s at most for %d replies to end.", seconds, len(self._running))
            await asyncio.wait(self._tasks, timeout=seconds)
        for generation in self._running.values():
            generation.interrupt(INTERRUPTED)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)

    def _new_row(self, reply: Reply, asked: Prompt) -> NewReply:
        return NewReply(
            reply.id,
            reply.tenant,
            reply.appid,
            reply.model,
            asked.stored_request(),
            self._presence.owner,
            asked.idempotency_key,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _generate(self, generation: Generation, body: bytes) -> None:
        reply = generation.reply
        try:
            await generation.run(body)
        finally:
            del self._running[reply.id]
            self._finished.put(reply)

    async def _settle(self, generation: Generation, asked: Prompt) -> None:
        """Find out whether a reply was begun whose answer from the database was lost; if it was, generate it."""
        reply = generation.reply
        stored, context = None, None
        while context is None:
            await asyncio.sleep(SETTLE_INTERVAL)
            try:
                async with self._database.acquire() as connection:
                    stored = await replies.find(connection, reply.tenant, reply.id)
                    context = await chatts.context(
                        connection,
                        reply.tenant,
                        reply.appid,
                        self._settings.context_messages,
                        self._settings.context_bytes,
                    )
            except Unavailable:
                continue
        if stored is None:
            del self._running[reply.id]
            reply.end()
        else:
            await self._generate(generation, prompt.chat_body(asked.stored_request(), context))

    async def _find_stored(self, tenant: str, id: UUID) -> StoredReply:
        async with self._database.acquire() as connection:
            stored = await replies.find(connection, tenant, id)
        if stored is None:
            raise NotFound("There is no such reply.")
        if stored.status == replies.STREAMING:
            raise Unavailable("This reply is being generated by another process. Try again in a moment.")
        return stored

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            await self._sweep()

    async def _sweep(self) -> None:
        self._finished.prune()
        try:
            async with self._database.acquire() as connection:
                interrupted = await replies.interrupt_orphans(connection, self._presence.owner, INTERRUPTED)
        except Unavailable:
            return  # the log says why; the next sweep finds them
        for id in interrupted:
            log.info("Ended reply %s, whose process is gone.", id)


def _from_stored(tenant: str, stored: StoredReply) -> Reply:
    """Show a reply whose lines are gone: what the model said as one line, and how it ended if that was not well."""
    reply = Reply(stored.id, tenant, stored.appid, stored.model)
    message = {"content": ""}
    if stored.message is not None:
        message = {"content": stored.message.content, **msgspec.json.decode(stored.message.extra or "{}")}
    if stored.error is None:
        reply.append(chat_line.own_line(stored.model, message, "stopped" if stored.status == "stopped" else "stop"))
    else:
        if stored.message is not None:
            reply.append(chat_line.own_line(stored.model, message, None))
        reply.append(chat_line.error_line(stored.error))
    reply.end()
    return reply
