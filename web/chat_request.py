"""Parses and validates the body of ``POST /llmchat``. Pure: no request, no database."""

import codecs
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from db.messages import Message
from errors import BadRequest, UnprocessableContent
from relay.generation.prompt import Prompt
from web.validation import decode_json, exceeds_depth, exceeds_token_count

MAX_APPID_LENGTH = 155
"""Characters of an appID: the width of the tutorial's column."""

MAX_JSON_TOKENS = 500_000
"""Strings, brackets and commas of a body: they, not its size, determine the memory of the decoded value."""

TOO_MANY_TOKENS = "The body has too many values. Send it in parts."

NAMES_IN_REQUEST = ("model", "messages")
NAMES_IN_MESSAGE = ("role", "content")
"""Fields that Ollama must not find under another spelling; see :func:`_reject_other_spellings`."""

ROLES = ("system", "user", "assistant", "tool")

Fields = dict[str, msgspec.Raw]


def parse_chat_request(
    body: bytes, tenant: str, idempotency_key: str | None, max_messages: int, max_depth: int
) -> Prompt:
    """Parse a prompt.

    :param max_messages: number of messages at most.
    :param max_depth: levels of nesting at most.
    Of a field that is there twice the last one counts, and only it is passed on.

    :raises BadRequest: the body is not a JSON object in UTF-8, is nested too deeply or has too many values.
    :raises UnprocessableContent: a field is missing or invalid; the sentence names it.
    """
    fields = _parse_object(body, max_depth)
    appid = check_appid(_decode(fields.pop("appID", None)))
    model = _decode(fields.pop("model", None))
    if not isinstance(model, str) or not model:
        raise UnprocessableContent("model is missing: name the model that is to answer.")
    messages = _parse_messages(fields.pop("messages", None), max_messages)
    _reject_other_spellings(fields, NAMES_IN_REQUEST, "")
    return Prompt(tenant, appid, model, messages, fields, _check_idempotency_key(idempotency_key))


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


def _parse_object(body: bytes, max_depth: int) -> Fields:
    body = body.removeprefix(codecs.BOM_UTF8)  # which RFC 8259 lets a receiver ignore, and editors on Windows write
    if exceeds_token_count(body, MAX_JSON_TOKENS):
        raise BadRequest(TOO_MANY_TOKENS)
    try:
        value = decode_json(body)
    except RecursionError as error:
        raise BadRequest(f"The body is nested too deeply: at most {max_depth} levels are allowed.") from error
    if body.count(b"{") + body.count(b"[") > max_depth and exceeds_depth(value, max_depth):
        raise BadRequest(f"The body is nested too deeply: at most {max_depth} levels are allowed.")
    if isinstance(value, dict):
        return msgspec.json.decode(body, type=Fields)
    raise BadRequest("The body must be a JSON object.")


def _reject_other_spellings(fields: Fields, names: Sequence[str], where: str) -> None:
    """Reject ``Content`` beside ``content``: Ollama would answer another text than the one that is recorded.

    Go's encoding/json, which reads Ollama's requests, matches the names of fields without regard to case.
    """
    for field in fields:
        if field.casefold() in names:
            raise UnprocessableContent(f"{where}{field} must be written {field.casefold()}.")


def _decode(raw: msgspec.Raw | None) -> Any:
    return None if raw is None else msgspec.json.decode(raw)


def _parse_messages(raw: msgspec.Raw | None, limit: int) -> list[Message]:
    if raw is None or not isinstance(_decode(raw), list):
        raise UnprocessableContent("messages must be a list.")
    messages = msgspec.json.decode(raw, type=list[msgspec.Raw])
    if len(messages) > limit:
        raise UnprocessableContent(
            f"messages has {len(messages)} entries; one prompt may have {limit}. Send them in parts."
        )
    return [_parse_message(index, message) for index, message in enumerate(messages)]


def _parse_message(index: int, raw: msgspec.Raw) -> Message:
    name = f"messages[{index}]"
    if not isinstance(_decode(raw), dict):
        raise UnprocessableContent(f"{name} must be an object with role and content.")
    fields = msgspec.json.decode(raw, type=Fields)
    role = _decode(fields.pop("role", None))
    given = fields.pop("content", None)
    content = _decode(given)
    _reject_other_spellings(fields, NAMES_IN_MESSAGE, f"{name}.")
    if role not in ROLES:
        raise UnprocessableContent(f"{name}.role must be one of {', '.join(ROLES)}.")
    if content is None and (given is not None or "tool_calls" in fields):
        content = ""  # as Ollama; its own clients leave out the content of a message that only calls tools
    if not isinstance(content, str):
        raise UnprocessableContent(f"{name}.content must be a string.")
    return Message(role, content, msgspec.json.encode(fields).decode() if fields else None)
