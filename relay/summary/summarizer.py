"""Makes summaries in the background, after replies whose conversation was cut, and never in the way of a prompt."""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from db import replies
from db.context import summaries
from db.context.summaries import Unsummarised
from errors import ChatterdError
from relay.components import RelayComponents
from relay.generation.generation import Generation
from relay.ollama.client import CHAT, OllamaClient
from relay.summary.request import NoSummary, read_summary, summary_body

log = logging.getLogger("chatterd.relay")

MAX_WAITING = 100
"""Conversations whose summaries wait for each other at most: one is made at a time. Further ones are not summarised."""

MAX_DUE = 1_000
"""Conversations of which it is kept that a prompt has prevented their summary; it is made after the next reply."""

TIMEOUT = 300.0
"""Seconds that a summary may take, unless ``--reply-timeout`` is shorter."""

BYTES_PER_TOKEN = 8
"""More than a token of text has on average: what is read to be summarised is bounded by the window."""

WATCH_INTERVAL = 0.5
"""Seconds between two looks for a prompt that another process has received meanwhile."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A summary to make.

    :ivar reply: the id of the reply after which it is made.
    :ivar window: of the model, in tokens.
    """

    tenant: str
    reply: UUID
    model: str
    conversation_key: str
    window: int

    @property
    def key(self) -> tuple[str, str]:
        return self.conversation_key, self.model


class Summarizer:
    """Makes the summaries of this process: after its own replies, one at a time.

    A summary that fails is not tried again before the conversation is cut the next time, and is missed by no reply. One
    that a prompt has prevented is made after the reply to it.
    """

    def __init__(self, relay: RelayComponents) -> None:
        self._relay = relay
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._due: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._one_at_a_time = asyncio.Lock()
        self._enabled = relay.settings.summarize

    def on_reply_ended(self, generation: Generation) -> None:
        """Make a summary if the conversation was cut for the reply, or it is due since then."""
        context, reply = generation.window.context, generation.reply
        if not self._enabled or not reply.ended or context is None or context.window is None:
            return
        key = generation.conversation_key
        job = _Job(reply.tenant, reply.id, reply.model, key, context.window)
        if context.is_new_cut:
            self._due[job.key] = None
            if len(self._due) > MAX_DUE:
                self._due.popitem(last=False)
        if job.key in self._due and context.left_out and len(self._tasks) < MAX_WAITING:
            self.cancel(key)
            task = self._tasks[key] = asyncio.create_task(self._run(job))
            task.add_done_callback(lambda _: self._forget(key, task))

    def _forget(self, key: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]

    def cancel(self, conversation_key: str) -> None:
        """Stop making the summary of a conversation: it has a prompt."""
        if task := self._tasks.pop(conversation_key, None):
            task.cancel()

    async def stop(self) -> None:
        """Stop making summaries."""
        self._enabled = False
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: _Job) -> None:
        try:
            async with self._one_at_a_time, asyncio.timeout(min(TIMEOUT, self._relay.settings.reply_timeout)):
                is_due = await self._summarise(job)
        except (NoSummary, ChatterdError, TimeoutError) as error:
            is_due = False
            log.info("What reply %s was not sent is not summarised: %s", job.reply, str(error) or "it took too long.")
        except Exception:
            is_due = False
            log.exception("What reply %s was not sent could not be summarised.", job.reply)
        if not is_due:
            self._due.pop(job.key, None)

    async def _summarise(self, job: _Job) -> bool:
        """Make a summary.

        :returns: whether it is to be made after the next reply, since there is a prompt.
        :raises NoSummary: it cannot be made.
        :raises ChatterdError: Ollama or the database is unavailable.
        :raises TimeoutError: it takes too long.
        """
        relay = self._relay
        size = min(relay.settings.context_bytes, BYTES_PER_TOKEN * job.window)
        async with relay.database.acquire() as connection:
            found = await summaries.read_unsummarised(
                connection, job.tenant, job.reply, relay.settings.context_messages, size
            )
            estimator = await relay.planner.tokens.load(connection, job.model)
        if found is None:
            return False
        body = summary_body(found, job.window, estimator)
        reservation = relay.outgoing.try_reserve(len(body))
        if reservation is None:
            return True
        with reservation, relay.upstreams.serving(job.model) as ollama:
            text = await self._ask(ollama, job, found, body)
        if text is None:
            return True
        async with relay.database.acquire() as connection:
            is_stored = await summaries.store_summary(connection, job.tenant, found, text)
        if is_stored:
            log.info("What reply %s was not sent is summarised.", job.reply)
        return not is_stored

    async def _ask(self, ollama: OllamaClient, job: _Job, found: Unsummarised, body: bytes) -> str | None:
        """Return Ollama's summary; None if a reply of the conversation was begun meanwhile, in whatever process.

        :raises NoSummary, ChatterdError, TimeoutError: see :meth:`_summarise`.
        """
        asking = asyncio.create_task(ollama.post(CHAT, body, TIMEOUT, job.conversation_key))
        try:
            while not asking.done():
                async with self._relay.database.acquire() as connection:
                    if await replies.find_streaming(connection, job.tenant, found.appid):
                        return None
                await asyncio.wait([asking], timeout=WATCH_INTERVAL)
            return read_summary(*asking.result())
        finally:
            asking.cancel()
