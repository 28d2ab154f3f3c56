"""Plans what of a conversation is sent to a model, so that it fits into the model's window."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from uuid import UUID

import msgspec

from db.context import cuts, estimates
from db.context.cuts import Conversation
from db.messages import Message
from db.pool import Database
from db.reply_begin import BeginResult
from relay.memory_budget import MemoryBudget
from relay.ollama.client import OllamaClient
from relay.window.context import SentContext
from relay.window.cut import Part, Selection, cut, prompt_start, reserve, room, select_from
from relay.window.model_windows import ModelWindows
from relay.window.outgoing_request import WindowOptions, window_options
from relay.window.text_counts import TextCounts, count_message, count_text
from relay.window.tokens import TokenEstimator, TokenEstimators
from settings import Settings

CERTAIN_WINDOW = 4_096
"""Tokens that the window of every model is taken to hold: Ollama's smallest default (ollama ``server/routes.go``)."""

ASK_INTERVAL = 5.0
"""Seconds between two questions for a window that is not known: what is no Ollama never tells."""

_Question = tuple[str, str, int | None]
"""The URL of an Ollama, a model, and the ``num_ctx`` of requests."""

LEARN_INTERVAL = 0.2
"""Seconds between two counts of one model that are learned from: each takes some 0.1 ms."""

TOLERANCE = 2.0
"""A prompt is sent although it exceeds the window, by estimate, up to so many times: Ollama counts exactly."""

OTHER_FIELDS = ("tools", "format")
"""Fields of a request, beside its messages, that become part of the prompt."""


class ContextDoesNotFit(Exception):
    """A conversation is not sent, since it does not fit into the window. Its text is for the user.

    :ivar code: what it means to a program.
    """

    code = ""


class ContextFull(ContextDoesNotFit):
    """Messages would have to be left out, and the client wants to be asked before."""

    code = "context_full"


class ContextExceeded(ContextDoesNotFit):
    """The newest message of the user alone exceeds the window."""

    code = "context_exceeded"


class ConversationDeleted(Exception):
    """The reply is not in the database any more, or another process owns it."""


@dataclass(frozen=True, slots=True)
class ReplyKey:
    """A reply to plan for.

    :ivar owner: id of the process that generates it.
    :ivar conversation_key: see :meth:`relay.ollama.client.OllamaClient.stream`.
    """

    tenant: str
    id: UUID
    owner: int
    model: str
    conversation_key: str


@dataclass(frozen=True, slots=True)
class Refused:
    """What is known of a prompt that Ollama has refused as too long.

    :ivar correction: factor by which its estimate was wrong.
    :ivar limit: its estimated tokens, if Ollama did not say how many it has: the window is taken to hold no more.
    """

    correction: float = 1.0
    limit: int | None = None


