"""The reply service, the handlers' interface to replies: begin, follow, reconnect, stop, drain."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

from db import ownership, replies
from db.messages import Message
from db.replies import StoredReply
from db.reply_begin import BeginResult, NewReply
from errors import Conflict, NotFound, ServiceUnavailable, StatementFailed
from relay.cluster.lease import ProcessLease
from relay.components import RelayComponents
from relay.failover import Failover
from relay.generation.attempt import OllamaCall
from relay.generation.generation import Generation
from relay.generation.prompt import (
    Prompt,
    conversation_key,
    remaining_image_bytes,
    remaining_system_bytes,
    trim_to_context,
)
from relay.generation.registry import ConcurrencyCounter, GenerationRegistry
from relay.generation.reply_buffer import ReplyBuffer
from relay.ollama import chat_line
from relay.outgoing import RequestBody
from relay.stream.cursor import Cursor, CursorContext, LineReader
from relay.stream.log_reader import LogReader
from relay.stream.shared_reads import SharedReads
from relay.summary.summarizer import Summarizer
from relay.supersession import ViewerCounts
from relay.waiting import RESTARTING, PromptQueue, WaitingPrompt
from relay.window.request_options import window_options
from settings import Settings

log = logging.getLogger("chatterd.relay")

IMAGES_LEFT_OUT = "Reply %s: %d earlier messages are sent without their images, which exceed --context-image-bytes."

SYSTEM_LEFT_OUT = "Reply %s: %d or more earlier system messages are not sent: together they exceed --context-bytes."

RELEASE_TIMEOUT = 1.0
"""Seconds at most for each of the last steps of a shutdown: abandon replies, release them in the database."""


class ReplyService:
    """All replies, whichever process generates them.

    :ivar draining: no reply is begun or adopted any more.
    :ivar leaving: no reply is shown any more either.
    :ivar viewers: the viewers that this process serves.
    """

    def __init__(
        self,
        relay: RelayComponents,
        lease: ProcessLease,
        registry: GenerationRegistry,
        failover: Failover,
        queue: PromptQueue,
        viewers: ViewerCounts,
        summarizer: Summarizer,
    ) -> None:
        self.draining = False
        self.leaving = False
        self._relay = relay
        self._lease = lease
        self._registry = registry
        self._failover = failover
        self._queue = queue
        self.viewers = viewers
        self._summarizer = summarizer
        self._database = relay.database
        self._settings = relay.settings
        self._log = LogReader(relay.database, relay.settings.reply_log_retention)
        self._cursor_context = CursorContext(self, self._log, relay.notifier, relay.settings)
        self._past_reads: SharedReads[tuple[str, UUID], ReplyBuffer | None] = SharedReads(self._read_past)
        self._past: WeakValueDictionary[tuple[str, UUID], ReplyBuffer] = WeakValueDictionary()

    @property
    def ready(self) -> bool:
        """Whether this process accepts prompts, provided that the database is available."""
        return self._lease.registered and not self.draining

    @property
    def _full(self) -> bool:
        return len(self._registry) >= self._settings.max_replies

    @property
    def concurrency(self) -> ConcurrencyCounter:
        """The number of replies that this process generates now, per tenant and address."""
        return self._registry.concurrency

    @property
    def outgoing_bytes(self) -> int:
        """Bytes of the requests to Ollama that are not sent yet."""
        return self._relay.outgoing.used

    async def begin_or_wait(self, prompt: Prompt) -> LineReader:
        """Begin as :meth:`begin` does. While a reply is being generated for this conversation, let the prompt wait.

        It waits for this reply even if there are too many: the reply may be abandoned, and give way.

        :raises ServiceUnavailable: see :meth:`begin`; or too many prompts wait.
        :raises NotAcceptable: the database cannot store the text.
        """
        if prompt.conversation not in self._queue:
            try:
                return await self.begin(prompt)
            except Conflict:
                pass
            except ServiceUnavailable:
                if self._full and (waiting := await self.wait_for_own(prompt)):
                    return waiting
                raise
        return self._queue.add(prompt, self)

    async def wait_for_own(self, prompt: Prompt) -> WaitingPrompt | None:
        """Let a prompt wait that exceeds a limit of concurrent replies, if one of them is its own conversation's.

        :returns: None if there is none, or another prompt waits for its end already.
        :raises ServiceUnavailable: the database is unavailable, or too many prompts wait.
        """
        async with self._database.acquire() as connection:
            running = await replies.find_streaming(connection, prompt.tenant, prompt.appid)
        if running is None or prompt.conversation in self._queue:
            return None
        return self._queue.add(prompt, self)

    async def begin(self, prompt: Prompt, id: UUID | None = None) -> Cursor:
        """Record a prompt and start its reply, or find the reply begun with the same idempotency key.

        :param id: the reply's id, if it was reserved.
        :returns: a cursor at the reply's first line.
        :raises Conflict: a reply is being generated for this conversation.
        :raises ServiceUnavailable: the database is unavailable, there are too many replies, or the process drains.
        :raises NotAcceptable: the database cannot store the text.
        """
        if self.draining:
            raise ServiceUnavailable(RESTARTING)
        if self._full:
            if existing := await self.find_by_idempotency_key(prompt):
                return existing
            raise ServiceUnavailable("The server is generating as many replies as it can. Try again in a moment.")
        reply = ReplyBuffer(id or uuid4(), prompt.tenant, prompt.model, self._lease.owner)
        generation = Generation(
            reply,
            self._relay,
            address=prompt.address,
            conversation_key=conversation_key(prompt.tenant, prompt.appid),
            plain_client=prompt.plain_client,
        )
        self._summarizer.cancel(generation.conversation_key)
        new, own_messages = _new_reply(reply, prompt, self._settings)
        generation.prompt_messages = max(len(own_messages), 1)
        result = await self._record(generation, new)
        if result.context is not None:
            self._relay.metrics.replies_begun += 1
            if result.without_images:
                log.info(IMAGES_LEFT_OUT, reply.id, result.without_images)
            if result.system_left_out:
                log.info(SYSTEM_LEFT_OUT, reply.id, result.system_left_out)
            call = None
            if result.continues_at is not None:
                generation.continue_message()
            elif not result.deferred:
                call = self._first_call(generation, prompt, result, [*result.context, *own_messages])
            self._registry.start(generation, call)
            return Cursor(self._cursor_context, prompt.tenant, reply.id, 0, reply=reply)
        if reply.id in (result.running, result.existing):
            # Recorded by an attempt of which a later statement failed.
            self._relay.metrics.replies_begun += 1
            self._registry.start(generation, None)
            return Cursor(self._cursor_context, prompt.tenant, reply.id, 0, reply=reply)
        if result.existing is not None:
            return await self.follow(prompt.tenant, result.existing, 0)
        raise Conflict(
            "A reply is being generated for this conversation already. Follow it, stop it, or wait for its end.",
            f"/llmchat/{result.running}",
        )

    def _first_call(
        self, generation: Generation, prompt: Prompt, begun: BeginResult, messages: Sequence[Message]
    ) -> OllamaCall | None:
        """Return the request to Ollama; None if it must be made to fit into the model's window, or wait for memory."""
        with self._relay.upstreams.serving(prompt.model) as ollama:
            context = self._relay.planner.plan_at_once(ollama, prompt.model, prompt.options, begun, messages)
        if context is None:
            return None
        generation.window.context = context
        data = prompt.chat_body(messages, context.answer_limit)
        reservation = self._relay.outgoing.try_reserve(len(data))
        return OllamaCall(RequestBody(data, reservation)) if reservation else None

    async def _record(self, generation: Generation, new: NewReply) -> BeginResult:
        """Record a reply. Its generation stays in the registry if the reply was begun."""
        self._registry.add(generation)  # before the commit: from then on requests for the reply's id may arrive
        try:
            try:
                result = await self._relay.begin_batcher.submit(new)
            except StatementFailed:  # perhaps a later one, and the reply is recorded: then it is found by its id
                result = await self._relay.begin_batcher.submit(new)
        except BaseException:  # if it was committed nevertheless, Failover.reconcile_owned() finds it
            self._registry.remove(new.id)
            raise
        if result.context is None:
            self._registry.remove(new.id)
        return result

    async def find_by_idempotency_key(self, prompt: Prompt) -> Cursor | None:
        """Find the reply begun with the prompt's idempotency key; limits do not apply to it.

        :raises ServiceUnavailable: the database is unavailable.
        """
        if prompt.idempotency_key is None:
            return None
        async with self._database.acquire() as connection:
            existing = await replies.find_by_idempotency_key(
                connection, prompt.tenant, prompt.appid, prompt.idempotency_key
            )
        return None if existing is None else await self.follow(prompt.tenant, existing, 0)

    async def reconnect(self, prompt: Prompt, first: int) -> Cursor:
        """Find the reply that a repeated prompt began the first time, and begin nothing.

        :param first: number of the first line to show.
        :raises Conflict: there is none, or the conversation has gone on since.
        :raises ServiceUnavailable: the database is unavailable.
        """
        async with self._database.acquire() as connection:
            if prompt.idempotency_key is None:
                found = await replies.find_newest(
                    connection, prompt.tenant, prompt.appid, prompt.model, prompt.messages
                )
            else:
                found = await replies.find_by_idempotency_key(
                    connection, prompt.tenant, prompt.appid, prompt.idempotency_key
                )
        if found is not None:
            with suppress(NotFound):  # deleted since
                return await self.follow(prompt.tenant, found, first)
        raise Conflict(
            "There is no reply of this prompt to go on with. Send it without Last-Event-ID to begin a new reply."
        )

    async def follow(self, tenant: str, id: UUID, first: int) -> Cursor:
        """Find a reply to show, whichever process generates or generated it.

        :param first: number of the first line to show.
        :raises NotFound: the tenant has no such reply.
        :raises ServiceUnavailable: the database is unavailable.
        """
        reply = self.find_local(tenant, id)
        if reply is not None and first >= reply.base:
            return Cursor(self._cursor_context, tenant, id, first, reply=reply)
        page = await self._log.read(tenant, id, first)
        if page is None:
            raise NotFound("There is no such reply.")
        if page.pruned and first == 0 and not page.lines:
            return Cursor(self._cursor_context, tenant, id, 0, reply=await self._find_past(tenant, id))
        return Cursor(self._cursor_context, tenant, id, first, page=page)

    async def _find_past(self, tenant: str, id: UUID) -> ReplyBuffer | None:
        """Find a reply whose log was pruned. Its viewers share it."""
        return self._past.get((tenant, id)) or await self._past_reads.get((tenant, id))

    async def _read_past(self, key: tuple[str, UUID]) -> ReplyBuffer | None:
        async with self._database.acquire() as connection:
            stored = await replies.find(connection, *key)
        if stored is None:
            return None
        reply = self._past[key] = _from_message(key[0], stored)
        return reply

    async def stop(self, tenant: str, id: UUID) -> bool:
        """Stop a reply, whichever process generates it. Its end is committed and shown like any other.

        :returns: False if it has ended already.
        :raises NotFound: the tenant has no such reply.
        :raises ServiceUnavailable: the database is unavailable.
        """
        generation = self._registry.get(id)
        if generation is not None and generation.reply.tenant == tenant:
            generation.stop()
            return True
        async with self._database.acquire() as connection:
            requested = await replies.request_stop(connection, tenant, id)
            if not requested and await replies.find(connection, tenant, id) is None:
                raise NotFound("There is no such reply.")
        if requested:
            self._registry.spawn(self.adopt_from_dead())  # if the owner is dead, an adopter stops the reply
        return requested

    def find_local(self, tenant: str, id: UUID) -> ReplyBuffer | None:
        """Return the tenant's reply, if this process generates it."""
        generation = self._registry.get(id)
        return generation.reply if generation and generation.reply.tenant == tenant else None

    def context(self, tenant: str, id: UUID) -> dict[str, Any] | None:
        """Return what the model was sent for a reply (docs/api.md), if this process generates it and knows that."""
        generation = self._registry.get(id)
        if generation is None or generation.reply.tenant != tenant or generation.window.context is None:
            return None
        return generation.window.context.as_json()

    async def adopt_from_dead(self, always_search: bool = False) -> None:
        """Adopt replies of dead processes; see :meth:`relay.failover.Failover.adopt_from_dead`."""
        await self._failover.adopt_from_dead(always_search)

    async def drain(self, seconds: float) -> None:
        """Begin no more replies, wait for those in progress, release the rest, and end the viewers' streams.

        :param seconds: how long to wait for replies in progress.
        """
        self.draining = True
        self._failover.accepting = False
        self._queue.close()
        await self._summarizer.stop()
        if self._registry:
            log.info("Waiting %g s at most for %d replies to end.", seconds, len(self._registry))
        await self._registry.wait(seconds)
        remaining = self._registry.ids()
        self._registry.abandon_all()
        await self._registry.wait(RELEASE_TIMEOUT)
        await self._release([id for id in remaining if self._registry.get(id) is None])
        self.leaving = True
        self._relay.notifier.wake_all()

    async def _release(self, ids: Sequence[UUID]) -> None:
        if not ids:
            return
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT):
                await self._relay.journal.wait_flushed()  # an adopter must find all lines in the log
                async with self._database.acquire() as connection:
                    await ownership.release(connection, self._lease.owner, ids)
            log.info("Released %d replies for adoption by other processes.", len(ids))
        except (TimeoutError, ServiceUnavailable):
            log.warning("%d replies could not be released; they are adopted when this process has ended.", len(ids))


