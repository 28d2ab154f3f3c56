"""One attempt to generate a reply, or the rest of one: a streaming call to Ollama whose lines are appended to it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from errors import ChatterdError, LineTooLong, UnreadableLine
from relay.components import RelayComponents
from relay.generation.outcome import (
    AttemptResult,
    Breakdown,
    Outcome,
    Refusal,
    failed_connection,
    failed_response,
    failure,
    took_too_long,
    window_exceeded,
)
from relay.generation.reply_buffer import ReplyBuffer
from relay.generation.resume import NOT_CONTINUABLE
from relay.generation.transcript import Transcript
from relay.ollama import chat_line, foreign_server, ndjson, upstream_error
from relay.ollama.client import CHAT, ERROR_BODY_LIMIT, OllamaClient
from relay.ollama.echo import NotContinued
from relay.outgoing import RequestBody

log = logging.getLogger("chatterd.relay")

DONE_GRACE = 5.0
"""Seconds for Ollama to end its response after a line with ``done``; then its connection is closed."""

LINE_OVERHEAD = 64
"""Bytes that each line counts for beside its own: a reply of tiny lines takes mostly those of Python's objects."""

TOO_LONG = f"The reply is longer than {{}} bytes, counting {LINE_OVERHEAD} more for each line, and ends here."

MAX_FRAGMENT = 100
"""Bytes of a single line of markup that is quoted as it is; more than that is a web page."""

LineFilter = Callable[[bytes], bytes | None]
"""Changes a line before it is read; returns None if nothing is left of it."""


@dataclass(frozen=True, slots=True)
class OllamaCall:
    """A request that generates a reply or the rest of one.

    :ivar line_filter: applied to each line of the response; None if lines are taken as they are.
    :ivar from_beginning: whether the model begins its answer anew, and thinks again if it had begun to think.
    :ivar token_limit: lines with text, after the filter, that are taken; None if the request has the right limit.
    """

    body: RequestBody
    path: str = CHAT
    line_filter: LineFilter | None = None
    from_beginning: bool = False
    token_limit: int | None = None


@dataclass(slots=True)
class Limits:
    """What remains of a reply's limits; shared by its attempts.

    :ivar remaining_bytes: of lines, with :data:`LINE_OVERHEAD`.
    :ivar deadline: end of ``--reply-timeout`` by ``time.monotonic``; None before the first line.
    """

    remaining_bytes: int
    deadline: float | None = None


