"""The task that makes one reply: from the request to Ollama to the commit of the assistant's message."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, replace

from db.batching import StatementBatcher
from db.pool import Database
from db.replies import BeginResult, FinishRequest, FinishResult, NewReply
from errors import ChatterdError, LineTooLong, ServiceUnavailable, UnreadableLine, UpstreamUnreachable
from relay.cluster.notifications import Notifier
from relay.generation.journal import Journal
from relay.generation.reply_buffer import ReplyBuffer
from relay.generation.transcript import Transcript
from relay.metrics import Metrics
from relay.ollama import chat_line, ndjson
from relay.ollama.client import ERROR_BODY_LIMIT, OllamaClient, describe_error_response
from settings import Settings

log = logging.getLogger("chatterd.relay")

DONE_GRACE = 5.0
"""Seconds that Ollama gets to end its answer after it said done, before its connection is closed."""

BATCH_TIMEOUT = 0.5
"""Seconds that a round under way gets to end before a reply is stored all the same."""

LAST_LINES_TIMEOUT = 2.0
"""Seconds that a reply's last words get to be shown before its end is stored all the same."""

STORE_RETRY_INTERVAL = 0.5
"""Seconds between two attempts to store a reply while the database is away."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a generation ended.

    :param status: as in ``replies.status``.
    :param error: what went wrong, for the viewers; None if nothing did.
    :param last_line: the line to show once the outcome is committed; None if the viewers have been told already.
    :param with_message: whether what the model said is kept.
    :param reason: why, for the log: never in Ollama's words, which may repeat a prompt.
    """

    status: str
    error: str | None
    last_line: bytes | None
    with_message: bool = True
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RelayContext:
    """What every generation of a process uses."""

    ollama: OllamaClient
    database: Database
    notifier: Notifier
    journal: Journal
    begin_batcher: StatementBatcher[NewReply, BeginResult]
    finish_batcher: StatementBatcher[FinishRequest, FinishResult]
    settings: Settings
    metrics: Metrics


def _failure(status: str, error: str, reason: str | None = None) -> Outcome:
    return Outcome(status, error, chat_line.error_line(error), reason=reason or error)


