"""A client's prompt, and the request to Ollama made from it. Pure: no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from db.context.selection import IMAGES_MIN_BYTES
from db.messages import Message
from relay.window.request_options import with_answer_limit, without_own_fields


@dataclass(frozen=True, slots=True)
class Prompt:
    """A validated request for a reply.

    :param options: the request's other fields (options, format, tools, stream, ...), each as the client sent it.
    :param plain_client: whether the client can neither follow nor stop a reply: the reply may be superseded.
    :param address: client address for which the reply is counted, beside its tenant; empty if none is.
    """

    tenant: str
    appid: str
    model: str
    messages: list[Message]
    options: dict[str, msgspec.Raw]
    idempotency_key: str | None = None
    address: str = ""
    plain_client: bool = False

    @property
    def conversation(self) -> tuple[str, str]:
        """The key of its conversation."""
        return self.tenant, self.appid

    def stored_request(self) -> str:
        """Return the JSON object stored in ``replies.request``: the request to Ollama without the messages."""
        return msgspec.json.encode(self._fields()).decode()

    def chat_body(self, messages: Sequence[Message], answer_limit: int | None = None) -> bytes:
        """Return what :func:`chat_body` makes of the stored request, without that text.

        A single character beyond U+FFFF lets Python take four bytes for each character of a text.

        :param messages: the whole conversation, newest last.
        :param answer_limit: see :func:`relay.window.request_options.with_answer_limit`.
        """
        return _chat_body({"model": self.model, **with_answer_limit(self.options, answer_limit)}, messages)

    def _fields(self) -> dict[str, Any]:
        return {"model": self.model, **self.options}


def conversation_key(tenant: str, appid: str) -> str:
    """Return a key of the conversation that reveals neither of its names, in hexadecimal digits."""
    return sha256(f"{tenant}\0{appid}".encode()).hexdigest()[:32]


def chat_body(request: str, messages: Sequence[Message]) -> bytes:
    """Return the request body for Ollama's ``/api/chat``.

    :param request: see :meth:`Prompt.stored_request`.
    :param messages: the whole conversation, newest last.
    """
    return _chat_body(msgspec.json.decode(request, type=dict[str, msgspec.Raw]), messages)


def _chat_body(fields: Mapping[str, Any], messages: Sequence[Message]) -> bytes:
    return msgspec.json.encode({**without_own_fields(fields), "messages": [_as_json(message) for message in messages]})


def trim_to_context(
    messages: Sequence[Message], context_messages: int, context_bytes: int
) -> tuple[list[Message], int, int]:
    """Select the prompt's own messages that fit into the context: the newest ones up to the limits, always the last
    one, and all system messages. They keep their images, which do not count.

    :returns: the messages, oldest first, and what remains of both limits for the earlier conversation.
    """
    selected: list[Message] = []
    full = False
    for message in reversed(messages):
        size = _text_bytes(message)
        full = full or (bool(selected) and (context_messages < 1 or context_bytes < size))
        if message.role == "system" or not full:
            selected.append(message)
            context_messages -= 1
            context_bytes -= size
    return selected[::-1], 0 if full else max(context_messages, 0), max(context_bytes, 0)


def remaining_system_bytes(messages: Sequence[Message], context_bytes: int) -> int:
    """Return what the system messages of the prompt leave of the context for those of the earlier conversation: a long
    prompt of the user does not take the place of the system's."""
    return max(context_bytes - sum(_text_bytes(message) for message in messages if message.role == "system"), 0)


def remaining_image_bytes(messages: Sequence[Message], context_image_bytes: int) -> int:
    """Return what the images of the prompt's own messages leave of the limit for those of the earlier conversation."""
    return max(context_image_bytes - sum(map(_image_bytes, messages)), 0)


def _text_bytes(message: Message) -> int:
    return len(message.content.encode()) + len((message.extra or "").encode()) - _image_bytes(message)


def _image_bytes(message: Message) -> int:
    """Return the bytes that count as images; see :data:`db.context.selection.IMAGES_MIN_BYTES`."""
    size = len((message.extra or "").encode())
    return size if message.role != "assistant" and size > IMAGES_MIN_BYTES else 0


def _as_json(message: Message) -> dict[str, object]:
    fields = message.fields()
    fields.pop("role", None)
    fields.pop("content", None)
    return {"role": message.role, "content": message.content, **fields}
