"""Parses and validates the body of ``POST /llmchat``. No request, no database."""

import asyncio
import re
from collections.abc import Sequence

import msgspec

from db.messages import Message
from errors import UnprocessableContent
from json_text import pause
from relay.generation.prompt import Prompt
from relay.window.request_options import WHEN_FULL
from web.json_body.decoding import Fields, check_values, count_characters, decode_object, decode_text

MAX_APPID_LENGTH = 155
"""Characters of an appID: the width of the tutorial's column."""

MAX_MODEL_BYTES = 1_000
"""Bytes of a model's name, which is part of a key of the database with tenant and appID: a row of an index has 2,704 at
most. An Ollama's own names have some 600 (ollama ``types/model/name.go``)."""

NAMES_IN_REQUEST = ("model", "messages")
NAMES_IN_MESSAGE = ("role", "content")
"""Fields that Ollama must not find under another spelling; see :func:`_reject_other_spellings`."""

ROLES = ("system", "user", "assistant", "tool")

MESSAGE_DEPTH = 2
"""Levels of nesting around a message: the body and the list."""

MESSAGES_BETWEEN_PAUSES = 100
"""Messages that are parsed before the event loop gets its turn: 1 ms."""

_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_fields = msgspec.json.Decoder(Fields).decode


async def parse_chat_request(
    body: bytes, tenant: str, idempotency_key: str | None, max_messages: int, max_depth: int
) -> Prompt:
    """Parse a prompt. Each text is decoded once; the fields that are passed on are checked and stay as they were sent.

    Of a field that is there twice the last one counts, and only it is passed on.

    :param max_messages: number of messages at most.
    :param max_depth: levels of nesting at most.
    :raises BadRequest: the body is not a JSON object in UTF-8, is nested too deeply or has too many values.
    :raises UnprocessableContent: a field is missing or invalid; the sentence names it.
    """
    fields = await decode_object(body, max_depth)
    appid = check_appid(await decode_text(fields.pop("appID", None)))
    model = await decode_text(fields.pop("model", None))
    if not isinstance(model, str) or not model:
        raise UnprocessableContent("model is missing: name the model that is to answer.")
    if len(model.encode(errors="surrogatepass")) > MAX_MODEL_BYTES:
        raise UnprocessableContent(f"model is too long: a name may have {MAX_MODEL_BYTES:,} bytes.")
    messages = await _parse_messages(fields.pop("messages", None), max_messages, max_depth - MESSAGE_DEPTH)
    _reject_other_spellings(fields, NAMES_IN_REQUEST, "")
    if WHEN_FULL in fields and await decode_text(fields[WHEN_FULL]) not in ("cut", "stop"):
        raise UnprocessableContent('context_full must be "cut" or "stop".')
    rest = msgspec.json.encode(fields)
    await pause(rest)
    await check_values(rest, max_depth)
    options = {name: raw.copy() for name, raw in fields.items()}  # the originals keep the whole body in memory
    return Prompt(tenant, appid, model, messages, options, _check_idempotency_key(idempotency_key))


async def count_prompt_characters(body: bytes, messages: Sequence[Message]) -> int:
    """Count the characters of all strings of a prompt but those of its messages' images.

    :param body: valid JSON, the prompt as it was sent.
    :param messages: its messages.
    """
    extras = [_decode_fields(message.extra) for message in messages if message.extra]
    return await count_characters(body, [extra["images"] for extra in extras if "images" in extra])


def check_appid(appid: object) -> str:
    """Validate a conversation's tag.

    :raises UnprocessableContent: it is not a string of 1 to 155 characters.
    """
    if appid is None or appid == "":
        raise UnprocessableContent("appID is missing: send the tag of your conversation.")
    if not isinstance(appid, str):
        raise UnprocessableContent("appID must be a string.")
    if len(appid) > MAX_APPID_LENGTH:
        raise UnprocessableContent(f"appID is too long: it may have {MAX_APPID_LENGTH} characters.")
    return appid


def _check_idempotency_key(key: str | None) -> str | None:
    if key is not None and not re.fullmatch(r"[^\0]{1,255}", key):
        raise UnprocessableContent("Idempotency-Key must have 1 to 255 characters.")
    return key


def _reject_other_spellings(fields: Fields, names: Sequence[str], where: str) -> None:
    """Reject ``Content`` beside ``content``: Ollama would answer another text than the one that is recorded.

    Go's encoding/json, which reads Ollama's requests, matches the names of fields without regard to case.
    """
    longest = max(map(len, names))  # no name becomes shorter without regard to case
    for field in fields:
        if len(field) <= longest and field.casefold() in names:
            raise UnprocessableContent(f"{where}{field} must be written {field.casefold()}.")


async def _parse_messages(raw: msgspec.Raw | None, limit: int, max_depth: int) -> list[Message]:
    try:
        encoded = _decode_list(raw or b"null")
    except msgspec.ValidationError as error:
        raise UnprocessableContent("messages must be a list.") from error
    if len(encoded) > limit:
        raise UnprocessableContent(
            f"messages has {len(encoded)} entries; one prompt may have {limit}. Send them in parts."
        )
    await pause(raw or b"")
    messages = []
    for index, message in enumerate(encoded):
        messages.append(await _parse_message(f"messages[{index}]", message, max_depth))
        await pause(message)
        if index % MESSAGES_BETWEEN_PAUSES == MESSAGES_BETWEEN_PAUSES - 1:
            await asyncio.sleep(0)
    return messages


async def _parse_message(name: str, raw: msgspec.Raw, max_depth: int) -> Message:
    try:
        fields = _decode_fields(raw)
    except msgspec.ValidationError as error:
        raise UnprocessableContent(f"{name} must be an object with role and content.") from error
    await pause(raw)
    role = await decode_text(fields.pop("role", None))
    given = fields.pop("content", None)
    content = await decode_text(given)
    if fields:
        _reject_other_spellings(fields, NAMES_IN_MESSAGE, f"{name}.")
    if role not in ROLES:
        raise UnprocessableContent(f"{name}.role must be one of {', '.join(ROLES)}.")
    if content is None and (given is not None or "tool_calls" in fields):
        content = ""  # as Ollama; its own clients leave out the content of a message that only calls tools
    if not isinstance(content, str):
        raise UnprocessableContent(f"{name}.content must be a string.")
    if not fields:
        return Message(str(role), content)
    extra = msgspec.json.encode(fields)
    await pause(extra)
    await check_values(extra, max_depth, f"{name}.")
    return Message(str(role), content, extra.decode())