class Generation:
    """Relays Ollama's answer into a reply. It belongs to the process, not to a request: viewers do not matter to it.

    Whichever comes first ends it: a line with ``done``, the answer's end, a time limit, :meth:`stop`,
    :meth:`interrupt`, :meth:`let_go`.

    :param transcript: what the model had said before, if the reply is continued.
    :param address: for whom it is counted, beside its tenant; empty for nobody.
    """

    def __init__(
        self, reply: ReplyBuffer, relay: RelayContext, transcript: Transcript | None = None, address: str = ""
    ) -> None:
        self.reply = reply
        self.address = address
        self._ollama = relay.ollama
        self._finish_batcher = relay.finish_batcher
        self._notifier = relay.notifier
        self._journal = relay.journal
        self._settings = relay.settings
        self._metrics = relay.metrics
        self._loop = asyncio.get_running_loop()
        self._made = self._loop.time()
        self._first_event: float | None = None
        self._outcome: asyncio.Future[Outcome | None] = self._loop.create_future()
        self._lines = ndjson.NDJSONDecoder(self._settings.max_line_bytes)
        self._transcript = transcript or Transcript()
        self._room = self._settings.max_reply_bytes - len(self._transcript.content)
        self._refusal = bytearray()
        self._last_error: str | None = None
        self._gave_up_at: int | None = None

    def stop(self) -> None:
        """End the reply where it is, as a person asked for."""
        self._conclude(Outcome("stopped", None, chat_line.own_line(self.reply.model, {"content": ""}, "stopped")))

    def interrupt(self, error: str) -> None:
        """End the reply where it is, because nobody can go on with it."""
        self._conclude(_failure("interrupted", error))

    def fail(self, error: str) -> None:
        """End the reply where it is, because it cannot be stored."""
        self._conclude(_failure("failed", error))

    def complete(self, done_reason: str) -> None:
        """End the reply as done where it is: what it lacked was only a last line."""
        self._conclude(Outcome("done", None, chat_line.own_line(self.reply.model, {"content": ""}, done_reason)))

    def abandon(self) -> None:
        """Generate no more and store nothing: the reply is another process's, or will be."""
        self._conclude(None)

    async def run(self, body: bytes) -> None:
        """Ask Ollama, relay, store, show the end. Returns when all of it is done, or when the reply was let go."""
        outcome = self._outcome.result() if self._outcome.done() else await self._ask(body)
        if outcome is not None:
            await self._store(outcome)

    async def _ask(self, body: bytes) -> Outcome | None:
        self._journal.track(self.reply)
        if not self.reply.count:
            self._time_first_event()
        self._call = self._ollama.chat(body, self._on_chunk)
        self._call.done.add_done_callback(lambda _: self._on_end())
        self._last_byte = self._loop.time()
        self._deadline = self._last_byte + self._settings.reply_timeout
        self._check_time()
        outcome = await self._outcome
        self._timer.cancel()
        if outcome is not None and outcome.status == "done":
            self._loop.call_later(DONE_GRACE, self._call.cancel)
        else:
            self._call.cancel()
        return outcome

    def _time_first_event(self) -> None:
        def take(first: int, lines: list[bytes]) -> None:
            self.reply.unsubscribe(take)
            if lines:
                self._first_event = self._loop.time() - self._made
                self._metrics.first_event.observe(self._first_event)

        self.reply.subscribe(take)

    def _conclude(self, outcome: Outcome | None) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)

    def _check_time(self) -> None:
        silent_until = self._last_byte + self._settings.ollama_read_timeout
        if self._loop.time() >= self._deadline:
            self._conclude(
                _failure("truncated", f"The reply took longer than {self._settings.reply_timeout:g} seconds.")
            )
        elif self._loop.time() >= silent_until:
            self._conclude(
                _failure("truncated", f"Ollama sent nothing for {self._settings.ollama_read_timeout:g} seconds.")
            )
        self._timer = self._loop.call_at(min(self._deadline, silent_until), self._check_time)

    def _on_chunk(self, chunk: bytes) -> None:
        self._last_byte = self._journal.last_chunk_at = self._loop.time()
        if self._call.status != 200:
            self._refusal += chunk[: ERROR_BODY_LIMIT - len(self._refusal)]
            return
        self._room -= len(chunk)
        if self._room < 0:
            most = self._settings.max_reply_bytes
            self._conclude(_failure("truncated", f"The reply is longer than {most} bytes, and ends here."))
            return
        try:
            for line in self._lines.feed(chunk):
                self._on_line(line)
        except LineTooLong as error:
            self._conclude(_failure("failed", str(error)))
        except Exception:
            log.exception("A line of reply %s could not be relayed.", self.reply.id)
            self._conclude(_failure("failed", "Something went wrong in the server; its log has more."))

    def _on_line(self, line: bytes) -> None:
        if self._outcome.done():
            return
        try:
            said = chat_line.read(line)
        except UnreadableLine:
            self._append(chat_line.unreadable_line(line))
            return
        self._last_error = said.error
        if said.error is not None:
            self._append(chat_line.error_line(said.error))
            return
        self._transcript.add(said)
        if said.done:
            self._conclude(Outcome("done", None, line))
        else:
            self._append(line)

    def _on_end(self) -> None:
        for line in self._lines.flush():
            self._on_line(line)
        if self._outcome.done():
            return
        error = self._call.done.exception()
        if isinstance(error, UpstreamUnreachable):
            self._conclude(_failure("failed", str(error)))
        elif self._call.status not in (0, 200):
            said = describe_error_response(self._call.status, bytes(self._refusal))
            self._conclude(_failure("failed", said, f"Ollama answered {self._call.status}."))
        elif isinstance(error, ChatterdError):
            self._conclude(_failure("truncated", str(error)))
        elif self._last_error is not None:
            self._conclude(Outcome("failed", self._last_error, None, reason="Ollama sent an error."))
        else:
            self._conclude(_failure("truncated", "Ollama's answer ended before it was complete."))

    def _append(self, line: bytes) -> None:
        self.reply.append(line)
        self._journal.mark_dirty(self.reply)

    async def _store(self, outcome: Outcome) -> None:
        """Commit the outcome, then show it, unless the reply is another process's, which will store how it ends.

        While the database is away, keep trying; the viewers' patience ends first.
        """
        if self.reply.committed < self.reply.count and self._journal.unavailable_since is None:
            await self._reach_viewers()
        self._journal.untrack(self.reply)
        if self._journal.flushing:  # the round under way may hold lines that are written here too
            with suppress(TimeoutError):
                async with asyncio.timeout(BATCH_TIMEOUT):
                    await self._journal.wait_flushed()
        patience_ends = (self._journal.unavailable_since or self._loop.time()) + self._settings.db_retry_timeout
        while True:
            try:
                stored = await self._store_once(outcome)
                break
            except ServiceUnavailable:
                if not self.reply.ended and self._loop.time() >= patience_ends:
                    outcome = self._give_up()
                await asyncio.sleep(STORE_RETRY_INTERVAL)
            except Exception:
                if not outcome.with_message:
                    raise
                log.exception("The end of reply %s is refused; ending it without a message.", self.reply.id)
                self.reply.discard_uncommitted()
                outcome = replace(_failure("failed", "The reply could not be saved."), with_message=False)
        if stored:
            self._show_end(outcome)

    async def _reach_viewers(self) -> None:
        """Let the last lines go the way of all others: the end may have to wait for its turn, they need not."""
        shown = self._loop.create_future()

        def take(first: int, lines: list[bytes]) -> None:
            if self.reply.committed == self.reply.count and not shown.done():
                shown.set_result(None)

        self.reply.subscribe(take)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_LINES_TIMEOUT):
                await shown
        self.reply.unsubscribe(take)

    async def _store_once(self, outcome: Outcome) -> bool:
        """Store the outcome and all lines that are not known to be in the log; False if the reply is another's.

        :raises Unavailable: the database is away; it may have stored the outcome or not.
        """
        first = self.reply.committed if self._gave_up_at is None else self._gave_up_at
        finished = await self._finish(outcome, first)
        if finished is FinishResult.LINES_MISSING and first > self.reply.base:
            finished = await self._finish(outcome, self.reply.base)
        if finished is FinishResult.LINES_MISSING:
            # It is continued from what the log has, as if its process had died.
            log.error("The log of reply %s has lost lines that are not in memory any more.", self.reply.id)
        return finished is FinishResult.STORED

    async def _finish(self, outcome: Outcome, first: int) -> FinishResult:
        reply = self.reply
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
            )
        )

    def _give_up(self) -> Outcome:
        """End the reply for its viewers though it is not stored. Storing it goes on, as what it is then: failed."""
        outcome = _failure("failed", "The reply could not be saved: the database cannot be reached.")
        self.reply.discard_uncommitted()
        self._gave_up_at = self.reply.count
        self._show_end(outcome)
        return replace(outcome, last_line=None)

    def _show_end(self, outcome: Outcome) -> None:
        if self.reply.ended:
            return
        self._count_end(outcome)
        if outcome.last_line is not None:
            self.reply.append(outcome.last_line)
        self.reply.commit_all(self._loop.time())
        self.reply.end()
        self._log_end(outcome)

    def _count_end(self, outcome: Outcome) -> None:
        metrics = self._metrics
        metrics.replies_ended[outcome.status] += 1
        metrics.reply_duration[outcome.status].observe(self._loop.time() - self._made)
        if outcome.status == "done" and outcome.last_line is not None:
            prompt, reply = chat_line.tokens(outcome.last_line)
            metrics.prompt_tokens += prompt
            metrics.reply_tokens += reply

    def _log_end(self, outcome: Outcome) -> None:
        fields = {
            "reply": self.reply.key,
            "tenant": self.reply.tenant,
            "model": self.reply.model,
            "status": outcome.status,
            "reason": outcome.reason,
            "lines": self.reply.count,
            "first_line_ms": self._first_event and round(1000 * self._first_event, 1),
            "duration_ms": round(1000 * (self._loop.time() - self._made), 1),
        }
        log.info("reply ended", extra={"fields": fields})
