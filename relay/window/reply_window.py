"""Fits one reply's conversation into its model's window, and learns from what Ollama says of it."""

import asyncio
import logging

from relay.ollama.chat_line import Usage
from relay.ollama.client import OllamaClient
from relay.window.context import MIN_ANSWER, SentContext
from relay.window.planner import ContextPlanner, Refused, ReplyKey

log = logging.getLogger("chatterd.relay")

MAX_CORRECTIONS = 2
"""Times that a conversation is cut again because Ollama has refused it as too long."""

LOAD_SECONDS = 0.5
"""A request that took longer to load its model did load it: for a loaded model Ollama says some milliseconds."""


class ReplyWindow:
    """What one reply takes of its model's window.

    :ivar context: what the model is sent; None until it is planned.
    """

    def __init__(self, planner: ContextPlanner, reply: ReplyKey) -> None:
        self.context: SentContext | None = None
        self._planner = planner
        self._reply = reply
        self._corrections = 0
        self._refused: Refused | None = None
        self._looking: asyncio.Task[int | None] | None = None

    async def plan(self, ollama: OllamaClient, begins: bool, prompt_messages: int) -> None:
        """Plan the context, unless that is done.

        :param begins: whether no line of the reply was shown; else what was sent stays as it was.
        :param prompt_messages: number of messages at the end of the conversation that are the prompt.
        :raises ContextDoesNotFit: the reply ends with this error.
        :raises ConversationDeleted: the reply is not in the database any more, or another process owns it.
        :raises ServiceUnavailable: the database is unavailable.
        """
        if self.context is not None:
            return
        if not begins:
            self.context = await self._planner.describe(ollama, self._reply)
            return
        self.context = await self._planner.plan(ollama, self._reply, prompt_messages, self._refused)
        if self.context.left_out:
            log.info("Reply %s: %d earlier messages are not sent.", self._reply.id, self.context.left_out)

    def plan_again(self) -> None:
        """Forget the plan: the conversation is sent otherwise."""
        self.context = None

    def answer_limit(self, generated: int) -> int | None:
        """Return the tokens that the rest of the reply may have; None if there is no limit.

        :param generated: tokens that it has already.
        """
        limit = self.context.answer_limit if self.context else None
        return None if limit is None else max(limit - generated, MIN_ANSWER)

    def correct(self, ollama: OllamaClient, figures: tuple[int, int] | None) -> bool:
        """Correct what is known after Ollama has refused the prompt as too long.

        :param figures: tokens of the prompt and of the window, as Ollama counts them; None if it did not say.
        :returns: whether to plan again.
        """
        context = self.context
        if context is None or self._corrections >= MAX_CORRECTIONS:
            return False
        self._corrections += 1
        if figures:
            prompt, window = figures
            self._planner.windows.observe(ollama, context.model, window, context.options.num_ctx)
            self._planner.tokens.learn(context.model, context.counts, prompt)
            estimate = self._planner.tokens.of(context.model).estimate(context.counts)
            self._refused = Refused(correction=prompt / max(estimate, 1))
        else:  # before version 0.30: "the input length exceeds the context length"
            self._refused = Refused(limit=context.tokens)
        self.plan_again()
        return True

    def is_unknown(self, ollama: OllamaClient) -> bool:
        """Return whether the window, or what the model is, is not known and was not asked for."""
        context = self.context
        if context is None or self._looking is not None:
            return False
        return context.window is None or self._planner.windows.description(ollama, context.model) is None

    def look_for_window(self, ollama: OllamaClient) -> None:
        """Ask for the window of a model that is loaded now: for the next prompt, and to be shown."""
        if self.context is not None and self._looking is None:
            num_ctx, key = self.context.options.num_ctx, self._reply.conversation_key
            self._looking = self._planner.windows.ask(ollama, self.context.model, num_ctx, key)

    def observe(self, ollama: OllamaClient, usage: Usage, is_whole: bool) -> None:
        """Learn from the last line of a reply.

        :param usage: its counts.
        :param is_whole: whether they are those of the whole prompt and reply: neither was continued.
        """
        context = self.context
        if context is None:
            return
        if self._looking is None and usage.load_duration > LOAD_SECONDS * 1e9:
            self._planner.windows.on_loaded(ollama, context.model)
        if self.is_unknown(ollama):
            self.look_for_window(ollama)
        if is_whole and usage.prompt_eval_count:
            if not context.options.truncate:  # else Ollama may have left out messages, and does not say so
                self._planner.tokens.learn(context.model, context.counts, usage.prompt_eval_count)
            if context.is_plausible(usage.prompt_eval_count):
                context.tokens, context.counted = usage.prompt_eval_count, True
        context.tokens += usage.eval_count
        context.is_cut_short = usage.done_reason == "length"

    def complete(self) -> None:
        """Add to the context what was found out meanwhile."""
        asked, context = self._looking, self.context
        if context and context.window is None and asked and asked.done() and not asked.cancelled():
            context.window = asked.result()
