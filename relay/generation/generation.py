"""The generation of one reply: attempts to generate it with Ollama, until an outcome."""

import asyncio
import logging
import random
from collections.abc import Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

from db import ownership
from errors import NotAcceptable, ServiceUnavailable
from relay.components import RelayComponents
from relay.generation.attempt import Attempt, Limits, OllamaCall
from relay.generation.continuation import (
    ReplyDeleted,
    explain_refusal,
    leave_out_refused,
    load_sent_request,
    next_call,
)
from relay.generation.finisher import Finisher, ReplyTimer
from relay.generation.outcome import (
    AttemptResult,
    Breakdown,
    Outcome,
    Refusal,
    WindowExceeded,
    context_failure,
    failure,
    took_too_long,
)
from relay.generation.reply_buffer import ReplyBuffer
from relay.generation.resume import SentRequest
from relay.generation.transcript import Transcript
from relay.memory_budget import Reservation
from relay.ollama import chat_line
from relay.ollama.client import CHAT, OllamaClient
from relay.outgoing import SMALL
from relay.window.planner import ContextDoesNotFit, ConversationDeleted, ReplyKey
from relay.window.reply_window import ReplyWindow

log = logging.getLogger("chatterd.relay")

Step = TypeVar("Step", bound=OllamaCall | AttemptResult | None)

MAX_CONTINUATIONS = 5
"""Attempts after the first one that Ollama has accepted; then the reply ends: it may be what makes Ollama crash."""

RETRY_INTERVAL = 0.5
"""Seconds between two attempts while Ollama, or the database, is unavailable."""

RETRY_SHARE = 0.1
"""Share of the time for which Ollama has been away that is waited before the next attempt, if that is longer."""


