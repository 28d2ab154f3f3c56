"""The generation of one reply: sends the request to Ollama and appends its lines to the reply until an outcome."""

import asyncio
import logging
from time import monotonic

from errors import ChatterdError, LineTooLong, UnreadableLine, UpstreamUnreachable
from relay.generation.context import RelayContext
from relay.generation.finisher import Finisher, Outcome, ReplyTimer, failure
from relay.generation.reply_buffer import ReplyBuffer
from relay.generation.transcript import Transcript
from relay.ollama import chat_line, ndjson
from relay.ollama.client import ERROR_BODY_LIMIT, describe_error_response

log = logging.getLogger("chatterd.relay")

DONE_GRACE = 5.0
"""Seconds for Ollama to end its response after a line with ``done``; then its connection is closed."""


class Generation:
    """Generates one reply, independent of requests and viewers.

    The first of these decides its outcome: a line with ``done``, the end of Ollama's response, a timeout or limit, or
    a call of :meth:`stop`, :meth:`interrupt`, :meth:`fail`, :meth:`complete` or :meth:`abandon`.

    :param transcript: what the log holds of the reply, if it is resumed.
    :param address: client address for which the reply is counted, beside its tenant; empty if none is.
    """

    def __init__(
        self, reply: ReplyBuffer, relay: RelayContext, transcript: Transcript | None = None, address: str = ""
    ) -> None:
        self.reply = reply
        self.address = address
        self._ollama = relay.ollama
        self._journal = relay.journal
        self._settings = relay.settings
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[Outcome | None] = self._loop.create_future()
        self._transcript = transcript or Transcript()
        self._timer = ReplyTimer(reply, relay.metrics)
        self._finisher = Finisher(reply, self._transcript, self._timer, relay)
        self._decoder = ndjson.NDJSONDecoder(self._settings.max_line_bytes)
        self._bytes_remaining = self._settings.max_reply_bytes - len(self._transcript.content)
        self._error_body = bytearray()
        self._last_error: str | None = None

    def stop(self) -> None:
        """End the reply on request."""
        self._set_outcome(Outcome("stopped", None, chat_line.own_line(self.reply.model, {"content": ""}, "stopped")))

    def interrupt(self, error: str) -> None:
        """End the reply because it cannot be resumed."""
        self._set_outcome(failure("interrupted", error))

    def fail(self, error: str) -> None:
        """End the reply because it cannot be stored."""
        self._set_outcome(failure("failed", error))

    def complete(self, done_reason: str) -> None:
        """End the reply as done: only the line with ``done`` is missing."""
        self._set_outcome(Outcome("done", None, chat_line.own_line(self.reply.model, {"content": ""}, done_reason)))

    def abandon(self) -> None:
        """Stop generating and store nothing: another process owns the reply, or will adopt it."""
        self._set_outcome(None)

    def _set_outcome(self, outcome: Outcome | None) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)

    async def run(self, body: bytes) -> None:
        """Generate the reply, store it and show its end. Return when that is done, or the reply was abandoned.

        :param body: the request to Ollama.
        """
        outcome = self._outcome.result() if self._outcome.done() else await self._request(body)
        if outcome is not None:
            await self._finisher.finish(outcome)

    async def _request(self, body: bytes) -> Outcome | None:
        self._journal.track(self.reply)
        if not self.reply.count:
            self._timer.measure_first_event()
        self._call = self._ollama.chat(body, self._on_chunk)
        self._call.done.add_done_callback(lambda _: self._on_end())
        self._last_chunk_at = monotonic()
        self._deadline = self._last_chunk_at + self._settings.reply_timeout
        self._check_timeouts()
        outcome = await self._outcome
        self._timeout_timer.cancel()
        if outcome is not None and outcome.status == "done":
            self._loop.call_later(DONE_GRACE, self._call.cancel)
        else:
            self._call.cancel()
        return outcome

    def _check_timeouts(self) -> None:
        now = monotonic()
        read_deadline = self._last_chunk_at + self._settings.ollama_read_timeout
        if now >= self._deadline:
            error = f"The reply took longer than {self._settings.reply_timeout:g} seconds."
            self._set_outcome(failure("truncated", error))
        elif now >= read_deadline:
            error = f"Ollama sent nothing for {self._settings.ollama_read_timeout:g} seconds."
            self._set_outcome(failure("truncated", error))
        delay = max(0.0, min(self._deadline, read_deadline) - now)
        self._timeout_timer = self._loop.call_later(delay, self._check_timeouts)

    def _on_chunk(self, chunk: bytes) -> None:
        self._last_chunk_at = self._journal.last_chunk_at = monotonic()
        if self._call.status != 200:
            self._error_body += chunk[: ERROR_BODY_LIMIT - len(self._error_body)]
            return
        self._bytes_remaining -= len(chunk)
        if self._bytes_remaining < 0:
            limit = self._settings.max_reply_bytes
            self._set_outcome(failure("truncated", f"The reply is longer than {limit} bytes, and ends here."))
            return
        try:
            for line in self._decoder.feed(chunk):
                self._on_line(line)
        except LineTooLong as error:
            self._set_outcome(failure("failed", str(error)))
        except Exception:
            log.exception("A line of reply %s could not be relayed.", self.reply.id)
            self._set_outcome(failure("failed", "Internal server error. The server's log has the details."))

    def _on_line(self, line: bytes) -> None:
        if self._outcome.done():
            return
        try:
            parsed = chat_line.read(line)
        except UnreadableLine:
            self._append(chat_line.unreadable_line(line))
            return
        self._last_error = parsed.error
        if parsed.error is not None:
            self._append(chat_line.error_line(parsed.error))
            return
        self._transcript.add(parsed)
        if parsed.done:
            self._set_outcome(Outcome("done", None, line))
        else:
            self._append(line)

    def _append(self, line: bytes) -> None:
        self.reply.append(line)
        self._journal.mark_dirty(self.reply)

    def _on_end(self) -> None:
        """Handle the end of Ollama's response."""
        for line in self._decoder.flush():
            self._on_line(line)
        if self._outcome.done():
            return
        error = self._call.done.exception()
        if isinstance(error, UpstreamUnreachable):
            self._set_outcome(failure("failed", str(error)))
        elif self._call.status not in (0, 200):
            message = describe_error_response(self._call.status, bytes(self._error_body))
            self._set_outcome(failure("failed", message, f"Ollama answered {self._call.status}."))
        elif isinstance(error, ChatterdError):
            self._set_outcome(failure("truncated", str(error)))
        elif self._last_error is not None:
            self._set_outcome(Outcome("failed", self._last_error, None, reason="Ollama sent an error."))
        else:
            self._set_outcome(failure("truncated", "Ollama's answer ended before it was complete."))
