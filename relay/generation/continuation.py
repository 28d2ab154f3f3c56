"""Decides, with Ollama's help, how a reply is continued: as a raw prompt, as a chat, from its beginning, or not."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import asyncpg
import msgspec

from db import replies
from db.context import reduction, selection, sent_messages
from db.messages import Message
from db.replies import ReplySource
from errors import ChatterdError
from relay.components import RelayComponents
from relay.generation import resume
from relay.generation.attempt import OllamaCall
from relay.generation.outcome import (
    AttemptResult,
    Outcome,
    failed_connection,
    failed_response,
    failure,
    window_exceeded,
)
from relay.generation.prompt import chat_body
from relay.generation.reply_buffer import ReplyBuffer
from relay.generation.resume import SentRequest
from relay.generation.transcript import Transcript
from relay.memory_budget import Reservation
from relay.ollama import chat_line, upstream_error
from relay.ollama.client import CHAT, GENERATE, SHOW, OllamaClient
from relay.ollama.echo import EchoFilter
from relay.ollama.generate_line import as_chat_line
from relay.outgoing import RequestBody

log = logging.getLogger("chatterd.relay")

QUOTED_LENGTH = 40
"""Characters of a message that an error quotes."""


class ReplyDeleted(Exception):
    """The reply, or the message that it continues, is not in the database any more."""


class _Ends(Exception):
    """The reply is not continued.

    :ivar result: how it ends, or why this attempt failed.
    """

    def __init__(self, result: AttemptResult) -> None:
        super().__init__()
        self.result = result


async def load_sent_request(relay: RelayComponents, tenant: str, id: UUID) -> tuple[SentRequest, Reservation]:
    """Read from the database what was sent to Ollama for a reply. Messages recorded later do not change it.

    :returns: what was sent, and the reservation of its memory, which the caller releases.
    :raises ReplyDeleted: there is no such reply.
    :raises ServiceUnavailable: the database is unavailable.
    """
    async with relay.database.acquire() as connection:
        source, size = await _find_source(relay, connection, tenant, id)
    reservation = await relay.outgoing.reserve(size)  # without holding a connection
    try:
        async with relay.database.acquire() as connection:
            return await _load(relay, connection, tenant, source), reservation
    except BaseException:
        reservation.release()
        raise


async def _find_source(
    relay: RelayComponents, connection: asyncpg.Connection, tenant: str, id: UUID
) -> tuple[ReplySource, int]:
    """Find what a reply was begun with, and about how many bytes it was."""
    source = await replies.find_source(connection, tenant, id)
    if source is None:
        raise ReplyDeleted
    if source.bounds is None:
        size = relay.settings.context_bytes
    else:
        size = await sent_messages.sent_size(connection, tenant, source.appid, source.bounds)
    return source, size + len(source.request)


async def _load(
    relay: RelayComponents, connection: asyncpg.Connection, tenant: str, source: ReplySource
) -> SentRequest:
    if source.bounds is None:  # begun by a version that did not store it
        settings = relay.settings
        sent = await selection.read_context(
            connection, tenant, source.appid, settings.context_messages, settings.context_bytes
        )
    else:
        sent = await sent_messages.read_sent(connection, tenant, source.appid, source.bounds)
    if source.continues_at is None:
        return SentRequest(source.request, sent)
    if not sent or sent[-1].role != "assistant":
        raise ReplyDeleted
    *earlier, last = sent
    return SentRequest(source.request, earlier, replace(last, content=last.content[: source.continues_at]))


async def next_call(
    relay: RelayComponents,
    ollama: OllamaClient,
    sent: SentRequest,
    transcript: Transcript,
    model: str,
    key: str,
    shorten: bool,
    answer_limit: int | None,
) -> OllamaCall | AttemptResult:
    """Return the call that generates the rest of a reply.

    :param ollama: the client of the Ollama that is to generate it.
    :param transcript: what the reply has said so far.
    :param key: see :meth:`relay.ollama.client.OllamaClient.stream`.
    :param shorten: whether Ollama may leave out the oldest messages, as it did at first if they do not fit.
    :param answer_limit: see :func:`relay.window.request_options.with_answer_limit`.
    :returns: the reply's outcome if it is complete or cannot be continued; a breakdown if Ollama died meanwhile.
    """
    words = sent.words(transcript)
    if not words and not transcript.has_tool_calls:
        body = chat_body(resume.within_window(sent.request, answer_limit), sent.messages)
        return OllamaCall(RequestBody(body), from_beginning=True)
    if reason := resume.why_not_continuable(sent, transcript):
        return failure("interrupted", reason)
    request = resume.remaining_request(sent.request, transcript)
    if request is None:
        return Outcome("done", None, chat_line.own_line(model, {"content": ""}, "length"))
    request = resume.within_window(request, answer_limit)
    try:
        return await _ContinuationFinder(relay, ollama, sent, transcript, request, key, shorten).find()
    except _Ends as end:
        return end.result


async def leave_out_refused(relay: RelayComponents, reply: ReplyBuffer, prompt_messages: int) -> bool:
    """Leave out of the conversation, for this reply, what Ollama may have refused before the prompt.

    :param prompt_messages: number of messages at its end that are the prompt.
    :returns: False if there is nothing left, or another process owns the reply.
    :raises ServiceUnavailable: the database is unavailable.
    """
    async with relay.database.acquire() as connection:
        left_out = await reduction.reduce_context(connection, reply.tenant, reply.id, reply.owner, prompt_messages)
    if left_out is not None:
        log.info("Reply %s: Ollama refused the conversation. Sending it without earlier %s.", reply.id, left_out)
    return left_out is not None


def explain_refusal(outcome: Outcome, prompt: Sequence[Message]) -> Outcome:
    """Return the outcome of a reply whose prompt Ollama refuses, with what may be done about it.

    :param prompt: the messages of the prompt. Without fields that can be refused, the request itself is the reason.
    """
    for message in prompt:
        if fields := resume.refusable_fields(message):
            what = " and ".join(fields)
            error = (
                f"{outcome.error}. If the {what} of the message '{shortened(message.content)}' are the reason, send it "
                f"again without, or choose another model. Later prompts are answered without the {what}."
            )
            return failure(outcome.status, error, outcome.reason)
    return outcome


def shortened(text: str) -> str:
    """Return the beginning of a text, in one line."""
    line = " ".join(text[: 2 * QUOTED_LENGTH].split())
    return line if len(line) <= QUOTED_LENGTH else f"{line[:QUOTED_LENGTH]}…"


class _ContinuationFinder:
    """Finds the call that continues words.

    :param request: the request with its remaining token limit.
    """

    def __init__(
        self,
        relay: RelayComponents,
        ollama: OllamaClient,
        sent: SentRequest,
        transcript: Transcript,
        request: str,
        key: str,
        shorten: bool,
    ) -> None:
        self._relay = relay
        self._ollama = ollama
        self._sent = sent
        self._transcript = transcript
        self._request = request
        self._key = key
        self._shorten = shorten
        self._words = sent.words(transcript)

    async def find(self) -> OllamaCall:
        """Return the call.

        :raises _Ends: the reply is not continued.
        """
        if not resume.has_tools(self._request):
            marker = resume.new_marker()
            rendering = await self._render(marker)
            if rendering is None:
                return self._chat(continues=False)
            prompt = resume.cut_at_marker(rendering, self._words, marker)
            if prompt is not None:
                return await self._raw(prompt)
        rendering = await self._render()
        return self._chat(continues=rendering is not None and rendering.endswith(self._words))

    def _chat(self, continues: bool) -> OllamaCall:
        """Return the call of ``/api/chat`` with the words as the last message.

        :param continues: whether the model's template leaves this message open.
        """
        request, limit = self._request, None if continues else resume.token_limit(self._request)
        if limit is not None:
            # A model that generates the words once more needs tokens for them: never more than they have bytes.
            request = resume.with_token_limit(request, limit + len(self._words.encode()))
        body = resume.chat_to_continue(request, self._sent, self._transcript)
        return OllamaCall(
            RequestBody(body), CHAT, EchoFilter(self._words, required=not continues).feed, token_limit=limit
        )

    async def _raw(self, prompt: str) -> OllamaCall:
        if resume.begins_with_bos(prompt):
            prompt = resume.without_bos(prompt, await self._model_info())
        return OllamaCall(RequestBody(resume.raw_body(self._request, prompt)), GENERATE, as_chat_line)

    async def _render(self, marker: str = "") -> str | None:
        """Return the rendered prompt with the words as the last message, and the marker behind them.

        :returns: None if this Ollama, or the model in the cloud, renders no prompts.
        """
        body = resume.chat_to_continue(self._request, self._sent, self._transcript, marker)
        status, response = await self._post(CHAT, resume.rendering_body(body, self._shorten))
        if upstream_error.is_window_exceeded(status, response):
            raise _Ends(window_exceeded(status, response, begins=False))
        try:
            rendered = _decode(self._check(status, response))
        except _UNREADABLE:
            return None
        return rendered.debug_info.rendered_template if rendered.debug_info else None

    async def _model_info(self) -> dict[str, object]:
        model = msgspec.json.decode(self._request, type=dict[str, msgspec.Raw])["model"]
        response = self._check(*await self._post(SHOW, msgspec.json.encode({"model": model})))
        try:
            return _decode_show(response).model_info
        except _UNREADABLE:
            return {}

    def _check(self, status: int, response: bytes) -> bytes:
        """Return the response if its status is 200.

        :raises _Ends: it is an error.
        """
        if status == 200:
            return response
        raise _Ends(failed_response(status, response))

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body of a response.

        :raises _Ends: there is none.
        """
        timeout = self._relay.settings.first_line_timeout
        try:
            return await self._ollama.post(path, body, timeout, self._key)
        except TimeoutError:
            raise _Ends(
                failure("truncated", f"Ollama sent nothing for {timeout:g} seconds before the first line.")
            ) from None
        except ChatterdError as error:
            raise _Ends(failed_connection(error)) from error


class _DebugInfo(msgspec.Struct):
    rendered_template: str


class _Rendered(msgspec.Struct):
    """A response to a request with ``_debug_render_only`` (ollama ``api/types.go``, ``DebugInfo``)."""

    debug_info: _DebugInfo | None = msgspec.field(default=None, name="_debug_info")


class _Shown(msgspec.Struct):
    model_info: dict[str, object] = {}


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_decode = msgspec.json.Decoder(_Rendered).decode
_decode_show = msgspec.json.Decoder(_Shown).decode