class Generation:
    """Generates one reply, independent of requests and viewers.

    The first of these decides its outcome: a line with ``done``, the end of Ollama's response, a timeout or limit, or
    a call of :meth:`stop`, :meth:`interrupt`, :meth:`fail` or :meth:`abandon`. If Ollama dies, the reply is continued.

    :param transcript: what the log holds of the reply, if it is resumed.
    :param address: client address for which the reply is counted, beside its tenant; empty if none is.
    :param plain_client: whether the reply may be superseded (:mod:`relay.supersession`).
    :ivar conversation_key: see :meth:`relay.ollama.client.OllamaClient.stream`.
    :ivar prompt_messages: number of messages at the end of the conversation that are the prompt.
    :ivar window: what the reply takes of its model's window.
    """

    def __init__(
        self,
        reply: ReplyBuffer,
        relay: RelayComponents,
        transcript: Transcript | None = None,
        address: str = "",
        conversation_key: str = "",
        plain_client: bool = False,
    ) -> None:
        self.reply = reply
        self.address = address
        self.plain_client = plain_client
        self.prompt_messages = 1
        key = ReplyKey(reply.tenant, reply.id, reply.owner, reply.model, conversation_key)
        self.window = ReplyWindow(relay.planner, key)
        self._relay = relay
        self.conversation_key = conversation_key
        self._outcome: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._transcript = transcript or Transcript()
        self._limits = Limits(relay.settings.max_reply_bytes - len(self._transcript.content))
        self._timer = ReplyTimer(reply, relay.metrics)
        self._finisher = Finisher(reply, self._transcript, self._timer, relay)
        self._unavailable_since: float | None = None
        self._database_failing_since: float | None = None
        self._current: Attempt | None = None
        self._ollama: OllamaClient | None = None
        self._is_resumed = transcript is not None
        self._kept: SentRequest | None = None
        self._is_whole = False
        self._shorten = False
        self._breakdowns = 0

    def continue_message(self) -> None:
        """Note before :meth:`run` that the reply continues the assistant's message."""
        self._transcript.continues = True

    def stop(self) -> None:
        """End the reply on request."""
        self._set_outcome(Outcome("stopped", None, chat_line.own_line(self.reply.model, {"content": ""}, "stopped")))

    def interrupt(self, error: str) -> None:
        """End the reply because it cannot be resumed."""
        self._set_outcome(failure("interrupted", error))

    def fail(self, error: str) -> None:
        """End the reply because it cannot be stored."""
        self._set_outcome(failure("failed", error))

    def abandon(self) -> None:
        """Stop generating and store nothing: another process owns the reply, or will adopt it."""
        self._set_outcome(None)

    def _set_outcome(self, outcome: Outcome | None) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)
            if self._current:
                self._current.cancel()

    async def run(self, call: OllamaCall | None) -> None:
        """Generate the reply, store it and show its end. Return when that is done, or the reply was abandoned.

        :param call: the request to Ollama; None to make it from the database, which continues what the log holds.
        """
        try:
            if not self._outcome.done():
                self._relay.journal.track(self.reply)
                if not self.reply.count:
                    self._timer.measure_first_event()
                await self._generate(call)
        finally:
            self.reply.unsubscribe(self._on_first_lines)
            if self._ollama:
                self._relay.upstreams.release(self._ollama)
            if call:
                call.body.discard()
        outcome = self._outcome.result()
        if outcome is not None:
            self._observe(outcome)
            self.window.complete()
            self._finisher.context = self.window.context
            await self._finisher.finish(outcome)

    async def _generate(self, call: OllamaCall | None) -> None:
        """Make attempts until there is an outcome.

        :param call: the first one; None to continue.
        """
        while not self._outcome.done():
            started = monotonic()
            result = await (self._attempt(call) if call else self._unless_ended(self._next_call()))
            call = result if isinstance(result, OllamaCall) else None
            if isinstance(result, Refusal):
                result = await self._unless_ended(self._handle_refusal(result.outcome))
            if isinstance(result, Outcome):
                self._set_outcome(result)
            elif isinstance(result, Breakdown | WindowExceeded) and not await self._may_try_again(
                result, monotonic() - started
            ):
                self._set_outcome(result.outcome)

    async def _handle_refusal(self, outcome: Outcome) -> Outcome | None:
        """Leave out what Ollama may have refused, so that one message does not refuse all later prompts.

        :returns: how the reply ends; None if the next attempt sends another conversation, or there is an outcome.
        """
        while self._transcript.empty and not self._outcome.done():
            try:
                self._kept = None
                if await leave_out_refused(self._relay, self.reply, self.prompt_messages):
                    self.window.plan_again()
                    return None
                sent, reservation = await load_sent_request(self._relay, self.reply.tenant, self.reply.id)
                reservation.release()
                return explain_refusal(outcome, sent.messages[-self.prompt_messages :])
            except ServiceUnavailable:
                if await self._wait_for_database():
                    break
            except ReplyDeleted:
                break
        return outcome

    async def _may_try_again(self, result: Breakdown | WindowExceeded, lasted: float) -> bool:
        if isinstance(result, Breakdown):
            return await self._may_continue(result, lasted)
        if not self.reply.count and self._ollama and self.window.correct(self._ollama, result.figures):
            self._kept = None
            return True
        first, self._shorten = not self._shorten, True
        return first and not self._is_whole

    async def _attempt(self, call: OllamaCall) -> AttemptResult | None:
        """Make an attempt.

        :returns: None if there is an outcome meanwhile.
        """
        if call.from_beginning and self._transcript.thinking:
            self._restart_thinking()
        ollama = await self._choose_ollama()
        attempt = Attempt(call, self.reply, self._transcript, self._limits, self._relay, ollama, self.conversation_key)
        self._current = attempt
        self._is_whole = call.path == CHAT and call.line_filter is None and not self._is_resumed
        if self.window.is_unknown(ollama):
            self.reply.subscribe(self._on_first_lines)
        self._database_failing_since = None
        try:
            result = await attempt.ended
        finally:
            self._current = None
            attempt.close()
        if attempt.progressed:
            self._unavailable_since = self._kept = None
            self._breakdowns = 0
        return result

    async def _unless_ended(self, work: Coroutine[Any, Any, Step]) -> Step | Outcome | None:
        """Do something between two attempts, unless there is an outcome or the reply's time is over meanwhile."""
        task = asyncio.create_task(work)
        waiting: list[asyncio.Future[Any]] = [task, self._outcome]
        deadline = self._limits.deadline
        timeout = None if deadline is None else max(0.0, deadline - monotonic())
        await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and not self._outcome.done():
            return task.result()
        task.cancel()
        with suppress(asyncio.CancelledError):
            result = await task
            if isinstance(result, OllamaCall):  # it was ready in the same moment
                result.body.discard()
        return None if self._outcome.done() else took_too_long(self._relay.settings)

    async def _next_call(self) -> OllamaCall | AttemptResult | None:
        """Find out how the reply is continued."""
        try:
            ollama = await self._choose_ollama()
            await self.window.plan(ollama, not self.reply.count, self.prompt_messages)
            sent, reservation = await self._load_sent_request()
        except ServiceUnavailable:
            return await self._wait_for_database()
        except ContextDoesNotFit as error:
            return context_failure(error)
        except NotAcceptable as error:  # it would be refused in each process that adopts the reply
            return failure("failed", str(error))
        except (ConversationDeleted, ReplyDeleted):
            return failure("interrupted", "The reply was deleted.")
        result: OllamaCall | AttemptResult | None = None
        try:
            result = await next_call(
                self._relay,
                ollama,
                sent,
                self._transcript,
                self.reply.model,
                self.conversation_key,
                self._shorten,
                self.window.answer_limit(self._transcript.estimated_tokens),
            )
        finally:
            if isinstance(result, OllamaCall):
                result.body.reservation = reservation
            else:
                reservation.release()
        return result

    async def _load_sent_request(self) -> tuple[SentRequest, Reservation]:
        """Load what was sent. If it is small it is kept until there is progress: an Ollama that stays away is asked
        again and again."""
        if self._kept and (reservation := self._relay.outgoing.try_reserve(SMALL)):
            return self._kept, reservation
        sent, reservation = await load_sent_request(self._relay, self.reply.tenant, self.reply.id)
        self._kept = sent if reservation.size <= SMALL else None
        return sent, reservation

    async def _wait_for_database(self) -> Outcome | None:
        """Wait for :data:`RETRY_INTERVAL`.

        :returns: how the reply ends, if the database has failed it for ``--db-retry-timeout`` since the last attempt.
        """
        now = monotonic()
        self._database_failing_since = self._database_failing_since or now
        if now > self._database_failing_since + self._relay.settings.db_retry_timeout:
            return failure("failed", "The reply could not go on: the database is unavailable.")
        await asyncio.wait([self._outcome], timeout=RETRY_INTERVAL)
        return None

    async def _choose_ollama(self) -> OllamaClient:
        """Return the client of the Ollama that generates this reply: the same one up to its end."""
        if self._ollama is None:
            upstreams, model = self._relay.upstreams, self.reply.model
            self._ollama = await upstreams.acquire_to_resume(model) if self._is_resumed else upstreams.acquire(model)
        return self._ollama

    def _on_first_lines(self, first: int, lines: list[bytes]) -> None:
        """Note that the model is loaded."""
        self.reply.unsubscribe(self._on_first_lines)
        if self._ollama:
            self.window.look_for_window(self._ollama)

    def _observe(self, outcome: Outcome) -> None:
        """Learn how many tokens there were."""
        if self._ollama and outcome.status == "done" and outcome.last_line is not None:
            self.window.observe(self._ollama, chat_line.usage(outcome.last_line), self._is_whole)
        elif self.window.context is not None:
            self.window.context.tokens += self._transcript.estimated_tokens

    def _restart_thinking(self) -> None:
        line = chat_line.thinking_restarted_line(self.reply.model)
        self._transcript.add(chat_line.read(line))
        self.reply.append(line)
        self._relay.journal.mark_dirty(self.reply)

    async def _may_continue(self, breakdown: Breakdown, lasted: float) -> bool:
        """Wait until another attempt may be made.

        :param lasted: seconds that the attempt took; Ollama was not away while it had the request.
        :returns: False if no attempt may be made.
        """
        now = monotonic()
        timeout = self._relay.settings.ollama_retry_timeout
        first = self._unavailable_since is None
        if self._unavailable_since is None:
            self._unavailable_since = now
        elif breakdown.accepted:
            self._unavailable_since = min(now, self._unavailable_since + lasted)
        if now >= self._unavailable_since + timeout:
            return False
        if breakdown.accepted and not await self._count_continuation():
            return False
        if first:
            log.info("Reply %s: %s Trying again.", self.reply.id, breakdown.outcome.error)
        await asyncio.wait([self._outcome], timeout=self._next_delay(breakdown.accepted))
        return True

    def _next_delay(self, accepted: bool) -> float:
        """Return the seconds until the next attempt.

        :param accepted: whether Ollama had accepted the request. Then the next attempt is made at once, and later ones
            ever later: what stands before an Ollama that restarts may accept connections and close them. Else the
            delay grows with the time that Ollama is away, and differs between replies: each makes its request anew.
        """
        if accepted:
            self._breakdowns += 1
            return RETRY_INTERVAL * 2 ** (self._breakdowns - 2) if self._breakdowns > 1 else 0.0
        away = monotonic() - (self._unavailable_since or monotonic())
        return max(RETRY_INTERVAL, RETRY_SHARE * away) * random.uniform(0.8, 1.2)  # noqa: S311

    async def _count_continuation(self) -> bool:
        """Count a continuation in the reply's row.

        :returns: False if there were too many.
        """
        while not self._outcome.done():
            try:
                async with self._relay.database.acquire() as connection:
                    count = await ownership.count_continuation(
                        connection, self.reply.tenant, self.reply.id, self.reply.owner
                    )
            except ServiceUnavailable:
                if await self._wait_for_database():
                    return False
                continue
            if count is None:
                self.abandon()  # another process owns the reply
            elif count > MAX_CONTINUATIONS:
                return False
            else:
                self._relay.metrics.replies_continued += 1
            return True
        return True