class ContextPlanner:
    """Plans the contexts of replies.

    :param outgoing: memory of the requests to Ollama that are not sent yet.
    """

    def __init__(self, database: Database, windows: ModelWindows, outgoing: MemoryBudget, settings: Settings) -> None:
        self.windows = windows
        self.estimators = TokenEstimators()
        self._learned: dict[str, float] = {}
        self._unstored: set[str] = set()
        self._questions: dict[_Question, tuple[float, asyncio.Task[int | None]]] = {}
        self._database = database
        self._outgoing = outgoing
        self._settings = settings

    def plan_at_once(
        self,
        ollama: OllamaClient,
        model: str,
        fields: Mapping[str, msgspec.Raw],
        begun: BeginResult,
        messages: Sequence[Message],
    ) -> SentContext | None:
        """Plan a reply without asking Ollama or the database.

        :param messages: what has been read to be sent.
        :returns: None if the messages may not fit: use :meth:`plan`.
        """
        options = window_options(fields)
        window = self.windows.known(ollama, model, options.num_ctx)
        if begun.cut is not None and model not in self.estimators:
            return None  # by another estimate the conversation might be cut at another message
        counts = sum(map(count_message, messages), _count_fields(fields))
        context = SentContext(
            model,
            len(messages),
            counts,
            self.estimators.of(model).estimate(counts),
            window,
            images_left_out=begun.without_images,
            system_left_out=begun.system_left_out,
            num_ctx=options.num_ctx,
            limited=not options.truncate,
        )
        if begun.cut is not None:
            context.first, context.left_out = begun.cut.first, begun.cut.left_out
        if options.truncate:
            return context
        if window is None:
            return context if context.tokens <= CERTAIN_WINDOW and begun.cut is None else None
        if begun.cut is not None and begun.cut.window != window:
            return None
        return context if room(window, context.tokens) >= reserve(window, options.num_predict) else None

    def learn(self, context: SentContext, tokens: int) -> None:
        """Learn how many tokens a prompt had.

        :param tokens: of the whole prompt, as Ollama counted them.
        """
        now = monotonic()
        if now - self._learned.get(context.model, -LEARN_INTERVAL) < LEARN_INTERVAL:
            return
        self._learned[context.model] = now
        self._unstored.add(context.model)
        self.estimators.of(context.model).learn(context.counts, tokens)

    def ask_for_window(
        self, ollama: OllamaClient, context: SentContext, conversation_key: str
    ) -> "asyncio.Task[int | None]":
        """Ask for the window of a loaded model, at most once in :data:`ASK_INTERVAL`: replies share a question.

        :returns: the question, which may be answered already; its result is None if the window cannot be found.
        """
        now, question = monotonic(), (ollama.url, context.model, context.num_ctx)
        asked_at, asking = self._questions.get(question, (-ASK_INTERVAL, None))
        if asking is None or now - asked_at >= ASK_INTERVAL:
            request = msgspec.json.encode({"model": context.model, "options": {"num_ctx": context.num_ctx}}).decode()
            asking = asyncio.create_task(
                self.windows.find(ollama, context.model, request, conversation_key, load=False)
            )
            self._questions[question] = now, asking
        return asking

    def on_loaded(self, ollama: OllamaClient, context: SentContext) -> None:
        """Forget the window of a model that was loaded anew."""
        self.windows.on_loaded(ollama, context.model)
        self._questions.pop((ollama.url, context.model, context.num_ctx), None)

    async def store_learned(self) -> None:
        """Store what was learned since the last call, for processes that start later.

        :raises ServiceUnavailable: the database is unavailable.
        """
        self._learned.clear()
        now = monotonic()
        for question, (asked_at, asking) in list(self._questions.items()):
            if asking.done() and now - asked_at >= ASK_INTERVAL:
                del self._questions[question]
        if not self._unstored:
            return
        states = {model: self.estimators.of(model).state() for model in self._unstored}
        self._unstored.clear()
        async with self._database.acquire() as connection:
            await estimates.store_estimates(connection, states)

    async def plan(self, ollama: OllamaClient, reply: ReplyKey, refused: Refused | None = None) -> SentContext:
        """Plan a reply of which nothing was shown yet, and store what is decided.

        :param refused: what is known of an attempt that was refused.
        :raises ContextFull: something would have to be left out, and the client does not want that.
        :raises ContextExceeded: the newest message of the user alone exceeds the window. It is never sent again.
        :raises ConversationDeleted: there is no such reply.
        :raises ServiceUnavailable: the database is unavailable.
        """
        draft = await self._draft(reply, refused.correction if refused else 1.0)
        window = await self._find_window(ollama, reply, draft)
        limit = refused.limit if refused else None
        if window is None:
            window = limit
        if window is None or draft.options.truncate:
            return draft.context(reply.model, draft.all, window)
        holds = window if limit is None else min(window, limit)
        return await self._fit(reply, draft, window, holds, TOLERANCE if refused is None else 1.0)

    async def describe(self, ollama: OllamaClient, reply: ReplyKey) -> SentContext:
        """Describe what a reply was sent that goes on, here or after another process.

        :raises ConversationDeleted: there is no such reply.
        :raises ServiceUnavailable: the database is unavailable.
        """
        draft = await self._draft(reply, 1.0)
        window = self.windows.known(ollama, reply.model, draft.options.num_ctx)
        if window is None:
            window = await self.windows.find(ollama, reply.model, draft.request, reply.conversation_key, load=False)
        left_out = draft.cut.left_out if draft.cut and draft.cut.first == draft.first else 0
        selection = select_from(draft.parts, draft.first, draft.fixed)
        context = draft.context(reply.model, selection, window, left_out)
        if window is not None:  # this process may estimate otherwise than the one that has begun the reply
            context.reserved = reserve(window, draft.options.num_predict)
        return context

    async def _draft(self, reply: ReplyKey, correction: float) -> "_Draft":
        reservation = await self._outgoing.reserve(self._settings.context_bytes)
        try:
            async with self._database.acquire() as connection:
                conversation = await cuts.read_conversation(
                    connection, reply.tenant, reply.id, self._settings.context_messages, self._settings.context_bytes
                )
                if reply.model not in self.estimators and (
                    state := await estimates.read_estimate(connection, reply.model)
                ):
                    self.estimators.of(reply.model).restore(state)
            if conversation is None:
                raise ConversationDeleted
            return _Draft(conversation, self.estimators.of(reply.model), correction)
        finally:
            reservation.release()

    async def _find_window(self, ollama: OllamaClient, reply: ReplyKey, draft: "_Draft") -> int | None:
        window = self.windows.known(ollama, reply.model, draft.options.num_ctx)
        if window is not None:
            return window
        needed = not draft.options.truncate and draft.all.tokens > CERTAIN_WINDOW
        return await self.windows.find(ollama, reply.model, draft.request, reply.conversation_key, load=needed)

    async def _fit(self, reply: ReplyKey, draft: "_Draft", window: int, holds: int, tolerance: float) -> SentContext:
        """Find what fits, and store it.

        :param window: the window for which a cut is stored.
        :param holds: the tokens that it is taken to hold for this reply.
        :param tolerance: see :data:`TOLERANCE`.
        """
        free = reserve(holds, draft.options.num_predict)
        stored = draft.cut if draft.cut and draft.cut.window == window else None
        selection = select_from(draft.parts, stored.first if stored else None, draft.fixed, holds)
        if room(holds, selection.tokens) >= free:
            if selection.system_after is not None:
                await self._store_cut(reply, selection, window)
            elif stored is None and (draft.cut is not None or selection.first != draft.first):
                await self._remove_cut(reply, selection)
            return draft.context(reply.model, selection, window, stored.left_out if stored else 0)
        if draft.options.stops and draft.can_be_cut(selection):
            raise ContextFull(
                f"The conversation has about {selection.tokens:,} tokens, and the window of {reply.model} holds "
                f"{window:,}, of which {free:,} are kept for the answer. Let the oldest messages be left out, or begin "
                "a new conversation."
            )
        selection = cut(draft.parts, holds, free, draft.fixed)
        if selection.tokens > holds * tolerance:
            await self._leave_out_prompt(reply, draft)
            raise ContextExceeded(
                f"This prompt has about {selection.tokens:,} tokens, and the window of {reply.model} holds {window:,}. "
                "Shorten it, send it in parts, or choose a larger window (num_ctx). Later prompts are answered without "
                "it."
            )
        return draft.context(reply.model, selection, window, await self._store_cut(reply, selection, window))

    async def _store_cut(self, reply: ReplyKey, selection: Selection, window: int) -> int:
        """Store a cut; return the number of messages that are left out."""
        if selection.first is None:
            return 0
        async with self._database.acquire() as connection:
            left_out = await cuts.store_cut(
                connection, reply.tenant, reply.id, reply.owner, selection.first, window, selection.system_after
            )
        if left_out is None:
            raise ConversationDeleted
        return left_out

    async def _remove_cut(self, reply: ReplyKey, selection: Selection) -> None:
        if selection.first is not None:
            async with self._database.acquire() as connection:
                await cuts.remove_cut(connection, reply.tenant, reply.id, reply.owner, selection.first)

    async def _leave_out_prompt(self, reply: ReplyKey, draft: "_Draft") -> None:
        if draft.prompt_first is not None and not draft.continues:
            async with self._database.acquire() as connection:
                await cuts.leave_out_messages(connection, reply.tenant, reply.id, reply.owner, draft.prompt_first)


