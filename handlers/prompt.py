"""The body of POST /llmchat, parsed and checked. Pure: no request, no database."""

import re
from typing import Any

import msgspec

from db.messages import Message
from errors import BadRequest, UnprocessableContent
from handlers.json_measures import deeper_than, more_parts_than
from relay.generation.prompt import Prompt

APPID_LIMIT = 155
"""Characters of an appID: the width of the tutorial's column."""

PARTS_LIMIT = 500_000
"""Strings, brackets and commas of a body: what they become in memory is bounded by their number, not by its size."""

TOO_MANY_PARTS = "The body has too many values. Send it in parts."

ROLES = ("system", "user", "assistant", "tool")

Fields = dict[str, msgspec.Raw]


def parse(body: bytes, tenant: str, idempotency_key: str | None, max_messages: int, max_depth: int) -> Prompt:
    """Read a prompt.

    :param max_messages: how many messages it may have.
    :param max_depth: how deep its JSON may be nested.
    :raises BadRequest: the body is not a JSON object in UTF-8, nested too deeply, or of too many values.
    :raises Unprocessable: a field is missing or wrong; the sentence names it.
    """
    fields = _object(body, max_depth)
    appid = check_appid(_value(fields.pop("appID", None)))
    model = _value(fields.pop("model", None))
    if not isinstance(model, str) or not model:
        raise UnprocessableContent("model is missing: name the model that is to answer.")
    messages = _messages(fields.pop("messages", None), max_messages)
    return Prompt(tenant, appid, model, messages, fields, _check_key(idempotency_key))


def check_appid(appid: object) -> str:
    """Check the tag of a conversation.

    :raises Unprocessable: not a string of 1 to 155 characters.
    """
    if appid is None or appid == "":
        raise UnprocessableContent("appID is missing: send the tag of your conversation.")
    if not isinstance(appid, str):
        raise UnprocessableContent("appID must be a string.")
    if len(appid) > APPID_LIMIT:
        raise UnprocessableContent(f"appID is too long: it may have {APPID_LIMIT} characters.")
    return appid


def _check_key(key: str | None) -> str | None:
    if key is not None and not re.fullmatch(r"[^\0]{1,255}", key):
        raise UnprocessableContent("Idempotency-Key must have 1 to 255 characters.")
    return key


def _object(body: bytes, max_depth: int) -> Fields:
    try:
        body.decode()  # msgspec does not look into what it passes on raw
        if more_parts_than(body, PARTS_LIMIT):
            raise BadRequest(TOO_MANY_PARTS)
        value = msgspec.json.decode(body)
        if body.count(b"{") + body.count(b"[") > max_depth and deeper_than(value, max_depth):
            raise BadRequest(f"The body is nested too deeply: {max_depth} levels are the most.")
        if isinstance(value, dict):
            return msgspec.json.decode(body, type=Fields)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest("The body is not JSON.") from error
    except RecursionError as error:
        raise BadRequest(f"The body is nested too deeply: {max_depth} levels are the most.") from error
    raise BadRequest("The body must be a JSON object.")


def _value(raw: msgspec.Raw | None) -> Any:
    return None if raw is None else msgspec.json.decode(raw)


def _messages(raw: msgspec.Raw | None, most: int) -> list[Message]:
    if raw is None or not isinstance(_value(raw), list):
        raise UnprocessableContent("messages must be a list.")
    messages = msgspec.json.decode(raw, type=list[msgspec.Raw])
    if len(messages) > most:
        raise UnprocessableContent(
            f"messages has {len(messages)} entries; one prompt may have {most}. Send them in parts."
        )
    return [_message(number, one) for number, one in enumerate(messages)]


def _message(number: int, raw: msgspec.Raw) -> Message:
    where = f"messages[{number}]"
    if not isinstance(_value(raw), dict):
        raise UnprocessableContent(f"{where} must be an object with role and content.")
    fields = msgspec.json.decode(raw, type=Fields)
    role = _value(fields.pop("role", None))
    content = _value(fields.pop("content", None))
    if role not in ROLES:
        raise UnprocessableContent(f"{where}.role must be one of {', '.join(ROLES)}.")
    if content is None and "tool_calls" in fields:
        content = ""  # Ollama's own clients leave the content of a message out that only calls tools
    if not isinstance(content, str):
        raise UnprocessableContent(f"{where}.content must be a string.")
    return Message(role, content, msgspec.json.encode(fields).decode() if fields else None)
