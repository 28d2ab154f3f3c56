"""The one door for handlers to replies: begin, follow, stop, forget, drain; and behind it adopt."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any
from uuid import UUID, uuid4

import msgspec

from db import chatts, conversations, lines, replies
from db.chatts import Message
from db.lines import Page
from db.replies import Adopted, NewReply, Orphan, StoredReply
from errors import Conflict, NotFound, Unavailable
from relay import adoption, chat_line, prompt
from relay.cursor import PAGE_BYTES, Cursor
from relay.generation import Generation, Parts
from relay.presence import Presence
from relay.prompt import Prompt
from relay.reply import AT_ONCE, Reply
from relay.transcript import Transcript

log = logging.getLogger("chatterd.relay")

ADOPT_AT_ONCE = 5
"""Orphans adopted at once, each with a connection; the other processes take others in the meantime."""

LEAVE_SECONDS = 1.0
"""Seconds at most for the last writes of a process that leaves."""


class Replies:
    """All replies that this process generates, and the way to all others.

    :ivar draining: no reply is begun or adopted any more.
    :ivar leaving: no reply is shown any more either.
    """

    def __init__(self, parts: Parts, presence: Presence) -> None:
        self.draining = False
        self.leaving = False
        self._parts = parts
        self._database = parts.database
        self._settings = parts.settings
        self._presence = presence
        self._doorbell = parts.doorbell
        self._running: dict[UUID, Generation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        presence.on_lost = self.lose_all
        self._doorbell.on_stop = self._stop_here
        self._doorbell.on_orphan = self._hear_of_orphan

    async def begin(self, asked: Prompt) -> Cursor:
        """Record a prompt and start its reply, or find the reply that the same idempotency key began.

        :returns: a viewer's place before the reply's first line.
        :raises Conflict: the conversation has a reply being generated already.
        :raises Unavailable: the database is away, too many replies at once, or draining.
        :raises NotAcceptable: the database refuses the text.
        """
        self._check_room()
        reply = Reply(uuid4(), asked.tenant, asked.appid, asked.model)
        generation = Generation(reply, self._presence.owner, self._parts)
        self._running[reply.id] = generation  # before it is recorded: whoever learns its id there must find it here
        own, messages_left, bytes_left = prompt.within(
            asked.messages, self._settings.context_messages, self._settings.context_bytes
        )
        try:
            async with self._database.acquire() as connection:
                begun = await replies.begin(
                    connection, _new_row(generation, asked), asked.messages, messages_left, bytes_left
                )
        except BaseException:  # had it been recorded all the same, look_after_own() would find it
            del self._running[reply.id]
            raise
        if begun.context is not None:
            self._spawn(self._generate(generation, prompt.chat_body(asked.stored_request(), [*begun.context, *own])))
            return self._cursor(asked.tenant, reply.id, 0, reply=reply)
        del self._running[reply.id]
        if begun.known is not None:
            return await self.follow(asked.tenant, begun.known, 0)
        raise Conflict(
            "A reply is being generated for this conversation already. Follow it, stop it, or wait for its end.",
            f"/llmchat/{begun.running}",
        )

    async def follow(self, tenant: str, id: UUID, at: int) -> Cursor:
        """Find a reply to show, whichever process generates it, or did.

        :param at: the number of the first line to show.
        :raises NotFound: there is no such reply, or it is somebody else's.
        :raises Unavailable: the database is away.
        """
        reply = self.live(id)
        if reply is not None and at >= reply.base:
            if reply.tenant != tenant:
                raise NotFound("There is no such reply.")
            return self._cursor(tenant, id, at, reply=reply)
        async with self._database.acquire() as connection:
            page = await self._page(connection, tenant, id, at)
            if page is None:
                raise NotFound("There is no such reply.")
            if page.pruned and at == 0 and not page.lines:
                stored = await replies.find(connection, tenant, id)
                return self._cursor(tenant, id, 0, reply=_whole(stored) if stored else None)
        return self._cursor(tenant, id, at, page=page)

    async def stop(self, tenant: str, id: UUID) -> bool:
        """Stop a reply, whichever process generates it; its end is committed and shown like any other.

        :returns: False if it had ended already.
        :raises NotFound: there is no such reply.
        """
        generation = self._running.get(id)
        if generation is not None and generation.reply.tenant == tenant:
            generation.stop()
            return True
        async with self._database.acquire() as connection:
            asked = await replies.request_stop(connection, tenant, id)
            if not asked and await replies.find(connection, tenant, id) is None:
                raise NotFound("There is no such reply.")
        if asked:
            self._spawn(self.rescue(owned=True))
        return asked

    async def forget(self, tenant: str, appid: str, since: int) -> None:
        """Stop a conversation's reply, then delete its messages from ``since`` (a seq) on."""
        while True:
            async with self._database.acquire() as connection:
                running = await conversations.forget(connection, tenant, appid, since)
            if running is None:
                return
            cursor = await self.follow(tenant, running, 0)
            await self.stop(tenant, running)
            while await cursor.next(self._settings.heartbeat) is not None:
                pass

    def live(self, id: UUID) -> Reply | None:
        """The reply, if this process generates it."""
        generation = self._running.get(id)
        return generation.reply if generation else None

    async def rescue(self, owned: bool) -> None:
        """Adopt the replies whose process is dead.

        :param owned: False if it is known that there are some, True to look for dead processes first.
        :raises Unavailable: the database is away.
        """
        if await self._presence.bury() or not owned:
            await self.adopt_orphans()

    async def adopt_orphans(self) -> None:
        """Go on with replies that no living process owns.

        :raises Unavailable: the database is away.
        """
        while True:
            async with self._database.acquire() as connection:
                orphans = await replies.orphans(connection, ADOPT_AT_ONCE)
            adopted = await asyncio.gather(*(self._adopt(orphan) for orphan in orphans))
            if not any(adopted):
                return

    async def look_after_own(self) -> None:
        """Stop the replies of this process that another was asked to stop, should the doorbell not have been heard,
        and generate those that are this process's without its knowing: the answer to their begin was lost.

        :raises Unavailable: the database is away.
        """
        owner = self._presence.owner
        async with self._database.acquire() as connection:
            owned = await replies.owned(connection, owner)
        for id, stop in owned:
            if id not in self._running:
                await self._adopt(Orphan(id, owner))
            elif stop:
                self._stop_here(id)

    def lose_all(self) -> None:
        """Let all replies go: this process was declared dead, and others adopt them."""
        for generation in self._running.values():
            generation.let_go()

    def end_unsaved(self) -> None:
        """End the replies that cannot be saved because the database has been away for too long."""
        for generation in self._running.values():
            generation.fail("The reply could not be saved: the database cannot be reached.")

    async def drain(self, seconds: float) -> None:
        """Begin no reply any more; give those that run ``seconds`` to end, give the rest up, send the viewers away."""
        self.draining = True
        if self._tasks:
            log.info("Waiting %g s at most for %d replies to end.", seconds, len(self._running))
            await asyncio.wait(self._tasks, timeout=seconds)
        left = list(self._running)
        for generation in self._running.values():
            generation.let_go()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LEAVE_SECONDS)
        await self._release([id for id in left if id not in self._running])
        self.leaving = True
        self._doorbell.wake_all()

    async def _release(self, ids: Sequence[UUID]) -> None:
        if not ids:
            return
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._parts.journal.idle()  # an adopter must find every line that is still to be written
                async with self._database.acquire() as connection:
                    await replies.release(connection, self._presence.owner, ids)
            log.info("Gave up %d replies for others to go on with.", len(ids))
        except (TimeoutError, Unavailable):
            log.warning("%d replies could not be given up; others find them when this process is gone.", len(ids))

    def _check_room(self) -> None:
        if self.draining:
            raise Unavailable("The server is being restarted. Try again in a moment.")
        if len(self._running) >= self._settings.max_replies:
            raise Unavailable("The server is generating as many replies as it can. Try again in a moment.")
        if not self._presence.known:
            raise Unavailable("The database cannot be reached. Try again in a moment.")

    def _cursor(self, tenant: str, id: UUID, at: int, **found: Any) -> Cursor:
        return Cursor(self, self._database, self._doorbell, tenant, id, at, self._settings, **found)

    def _stop_here(self, id: UUID) -> None:
        if generation := self._running.get(id):
            generation.stop()

    def _hear_of_orphan(self, id: UUID) -> None:
        if not self.draining:
            self._spawn(self.adopt_orphans())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _generate(self, generation: Generation, body: bytes) -> None:
        try:
            await generation.run(body)
        finally:
            self._parts.journal.close(generation.reply)
            del self._running[generation.reply.id]

    async def _page(self, connection: Any, tenant: str, id: UUID, first: int) -> Page | None:
        return await lines.page(connection, tenant, id, first, self._settings.log_retention, AT_ONCE, PAGE_BYTES)

    async def _context(self, connection: Any, reply: Reply) -> list[Message]:
        settings = self._settings
        return await chatts.context(
            connection, reply.tenant, reply.appid, settings.context_messages, settings.context_bytes
        )

    async def _adopt(self, orphan: Orphan) -> bool:
        """Go on with a reply, unless another process is faster.

        Should this fail after the reply became this process's, look_after_own() finds it.
        """
        owner = self._presence.owner
        if self.draining or not self._presence.known or len(self._running) >= self._settings.max_replies:
            return False
        async with self._database.acquire() as connection:
            adopted = await replies.adopt(connection, orphan, owner)
            if adopted is None:
                return False
            said, count = await self._read_log(connection, adopted)
            reply = Reply(adopted.id, adopted.tenant, adopted.appid, adopted.model, base=count)
            context = await self._context(connection, reply)
        generation = Generation(reply, owner, self._parts, said)
        body = prompt.chat_body(adopted.request, adoption.continued(context, said))
        log.info("Adopted reply %s after %d lines (attempt %d).", adopted.id, count, adopted.attempts)
        if adopted.stop:
            generation.stop()
        elif error := adoption.obstacle(adopted.request, said, adopted.attempts):
            generation.interrupt(error)
        if owner != self._presence.owner:
            return False  # declared dead in the meantime: it is an orphan again
        self._running[reply.id] = generation
        self._spawn(self._generate(generation, body))
        self._doorbell.wake(reply.id)
        return True

    async def _read_log(self, connection: Any, adopted: Adopted) -> tuple[Transcript, int]:
        """What the model had said of an adopted reply, and how many lines the log has of it."""
        found: list[bytes] = []
        while page := await self._page(connection, adopted.tenant, adopted.id, len(found)):
            if not page.lines:
                break
            found += page.lines
        return adoption.transcript_of(found), len(found)


def _new_row(generation: Generation, asked: Prompt) -> NewReply:
    reply = generation.reply
    return NewReply(
        reply.id,
        reply.tenant,
        reply.appid,
        reply.model,
        asked.stored_request(),
        generation.owner,
        asked.idempotency_key,
    )


def _whole(stored: StoredReply) -> Reply:
    """Show a reply whose lines are gone: what the model said as one line, and how it ended if that was not well."""
    reply = Reply(stored.id, "", stored.appid, stored.model)
    message = {"content": ""}
    if stored.message is not None:
        message = {"content": stored.message.content, **msgspec.json.decode(stored.message.extra or "{}")}
    if stored.error is None:
        reply.append(chat_line.own_line(stored.model, message, "stopped" if stored.status == "stopped" else "stop"))
    else:
        if stored.message is not None:
            reply.append(chat_line.own_line(stored.model, message, None))
        reply.append(chat_line.error_line(stored.error))
    reply.commit(reply.count, 0.0)
    reply.end()
    return reply


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    """Await work that nobody waits for; what goes wrong in it is logged, not lost."""
    try:
        await work
    except Unavailable as error:
        log.info("Put off until the database is back: %s", error)
    except Exception:
        log.exception("Something failed inside chatterd")
