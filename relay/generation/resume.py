"""How an interrupted reply is resumed: its transcript from the log, and the request that continues it. Pure: no I/O."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from db.messages import Message
from errors import UnreadableLine
from relay.generation.transcript import Transcript
from relay.ollama import chat_line

MAX_ATTEMPTS = 5
"""Consecutive adoptions without a new line; then the reply ends: it may be what makes processes crash."""


def replay(transcript: Transcript, lines: Sequence[bytes]) -> None:
    """Add lines from a reply's log to its transcript."""
    for line in lines:
        try:
            transcript.add(chat_line.read(line))
        except UnreadableLine:
            continue  # shown as an error event; not part of the model's message


def why_not_resumable(request: str, transcript: Transcript, attempts: int) -> str | None:
    """Return why a reply cannot be resumed; None if it can.

    To resume, the transcript is sent as the last message, which Ollama leaves open for the model to continue. This
    works for content. A model would restart thinking, a tool call, or a response in a given ``format``.

    :param request: see :meth:`relay.generation.prompt.Prompt.stored_request`.
    :param attempts: consecutive adoptions without a new line, this one included.
    """
    if attempts > MAX_ATTEMPTS:
        return "The reply was interrupted again and again without getting further."
    if transcript.empty:
        return None
    options = msgspec.json.decode(request, type=dict[str, msgspec.Raw])
    has_format = bytes(options.get("format", b"null")) not in (b"null", b'""')
    if has_format or transcript.has_tool_calls or not transcript.content:
        return "The reply was interrupted where it could not be continued."
    return None


def remaining_request(request: str, transcript: Transcript) -> str | None:
    """Return the request with ``options.num_predict``, its token limit, reduced by the transcript's tokens.

    :param request: see :meth:`relay.generation.prompt.Prompt.stored_request`.
    :returns: None if the limit is reached.
    """
    fields = msgspec.json.decode(request, type=dict[str, msgspec.Raw])
    try:
        options = msgspec.json.decode(fields.get("options", b"{}"), type=dict[str, msgspec.Raw])
        limit = msgspec.json.decode(options.get("num_predict", b"0"), type=int)
    except msgspec.ValidationError:
        return request  # Ollama will report the error
    if limit <= 0:
        return request
    if limit <= transcript.estimated_tokens:
        return None
    options["num_predict"] = msgspec.Raw(msgspec.json.encode(limit - transcript.estimated_tokens))
    return msgspec.json.encode({**fields, "options": options}).decode()


def messages_to_continue(context: Sequence[Message], transcript: Transcript) -> list[Message]:
    """Return the messages for Ollama: the conversation, and the transcript as the last message.

    If the conversation ends with a message of the assistant, which the reply continues, the two become one message.
    """
    if not transcript.content:
        return list(context)
    if context and context[-1].role == "assistant" and context[-1].extra is None:
        return [*context[:-1], replace(context[-1], content=context[-1].content + transcript.content)]
    return [*context, Message("assistant", transcript.content)]
