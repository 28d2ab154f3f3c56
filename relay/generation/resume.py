"""How a reply that broke off can be continued: what the model had said, and how it is asked to go on. Pure."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from db.messages import Message
from errors import UnreadableLine
from relay.generation.transcript import Transcript
from relay.ollama import chat_line

MAX_ATTEMPTS = 5
"""How often in a row a reply is adopted that gets no further, before it is given up: it may be what kills processes."""


def replay(transcript: Transcript, lines: Sequence[bytes]) -> None:
    """Put together again what the model had said, from the lines of a reply's log."""
    for line in lines:
        try:
            transcript.add(chat_line.read(line))
        except UnreadableLine:
            continue  # told to the viewers as an error; the model did not say it


def why_not_resumable(request: str, transcript: Transcript, attempts: int) -> str | None:
    """Say why a reply cannot be continued; None if it can.

    A model is asked to continue by giving it its own words as the last message, which Ollama leaves open. That works
    for content; a thought, a call of a tool or an answer bound to a format it would begin again.

    :param request: see :meth:`relay.prompt.Prompt.stored_request`.
    """
    if attempts > MAX_ATTEMPTS:
        return "The reply was interrupted again and again without getting further."
    if transcript.empty:
        return None
    options = msgspec.json.decode(request, type=dict[str, msgspec.Raw])
    bound = bytes(options.get("format", b"null")) not in (b"null", b'""')
    if bound or transcript.has_tool_calls or not transcript.content:
        return "The reply was interrupted where it could not be continued."
    return None


def remaining_request(request: str, transcript: Transcript) -> str | None:
    """The request with what is left of its ``options.num_predict``, the limit of tokens; None if nothing is left.

    :param request: see :meth:`relay.prompt.Prompt.stored_request`.
    """
    fields = msgspec.json.decode(request, type=dict[str, msgspec.Raw])
    try:
        options = msgspec.json.decode(fields.get("options", b"{}"), type=dict[str, msgspec.Raw])
        limit = msgspec.json.decode(options.get("num_predict", b"0"), type=int)
    except msgspec.ValidationError:
        return request  # Ollama will say what it thinks of them
    if limit <= 0:
        return request
    if limit <= transcript.pieces:
        return None
    options["num_predict"] = msgspec.Raw(msgspec.json.encode(limit - transcript.pieces))
    return msgspec.json.encode({**fields, "options": options}).decode()


def messages_to_continue(context: Sequence[Message], transcript: Transcript) -> list[Message]:
    """The messages for Ollama: the conversation, and what the model had said of this reply as its last message.

    If the reply itself continues an assistant's message, the two become one, as they will read to the model.
    """
    if not transcript.content:
        return list(context)
    if context and context[-1].role == "assistant" and context[-1].extra is None:
        return [*context[:-1], replace(context[-1], content=context[-1].content + transcript.content)]
    return [*context, Message("assistant", transcript.content)]
