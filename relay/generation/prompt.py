"""What a client asks for, and the request to Ollama that becomes of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from db.messages import Message


@dataclass(frozen=True, slots=True)
class Prompt:
    """A checked request for a reply.

    :param options: the request's other fields (options, format, tools, stream, ...), each as the client wrote it.
    :param address: for whom the reply is counted, beside the tenant; empty for nobody.
    """

    tenant: str
    appid: str
    model: str
    messages: list[Message]
    options: dict[str, msgspec.Raw]
    idempotency_key: str | None = None
    address: str = ""

    def stored_request(self) -> str:
        """The JSON object that ``replies.request`` keeps: all that Ollama is asked, but for the messages."""
        return msgspec.json.encode({"model": self.model, **self.options}).decode()


def chat_body(request: str, messages: Sequence[Message]) -> bytes:
    """Make the body for Ollama's ``/api/chat``.

    :param request: see :meth:`Prompt.stored_request`.
    :param messages: the whole conversation, newest last.
    """
    fields = msgspec.json.decode(request, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**fields, "messages": [_as_json(message) for message in messages]})


def trim_to_context(
    messages: Sequence[Message], context_messages: int, context_bytes: int
) -> tuple[list[Message], int, int]:
    """Choose which of a prompt's own messages the model is given: newest first up to the limits, the newest always,
    system messages always.

    :returns: the messages, oldest first, and what is left of both limits for the conversation before them.
    """
    chosen: list[Message] = []
    full = False
    for message in reversed(messages):
        size = len(message.content.encode()) + len(message.extra or "")
        full = full or (bool(chosen) and (context_messages < 1 or context_bytes < size))
        if message.role == "system" or not full:
            chosen.append(message)
            context_messages -= 1
            context_bytes -= size
    return chosen[::-1], 0 if full else max(context_messages, 0), max(context_bytes, 0)


def _as_json(message: Message) -> dict[str, object]:
    extra = msgspec.json.decode(message.extra, type=dict[str, msgspec.Raw]) if message.extra else {}
    return {"role": message.role, "content": message.content, **extra}
