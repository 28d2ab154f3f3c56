"""The task that makes one reply: from the request to Ollama to the commit of the assistant's message."""

import asyncio
import logging
from dataclasses import dataclass

from db import replies
from db.pool import Database
from errors import ChatterdError, LineTooLong, NotAcceptable, OllamaUnreachable, Unavailable, UnreadableLine
from relay import chat_line, ndjson
from relay.ollama import ERROR_BODY_LIMIT, Ollama, refusal
from relay.reply import Reply
from relay.transcript import Transcript
from settings import Settings

log = logging.getLogger("chatterd.relay")

LINGER = 5.0
"""Seconds that Ollama gets to end its answer after it said done, so that the connection can be used again."""

STORE_RETRY = 0.5
"""Seconds between two attempts to store a reply while the database is away."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a generation ended.

    :param status: as in ``replies.status``.
    :param error: what went wrong, for the viewers; None if nothing did.
    :param last_line: the line to show once the outcome is committed; None if the viewers have been told already.
    """

    status: str
    error: str | None
    last_line: bytes | None


def _failure(status: str, error: str) -> Outcome:
    return Outcome(status, error, chat_line.error_line(error))


class Generation:
    """Relays Ollama's answer into a reply. It belongs to the process, not to a request: viewers do not matter to it.

    Whichever comes first ends it: a line with ``done``, the answer's end, a time limit, :meth:`stop`, :meth:`interrupt`.
    """

    def __init__(self, reply: Reply, ollama: Ollama, database: Database, settings: Settings) -> None:
        self.reply = reply
        self._ollama = ollama
        self._database = database
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._lines = ndjson.Splitter(settings.max_line_bytes)
        self._transcript = Transcript()
        self._refusal = bytearray()
        self._last_error: str | None = None

    def stop(self) -> None:
        """End the reply where it is, as a person asked for."""
        self._conclude(Outcome("stopped", None, chat_line.own_line(self.reply.model, {"content": ""}, "stopped")))

    def interrupt(self, error: str) -> None:
        """End the reply where it is, because the server cannot go on with it."""
        self._conclude(_failure("interrupted", error))

    async def run(self, body: bytes) -> None:
        """Ask Ollama, relay, store, show the end. Returns when all of it is done."""
        self._call = self._ollama.call("/api/chat", body, self._take_chunk)
        self._call.ended.add_done_callback(lambda _: self._take_end())
        self._deadline = self._loop.time() + self._settings.reply_timeout
        self._check_time()
        outcome = await self._outcome
        self._timer.cancel()
        if outcome.status == "done":
            self._loop.call_later(LINGER, self._call.cancel)
        else:
            self._call.cancel()
        await self._store(outcome)

    def _conclude(self, outcome: Outcome) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)

    def _check_time(self) -> None:
        silent_until = self._call.last_byte + self._settings.silence_timeout
        if self._loop.time() >= self._deadline:
            self._conclude(
                _failure("truncated", f"The reply took longer than {self._settings.reply_timeout:g} seconds.")
            )
        elif self._loop.time() >= silent_until:
            self._conclude(
                _failure("truncated", f"Ollama sent nothing for {self._settings.silence_timeout:g} seconds.")
            )
        self._timer = self._loop.call_at(min(self._deadline, silent_until), self._check_time)

    def _take_chunk(self, chunk: bytes) -> None:
        if self._call.status != 200:
            self._refusal += chunk[: ERROR_BODY_LIMIT - len(self._refusal)]
            return
        try:
            lines = self._lines.feed(chunk)
        except LineTooLong as error:
            self._conclude(_failure("failed", str(error)))
            return
        for line in lines:
            self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        if self._outcome.done():
            return
        try:
            said = chat_line.read(line)
        except UnreadableLine:
            self.reply.append(chat_line.unreadable_line(line))
            return
        self._last_error = said.error
        if said.error is not None:
            self.reply.append(chat_line.error_line(said.error))
            return
        self._transcript.add(said)
        if said.done:
            self._conclude(Outcome("done", None, line))
        else:
            self.reply.append(line)

    def _take_end(self) -> None:
        for line in self._lines.close():
            self._take_line(line)
        if self._outcome.done():
            return
        error = self._call.ended.exception()
        if isinstance(error, OllamaUnreachable):
            self._conclude(_failure("failed", str(error)))
        elif self._call.status not in (0, 200):
            self._conclude(_failure("failed", refusal(self._call.status, bytes(self._refusal))))
        elif isinstance(error, ChatterdError):
            self._conclude(_failure("truncated", str(error)))
        elif self._last_error is not None:
            self._conclude(Outcome("failed", self._last_error, None))
        else:
            self._conclude(_failure("truncated", "Ollama's answer ended before it was complete."))

    async def _store(self, outcome: Outcome) -> None:
        """Commit the outcome, then show it. While the database is away, keep trying; the viewers' patience ends first."""
        patience_ends = self._loop.time() + self._settings.db_patience
        while True:
            try:
                outcome = await self._store_once(outcome)
                break
            except Unavailable:
                if not self.reply.ended and self._loop.time() >= patience_ends:
                    outcome = _failure("failed", "The reply could not be saved: the database cannot be reached.")
                    self._show_end(outcome)
                await asyncio.sleep(STORE_RETRY)
        if not self.reply.ended:
            self._show_end(outcome)

    async def _store_once(self, outcome: Outcome) -> Outcome:
        """Store the outcome; return the one that holds.

        :raises Unavailable: the database is away; it may have stored the outcome or not.
        """
        reply = self.reply
        message = self._transcript.message(self._settings.collapse_whitespace)
        try:
            async with self._database.acquire() as connection:
                stored = await replies.finish(
                    connection, reply.id, reply.tenant, outcome.status, outcome.error, message
                )
        except NotAcceptable:
            log.exception("The database refuses the message of reply %s; ending the reply without it.", reply.id)
            self._transcript = Transcript()
            return await self._store_once(_failure("failed", "The reply could not be saved: the database refuses it."))
        return outcome if stored else _failure("interrupted", "The reply was ended elsewhere.")

    def _show_end(self, outcome: Outcome) -> None:
        if outcome.last_line is not None:
            self.reply.append(outcome.last_line)
        self.reply.end()
