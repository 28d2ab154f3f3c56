"""The end of a reply: stores its outcome with the last lines and the assistant's message, then shows it to viewers."""

import asyncio
import logging
import random
from contextlib import suppress
from dataclasses import replace
from time import monotonic

import msgspec

from db.reply_end import FinishRequest, FinishResult
from errors import ServiceUnavailable, StatementFailed
from relay.components import RelayComponents
from relay.generation.outcome import Outcome, failure
from relay.generation.reply_buffer import ReplyBuffer
from relay.generation.transcript import Transcript
from relay.metrics import Metrics
from relay.ollama import chat_line
from relay.window.context import SentContext

log = logging.getLogger("chatterd.relay")

LAST_LINES_TIMEOUT = 2.0
"""Seconds at most for a reply's last lines to be committed by the journal before its end is stored."""

BATCH_TIMEOUT = 0.5
"""Seconds at most to wait for the journal's batch in progress before a reply's end is stored."""

STORE_RETRY_INTERVAL = 0.5
"""Seconds between two attempts to store a reply's end, plus or minus a half, so that replies that are held up do not
share their statements with the same others again and again."""


class ReplyTimer:
    """Measures a reply's duration and its time to the first event, both from the creation of this object.

    :ivar first_event: seconds to the first event; None if it was not measured.
    """

    def __init__(self, reply: ReplyBuffer, metrics: Metrics) -> None:
        self.first_event: float | None = None
        self._reply = reply
        self._metrics = metrics
        self._started = monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the creation of this object."""
        return monotonic() - self._started

    def measure_first_event(self) -> None:
        """Measure the time to the next commit."""
        self._reply.subscribe(self._on_commit)

    def _on_commit(self, first: int, lines: list[bytes]) -> None:
        self._reply.unsubscribe(self._on_commit)
        if lines:
            self.first_event = self.elapsed
            self._metrics.first_event.observe(self.first_event)


class _CommitWaiter:
    """Waits until all lines of a reply are committed."""

    def __init__(self, reply: ReplyBuffer) -> None:
        self._reply = reply
        self._all_committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self, seconds: float) -> None:
        self._reply.subscribe(self._on_commit)
        await asyncio.wait([self._all_committed], timeout=seconds)
        self._reply.unsubscribe(self._on_commit)

    def _on_commit(self, first: int, lines: list[bytes]) -> None:
        if self._reply.committed == self._reply.count and not self._all_committed.done():
            self._all_committed.set_result(None)


class Finisher:
    """Stores how one reply ended and shows it.

    :param transcript: the reply's content; complete when :meth:`finish` is called.
    :ivar context: what the model was sent, to be stored; None if it is not known.
    """

    def __init__(self, reply: ReplyBuffer, transcript: Transcript, timer: ReplyTimer, relay: RelayComponents) -> None:
        self.context: SentContext | None = None
        self._reply = reply
        self._transcript = transcript
        self._timer = timer
        self._journal = relay.journal
        self._notifier = relay.notifier
        self._finish_batcher = relay.finish_batcher
        self._settings = relay.settings
        self._metrics = relay.metrics
        self._unstored_from: int | None = None
        self._refusal_logged = False

    async def finish(self, outcome: Outcome) -> None:
        """Store the outcome, then show it, unless another process owns the reply now and will store its end.

        What fails is tried again, unless the database refuses the text. After ``--db-retry-timeout`` viewers are shown
        an error; the attempts to store the reply go on, without its message if that may be the reason.
        """
        if self._reply.committed < self._reply.count and self._journal.unavailable_since is None:
            # The statement that stores the end may have to wait for its turn; the journal's does not.
            await _CommitWaiter(self._reply).wait(LAST_LINES_TIMEOUT)
        self._journal.untrack(self._reply)
        if self._journal.flushing:  # the batch in progress may hold lines that are stored here, too
            with suppress(TimeoutError):
                async with asyncio.timeout(BATCH_TIMEOUT):
                    await self._journal.wait_flushed()
        stored = await self._store_with_retries(outcome)
        if stored is not None:
            self._show_end(stored)

    async def _store_with_retries(self, outcome: Outcome) -> Outcome | None:
        """Store the outcome, or another one if it cannot be stored.

        :returns: the outcome stored; None if another process owns the reply.
        """
        give_up_at = (self._journal.unavailable_since or monotonic()) + self._settings.db_retry_timeout
        while True:
            try:
                return outcome if await self._store(outcome) else None
            except StatementFailed as error:
                if self._reply.ended and error.perhaps_refused and outcome.with_message:
                    log.exception("The message of reply %s is not stored, since its end fails.", self._reply.id)
                    outcome = self._without_message(outcome)
            except ServiceUnavailable:
                pass
            except Exception:
                if outcome.with_message:
                    log.exception("The end of reply %s is refused; ending it without a message.", self._reply.id)
                    outcome = self._without_message(outcome)
                    continue
                self._log_refusal()
            if not self._reply.ended and monotonic() >= give_up_at:
                outcome = self._give_up()
            await asyncio.sleep(STORE_RETRY_INTERVAL * random.uniform(0.5, 1.5))  # noqa: S311

    def _without_message(self, outcome: Outcome) -> Outcome:
        """Return the outcome to store instead of one whose text the database refuses."""
        if self._reply.ended:  # its error was shown already
            return replace(outcome, with_message=False)
        self._reply.discard_uncommitted()
        return replace(failure("failed", "The reply could not be saved."), with_message=False)

    def _log_refusal(self) -> None:
        """Log once that the end is refused even without a message."""
        if not self._refusal_logged:
            self._refusal_logged = True
            log.exception("The end of reply %s is refused; trying again.", self._reply.id)

    async def _store(self, outcome: Outcome) -> bool:
        """Store the outcome and all lines that may be missing in the log.

        :returns: False if another process owns the reply.
        :raises ServiceUnavailable: the database is unavailable; the outcome may be stored or not.
        """
        first = self._reply.committed if self._unstored_from is None else self._unstored_from
        result = await self._submit(outcome, first)
        if result is FinishResult.LINES_MISSING and first > self._reply.base:
            result = await self._submit(outcome, self._reply.base)
        if result is FinishResult.LINES_MISSING:
            # The reply stays unfinished, and is continued from the log as if this process had died.
            log.error("The log of reply %s has lost lines that are not in memory any more.", self._reply.id)
        return result is FinishResult.STORED

    async def _submit(self, outcome: Outcome, first: int) -> FinishResult:
        reply = self._reply
        lines = reply.lines(first, reply.count)
        if outcome.last_line is not None:
            lines.append(outcome.last_line)
        message = self._transcript.message(self._settings.collapse_whitespace) if outcome.with_message else None
        return await self._finish_batcher.submit(
            FinishRequest(
                reply.id,
                reply.tenant,
                reply.owner,
                outcome.status,
                outcome.error,
                message,
                first,
                [line.decode() for line in lines],
                self._notifier.end_notifications(reply.id),
                msgspec.json.encode(self.context.as_json()).decode() if self.context else None,
            )
        )

    def _give_up(self) -> Outcome:
        """End the reply for its viewers with an error although it is not stored.

        :returns: the outcome to store as soon as the database is available.
        """
        outcome = failure("failed", "The reply could not be saved: the database is unavailable.")
        self._reply.discard_uncommitted()
        self._unstored_from = self._reply.count
        self._show_end(outcome)
        return replace(outcome, last_line=None)

    def _show_end(self, outcome: Outcome) -> None:
        if self._reply.ended:
            return
        self._count(outcome)
        if outcome.last_line is not None:
            self._reply.append(outcome.last_line)
        self._reply.commit_all(monotonic())
        self._reply.end()
        self._log(outcome)

    def _count(self, outcome: Outcome) -> None:
        metrics = self._metrics
        metrics.replies_ended[outcome.status] += 1
        metrics.reply_duration[outcome.status].observe(self._timer.elapsed)
        if outcome.status == "done" and outcome.last_line is not None:
            usage = chat_line.usage(outcome.last_line)
            metrics.prompt_tokens += usage.prompt_eval_count
            metrics.reply_tokens += usage.eval_count

    def _log(self, outcome: Outcome) -> None:
        first_event = self._timer.first_event
        fields = {
            "reply": self._reply.key,
            "tenant": self._reply.tenant,
            "model": self._reply.model,
            "status": outcome.status,
            "reason": outcome.reason,
            "lines": self._reply.count,
            "first_line_ms": first_event and round(1000 * first_event, 1),
            "duration_ms": round(1000 * self._timer.elapsed, 1),
        }
        log.info("reply ended", extra={"fields": fields})