class _Draft:
    """A conversation in tokens.

    :ivar all: everything that may be sent.
    :ivar fixed: tokens of what is sent beside messages.
    :ivar prompt_first: ``seq`` of the newest message of the user, or of the last message; None if there is none.
    """

    def __init__(self, conversation: Conversation, estimator: TokenEstimator, correction: float) -> None:
        fields = msgspec.json.decode(conversation.request, type=dict[str, msgspec.Raw])
        self.request = conversation.request
        self.options: WindowOptions = window_options(fields)
        self.cut = conversation.cut
        self.first = conversation.first
        self.continues = conversation.continues
        self._counts = [
            replace(count_message(sized.message), pictures=sized.pictures) for sized in conversation.messages
        ]
        self._without_images = [sized.without_images for sized in conversation.messages]
        self._fixed_counts = _count_fields(fields)
        self.fixed = round(correction * estimator.estimate(self._fixed_counts))
        self.parts = [
            Part(sized.seq, sized.message.role, round(correction * estimator.estimate(counts)))
            for sized, counts in zip(conversation.messages, self._counts, strict=True)
        ]
        self.all = select_from(self.parts, None, self.fixed)
        others = [part for part in self.parts if part.role != "system"]
        self.prompt_first = others[prompt_start(others)].seq if others else None

    def can_be_cut(self, selection: Selection) -> bool:
        """Return whether messages before the newest one of the user are sent."""
        return selection.first is not None and selection.first != self.prompt_first

    def context(self, model: str, selection: Selection, window: int | None, left_out: int = 0) -> SentContext:
        """Return the context of a selection."""
        sent = [
            index
            for index, part in enumerate(self.parts)
            if (part.role == "system" and part.seq > (selection.system_after or -1))
            or (part.role != "system" and selection.first is not None and part.seq >= selection.first)
        ]
        counts = sum((self._counts[index] for index in sent), self._fixed_counts)
        return SentContext(
            model,
            selection.messages,
            counts,
            selection.tokens,
            window,
            first=selection.first if left_out else None,
            left_out=left_out,
            images_left_out=sum(self._without_images[index] for index in sent),
            system_left_out=selection.system_left_out,
            num_ctx=self.options.num_ctx,
            limited=not self.options.truncate,
        )


def _count_fields(fields: Mapping[str, msgspec.Raw]) -> TextCounts:
    """Count what a request has beside its messages."""
    return sum((count_text(bytes(fields[name]).decode()) for name in OTHER_FIELDS if name in fields), TextCounts())
