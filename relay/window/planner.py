"""Plans what of a conversation is sent to a model, so that it fits into the model's window."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from db.context import cuts
from db.messages import Message
from db.pool import Database
from db.reply_begin import BeginResult
from relay.memory_budget import MemoryBudget
from relay.ollama.client import OllamaClient
from relay.window.context import MIN_ANSWER, SentContext
from relay.window.cut import Selection, reserve, room
from relay.window.draft import Draft, count_fields
from relay.window.learned_tokens import LearnedTokens
from relay.window.model_windows import ModelWindows
from relay.window.request_options import Fields, WindowOptions, window_options
from relay.window.text_counts import count_message
from settings import Settings

CERTAIN_WINDOW = 4_096
"""Tokens that the window of every model is taken to hold: Ollama's smallest default (ollama ``server/routes.go``)."""

TOLERANCE = 12.0
"""A prompt is sent although it exceeds the window, by estimate, up to so many times: Ollama counts exactly. A run of
hyphens has less than a tenth of the tokens that are estimated, as the tokenizer of the embedded model counts."""


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


class RequestExceeded(ContextDoesNotFit):
    """It is not the prompt that exceeds the window, but the request's other fields, or the answer that it continues."""

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
    :ivar windows: what is known of the windows of models.
    :ivar tokens: what is known of their tokenizers.
    """

    def __init__(
        self,
        database: Database,
        windows: ModelWindows,
        tokens: LearnedTokens,
        outgoing: MemoryBudget,
        settings: Settings,
    ) -> None:
        self.windows = windows
        self.tokens = tokens
        self._database = database
        self._outgoing = outgoing
        self._settings = settings

    def plan_at_once(
        self, ollama: OllamaClient, model: str, fields: Fields, begun: BeginResult, messages: Sequence[Message]
    ) -> SentContext | None:
        """Plan a reply without asking Ollama or the database.

        :param messages: what has been read to be sent.
        :returns: None if the messages may not fit: use :meth:`plan`.
        """
        if begun.cut is not None and model not in self.tokens:
            return None  # by another estimate the conversation might be cut at another message
        options = window_options(fields)
        window = self.windows.known(ollama, model, options.num_ctx)
        counts = sum(map(count_message, messages), count_fields(fields))
        context = SentContext(
            model,
            len(messages),
            counts,
            self.tokens.of(model).estimate(counts),
            window,
            images_left_out=begun.without_images,
            system_left_out=begun.system_left_out,
            summary=begun.summary,
            options=options,
        )
        if begun.cut is not None:
            context.first, context.left_out = begun.cut.first, begun.cut.left_out
        if not (options.truncate or self._fits(ollama, context, begun)):
            return None
        self._limit_answer(ollama, context)
        return context

    def _fits(self, ollama: OllamaClient, context: SentContext, begun: BeginResult) -> bool:
        """Return whether messages fit for certain, and begin where those of the turn before did."""
        window = context.window
        if window is None:
            return context.tokens <= CERTAIN_WINDOW and begun.cut is None
        if begun.cut is not None and begun.cut.window != window:
            return False
        return room(window, context.tokens) >= self._reserve(ollama, context.model, context.options, window)

    async def plan(
        self, ollama: OllamaClient, reply: ReplyKey, prompt_messages: int, refused: Refused | None = None
    ) -> SentContext:
        """Plan a reply of which nothing was shown yet, and store what is decided.

        :param prompt_messages: number of messages at the end of the conversation that are the prompt.
        :param refused: what is known of an attempt that was refused.
        :raises ContextFull: something would have to be left out, and the client does not want that.
        :raises ContextExceeded: what comes from the newest message of the user on exceeds the window. Those messages of
            it that are the prompt are not sent again.
        :raises RequestExceeded: something else of the request does, and stays as it is.
        :raises ConversationDeleted: there is no such reply.
        :raises ServiceUnavailable: the database is unavailable.
        """
        draft = await self._draft(reply, refused.correction if refused else 1.0)
        needed = not draft.options.truncate and draft.all.tokens > CERTAIN_WINDOW
        window = await self._find_window(ollama, reply, draft, load=needed)
        limit = refused.limit if refused else None
        if window is None:
            window = limit
        if window is None or draft.options.truncate:
            context = draft.begun_context(reply.model, window)
        else:
            holds = window if limit is None else min(window, limit)
            if refused is None and not self._fits_from_cut(ollama, reply, draft, window):
                window = holds = await self._confirm_window(ollama, reply, draft, window)
            try:
                context = await self._fit(ollama, reply, draft, window, holds, TOLERANCE if refused is None else 1.0)
            except ContextExceeded:
                await self._leave_out_prompt(reply, draft, prompt_messages)
                raise
        self._limit_answer(ollama, context)
        return context

    async def describe(self, ollama: OllamaClient, reply: ReplyKey) -> SentContext:
        """Describe what a reply was sent that goes on, here or after another process.

        :raises ConversationDeleted: there is no such reply.
        :raises ServiceUnavailable: the database is unavailable.
        """
        draft = await self._draft(reply, 1.0)
        window = await self._find_window(ollama, reply, draft, load=False)
        context = draft.begun_context(reply.model, window)
        # What was kept free: this process may estimate otherwise than the one that has begun the reply.
        kept_free = MIN_ANSWER if window is None else self._reserve(ollama, reply.model, draft.options, window)
        self._limit_answer(ollama, context, kept_free)
        return context

    def _reserve(self, ollama: OllamaClient, model: str, options: WindowOptions, window: int) -> int:
        """Return the tokens of a window that are kept free for the answer."""
        wanted = self._own_limit(ollama, model) if options.num_predict is None else options.num_predict
        return reserve(window, wanted)

    def _limit_answer(self, ollama: OllamaClient, context: SentContext, at_least: int = MIN_ANSWER) -> None:
        """Let an answer end within the window, unless the client lets Ollama forget what came first.

        Until it is known what the model is, its answers have no limit of ours: its Modelfile may have one.
        """
        if context.window is None or context.options.truncate:
            return
        if self.windows.description(ollama, context.model) is None:
            return
        if context.tokens > context.window:  # if Ollama accepts it, then the estimate was wrong
            at_least = self._reserve(ollama, context.model, context.options, context.window)
        limit = max(room(context.window, context.tokens), at_least)
        own = self._own_limit(ollama, context.model) if context.options.num_predict is None else None
        context.answer_limit = min(limit, own) if own else limit

    def _own_limit(self, ollama: OllamaClient, model: str) -> int | None:
        description = self.windows.description(ollama, model)
        return description.num_predict if description else None

    async def _draft(self, reply: ReplyKey, correction: float) -> Draft:
        reservation = await self._outgoing.reserve(self._settings.context_bytes)
        try:
            async with self._database.acquire() as connection:
                conversation = await cuts.read_conversation(
                    connection, reply.tenant, reply.id, self._settings.context_messages, self._settings.context_bytes
                )
                estimator = await self.tokens.load(connection, reply.model)
            if conversation is None:
                raise ConversationDeleted
            return Draft(conversation, estimator, correction)
        finally:
            reservation.release()

    async def _find_window(self, ollama: OllamaClient, reply: ReplyKey, draft: Draft, load: bool) -> int | None:
        window = self.windows.known(ollama, reply.model, draft.options.num_ctx)
        if window is not None:
            return window
        return await self.windows.find(ollama, reply.model, draft.request, reply.conversation_key, load)

    def _fits_from_cut(self, ollama: OllamaClient, reply: ReplyKey, draft: Draft, window: int) -> bool:
        selection = draft.select_from_cut(window, window)
        return room(window, selection.tokens) >= self._reserve(ollama, reply.model, draft.options, window)

    async def _confirm_window(self, ollama: OllamaClient, reply: ReplyKey, draft: Draft, window: int) -> int:
        """Return the window that the model has for this reply, before messages are left out because of it."""
        if self.windows.is_certain(ollama, reply.model, draft.options.num_ctx):
            return window
        key = reply.conversation_key
        return await self.windows.find(ollama, reply.model, draft.request, key, load=True, anew=True) or window

    async def _fit(
        self, ollama: OllamaClient, reply: ReplyKey, draft: Draft, window: int, holds: int, tolerance: float
    ) -> SentContext:
        """Find what fits, and store it.

        :param window: the window for which a cut is stored.
        :param holds: the tokens that it is taken to hold for this reply.
        :param tolerance: see :data:`TOLERANCE`.
        """
        free = self._reserve(ollama, reply.model, draft.options, holds)
        stored = draft.stored_cut(window)
        selection = draft.select_from_cut(window, holds)
        if room(holds, selection.tokens) >= free:
            if selection.system_after is not None:
                await self._store_cut(reply, selection, window, with_summary=stored is not None)
            elif stored is None and (draft.cut is not None or selection.first != draft.first):
                await self._remove_cut(reply, selection)
            left_out = stored.left_out if stored else 0
            return draft.context(reply.model, selection, window, left_out, with_summary=stored is not None)
        wanted, (selection, with_summary) = selection, draft.cut_to(holds, free)
        if selection.tokens > holds * tolerance:
            raise _exceeded(draft, selection, reply.model, window, holds)
        if draft.options.stops and wanted.first != draft.prompt_first:
            raise ContextFull(
                f"The conversation has about {wanted.tokens:,} tokens, and the window of {reply.model} holds "
                f"{window:,}, of which {free:,} are kept for the answer. Let the oldest messages be left out, or begin "
                "a new conversation."
            )
        if selection.tokens > holds:  # Ollama may refuse it: then the earlier messages are not left out
            await self._send_selection(reply, selection)
            return draft.context(reply.model, selection, window, draft.count_before(selection.first))
        left_out = await self._store_cut(reply, selection, window, with_summary)
        is_new = stored is None or stored.first != selection.first
        return draft.context(reply.model, selection, window, left_out, with_summary, is_new)

    async def _store_cut(self, reply: ReplyKey, selection: Selection, window: int, with_summary: bool) -> int:
        """Store a cut; return the number of messages that are left out."""
        if selection.first is None:
            return 0
        async with self._database.acquire() as connection:
            left_out = await cuts.store_cut(
                connection,
                reply.tenant,
                reply.id,
                reply.owner,
                selection.first,
                window,
                selection.system_after,
                with_summary,
            )
        if left_out is None:
            raise ConversationDeleted
        return left_out

    async def _send_selection(self, reply: ReplyKey, selection: Selection) -> None:
        if selection.first is not None:
            async with self._database.acquire() as connection:
                await cuts.send_from(
                    connection, reply.tenant, reply.id, reply.owner, selection.first, selection.system_after
                )

    async def _remove_cut(self, reply: ReplyKey, selection: Selection) -> None:
        if selection.first is not None:
            async with self._database.acquire() as connection:
                await cuts.remove_cut(connection, reply.tenant, reply.id, reply.owner, selection.first)

    async def _leave_out_prompt(self, reply: ReplyKey, draft: Draft, messages: int) -> None:
        first = draft.refused_first(messages)
        if first is not None:
            async with self._database.acquire() as connection:
                await cuts.leave_out_messages(connection, reply.tenant, reply.id, reply.owner, first)


def _exceeded(
    draft: Draft, selection: Selection, model: str, window: int, holds: int
) -> ContextExceeded | RequestExceeded:
    """Return why a reply cannot be generated whatever is left out of its conversation."""
    holds_text = f"and the window of {model} holds {window:,}."
    if selection.tokens - draft.fixed <= min(holds, draft.fixed):
        return RequestExceeded(
            f"The tools and the format of this request have about {draft.fixed:,} tokens, {holds_text} Send less "
            "of them, or choose a larger window (num_ctx)."
        )
    if draft.continues:
        return RequestExceeded(
            f"This answer and its prompt have about {selection.tokens:,} tokens, {holds_text} To continue it, choose a "
            "larger window (num_ctx); or go on with a new prompt."
        )
    return ContextExceeded(
        f"This prompt has about {selection.tokens:,} tokens, {holds_text} Shorten it, send it in parts, or choose a "
        "larger window (num_ctx). Later prompts are answered without it."
    )