class Attempt:
    """Calls Ollama and appends the lines of its response to a reply.

    :param ollama: the client of the Ollama to call.
    :param key: see :meth:`relay.ollama.client.OllamaClient.stream`.
    :ivar ended: future of the outcome of the reply, or of why this attempt failed; None if it was cancelled.
    :ivar progressed: whether a line was received.
    """

    def __init__(
        self,
        call: OllamaCall,
        reply: ReplyBuffer,
        transcript: Transcript,
        limits: Limits,
        relay: RelayComponents,
        ollama: OllamaClient,
        key: str,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[AttemptResult | None] = self._loop.create_future()
        self.progressed = False
        self._reply = reply
        self._transcript = transcript
        self._limits = limits
        self._journal = relay.journal
        self._settings = relay.settings
        self._path = call.path
        self._filter = call.line_filter
        self._remaining_tokens = call.token_limit
        self._decoder = ndjson.NDJSONDecoder(self._settings.max_line_bytes)
        self._error_body = bytearray()
        self._last_error: str | None = None
        self._read_a_line = False
        self._page: bytearray | None = None
        self._runner_error: bytes | None = None
        self._last_chunk_at = monotonic()
        self._call = ollama.stream(call.path, call.body, self._on_chunk, key)
        self._call.done.add_done_callback(lambda _: self._on_end())
        self._check_timeouts()

    def close(self) -> None:
        """Close the connection to Ollama: at once, or after :data:`DONE_GRACE` if Ollama has said that it is done."""
        self._timeout_timer.cancel()
        result = self.ended.result() if self.ended.done() and not self.ended.cancelled() else None
        if isinstance(result, Outcome) and result.status == "done" and self._remaining_tokens != 0:
            self._loop.call_later(DONE_GRACE, self._call.cancel)
        else:
            self._call.cancel()

    def cancel(self) -> None:
        """End the attempt without a result: the reply has an outcome already."""
        self._end(None)

    def _end(self, result: AttemptResult | None) -> None:
        if not self.ended.done():
            self.ended.set_result(result)

    def _check_timeouts(self) -> None:
        now = monotonic()
        settings = self._settings
        if self.progressed:
            silence, when = settings.ollama_read_timeout, ""
        else:
            silence, when = settings.first_line_timeout, " before the first line"
        deadline = self._last_chunk_at + silence
        if self._limits.deadline is not None and now >= self._limits.deadline:
            self._end(took_too_long(settings))
        elif now >= deadline:
            self._end(failure("truncated", f"Ollama sent nothing for {silence:g} seconds{when}."))
        if self._limits.deadline is not None:
            deadline = min(deadline, self._limits.deadline)
        self._timeout_timer = self._loop.call_later(max(0.0, deadline - now), self._check_timeouts)

    def _on_chunk(self, chunk: bytes) -> None:
        self._last_chunk_at = self._journal.last_chunk_at = monotonic()
        if self._call.status != 200:
            self._error_body += chunk[: ERROR_BODY_LIMIT - len(self._error_body)]
            return
        self._limits.remaining_bytes -= len(chunk)
        if self._limits.remaining_bytes < 0:
            limit = self._settings.max_reply_bytes
            self._end(failure("truncated", TOO_LONG.format(limit)))
            return
        try:
            lines = self._decoder.feed(chunk)
        except LineTooLong as error:
            self._end(failure("failed", str(error)))
        else:
            self._limits.remaining_bytes -= LINE_OVERHEAD * len(lines)
            self._on_lines(lines)

    def _on_lines(self, lines: list[bytes]) -> None:
        """Relay lines. Whatever is raised ends the reply."""
        try:
            for line in lines:
                self._on_line(line)
        except NotContinued:
            self._end(failure("interrupted", NOT_CONTINUABLE, "The model began a new answer."))
        except Exception:
            log.exception("A line of reply %s could not be relayed.", self._reply.id)
            self._end(failure("failed", "Internal server error. The server's log has the details."))

    def _on_line(self, received: bytes) -> None:
        if self.ended.done():
            return
        if not self.progressed:
            self._on_first_line()
        line = received if self._filter is None else self._filter(received)
        if line is None:
            return
        try:
            parsed = chat_line.read(line)
        except UnreadableLine:
            self._on_unreadable_line(line)
            return
        if self._page is not None:
            self._end_page()
        self._read_a_line = True
        if parsed.error is not None:
            self._on_error_line(parsed.error)
            return
        self._last_error = None
        self._transcript.add(parsed)
        if parsed.done:
            self._end(Outcome("done", None, line))
        else:
            self._append(line)
            if parsed.content or parsed.thinking:
                self._count_token()

    def _on_unreadable_line(self, line: bytes) -> None:
        """Quote a line in an error event, but collect the lines of a web page: they become one event."""
        if self._page is None and foreign_server.is_page(line):
            self._page = bytearray()
        if self._page is None:
            self._append(chat_line.unreadable_line(line))
        else:
            self._page += line[: ERROR_BODY_LIMIT - len(self._page)] + b"\n"

    def _end_page(self) -> None:
        """Report the web page whose lines were received."""
        if self._page is None:
            return
        page, self._page = bytes(self._page), None
        if len(page) <= MAX_FRAGMENT and page.count(b"\n") == 1 and not foreign_server.page_title(page):
            self._append(chat_line.unreadable_line(page[:-1]))
            return
        self._last_error = foreign_server.describe_page(200, page)
        self._append(chat_line.error_line(self._last_error))

    def _count_token(self) -> None:
        if self._remaining_tokens is None:
            return
        self._remaining_tokens -= 1
        if not self._remaining_tokens:
            self._end(Outcome("done", None, chat_line.own_line(self._reply.model, {"content": ""}, "length")))

    def _on_first_line(self) -> None:
        self.progressed = True
        if self._limits.deadline is None:
            self._limits.deadline = self._last_chunk_at + self._settings.reply_timeout
        self._timeout_timer.cancel()
        self._check_timeouts()

    def _on_error_line(self, error: str) -> None:
        self._last_error = upstream_error.readable(error)
        line = chat_line.error_line(self._last_error)
        if upstream_error.is_runner_failure(error):
            self._runner_error = line  # not shown if the reply goes on
        elif upstream_error.is_refused_input(error) and self._transcript.empty:
            self._end(Refusal(failure("failed", self._last_error, "Ollama sent an error.")))
        else:
            self._append(line)

    def _append(self, line: bytes) -> None:
        if self._runner_error:
            self._reply.append(self._runner_error)
            self._runner_error = None
        self._reply.append(line)
        self._journal.mark_dirty(self._reply)

    def _on_end(self) -> None:
        """Handle the end of Ollama's response."""
        error = self._call.done.exception()
        if error is None:  # else the last line is incomplete
            self._on_lines(self._decoder.flush())
        self._end_page()
        if self.ended.done():
            return
        if self._call.status not in (0, 200):
            self._end(self._error_response())
        elif isinstance(error, ChatterdError):
            self._end(failed_connection(error))
        elif self._runner_error is not None and self._last_error is not None:
            outcome = Outcome("failed", self._last_error, self._runner_error, reason="Ollama's runner died.")
            self._end(Breakdown(outcome, accepted=True))
        elif self._last_error is not None:
            self._end(Outcome("failed", self._last_error, None, reason="Ollama sent an error."))
        else:
            self._end(failure("truncated", self._why_incomplete()))

    def _error_response(self) -> AttemptResult:
        status, body = self._call.status, bytes(self._error_body)
        if upstream_error.is_window_exceeded(status, body):
            return window_exceeded(status, body, begins=not self._reply.count)
        return failed_response(status, body)

    def _why_incomplete(self) -> str:
        if not self.progressed:
            return "Ollama's answer ended before it was complete: it was empty."
        if not self._read_a_line:
            return "None of the answer could be read. Check whether OLLAMA_HOST is the address of an Ollama."
        # ollama llm/server.go, Completion: a response in which a token is repeated too often ends without "done".
        return "Ollama's answer ended before it was complete. Ollama does this when a model repeats itself."