def _new_reply(reply: ReplyBuffer, prompt: Prompt, settings: Settings) -> tuple[NewReply, list[Message]]:
    """Return the reply to record, and those of the prompt's messages that are sent to the model."""
    own_messages, messages_remaining, bytes_remaining = trim_to_context(
        prompt.messages, settings.context_messages, settings.context_bytes
    )
    new = NewReply(
        reply.id,
        prompt.tenant,
        prompt.appid,
        prompt.model,
        prompt.stored_request(),
        reply.owner,
        prompt.idempotency_key,
        prompt.messages,
        messages_remaining,
        bytes_remaining,
        unsent=len(prompt.messages) - len(own_messages),
        plain_client=prompt.plain_client,
        context_image_bytes=remaining_image_bytes(own_messages, settings.context_image_bytes),
        context_system_bytes=remaining_system_bytes(own_messages, settings.context_bytes),
        cut_by_us=not window_options(prompt.options).truncate,
    )
    return new, own_messages


def _from_message(tenant: str, stored: StoredReply) -> ReplyBuffer:
    """Return an ended reply whose log was pruned: its message as one line, and an error line if it ended with one."""
    reply = ReplyBuffer(stored.id, tenant, stored.model, owner=0)
    message: dict[str, Any] = {"content": ""}
    if stored.message is not None:
        message = {**stored.message.fields(), "content": stored.message.content}
    if stored.error is None:
        reply.append(chat_line.own_line(stored.model, message, "stopped" if stored.status == "stopped" else "stop"))
    else:
        if stored.message is not None:
            reply.append(chat_line.own_line(stored.model, message, None))
        reply.append(chat_line.error_line(stored.error))
    reply.commit_all(0.0)
    reply.end()
    return reply
