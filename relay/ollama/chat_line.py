"""Decode the lines of Ollama's ``/api/chat``, and encode the lines that chatterd adds. Pure.

A line (ollama ``api/types.go``, ``ChatResponse``) is an object ``model, created_at, message{role, content, thinking,
tool_calls}, done``; the last one of a response also has ``done_reason`` and token counts. Or it is ``{"error": ...}``.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import ujson

from errors import UnreadableLine

TEXT_LIMIT = 4_096
"""Maximum number of characters of an error's text, or of an unreadable line, that is shown to a viewer."""

MAX_CALL_DEPTH = 500
"""Levels of nesting in a tool call. How deep Python itself can descend differs between its versions."""

_NOT_STORABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|[eE][+-]?\d{4}|\d{400}")
"""What PostgreSQL's jsonb, which checks texts before they are stored, may refuse or expand: NUL, halves of surrogate
pairs, and numbers beyond those of a double (its ``numeric`` has 131,072 digits; a double ends at 1e308)."""

ERROR_PREFIX = b'{"error":"'
"""The first bytes of every line that :func:`error_line` makes, and of no line that :func:`read` accepts as a chat line.

A reply's log holds only lines of these two kinds, so the prefix alone tells an error event from a message.
"""


class ChatLine(msgspec.Struct, gc=False):
    """A decoded line.

    :ivar tool_calls: the JSON text of each, as it was sent: order of keys and form of numbers are part of the prompt
        that the model and its cache see in the next turn.
    :ivar thinking_restarted: whether the line says that the thought before it is void; only chatterd sends such a line.
    :ivar error: the text of the error if the line is ``{"error": ...}``; None if it is a chat line.
    """

    content: str = ""
    thinking: str = ""
    tool_calls: list[msgspec.Raw] = []
    done: bool = False
    thinking_restarted: bool = False
    error: str | None = None


class _Message(msgspec.Struct, gc=False):
    content: str = ""
    thinking: str = ""
    tool_calls: list[msgspec.Raw] = []


class _Line(msgspec.Struct, gc=False):
    model: str
    message: _Message = msgspec.field(default_factory=_Message)
    done: bool = False
    thinking_restarted: bool = False
    error: msgspec.Raw = msgspec.Raw()


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Usage(msgspec.Struct, gc=False):
    prompt_eval_count: _Count = 0
    eval_count: _Count = 0


_decode = msgspec.json.Decoder(_Line).decode
_decode_usage = msgspec.json.Decoder(_Usage).decode


def read(line: bytes) -> ChatLine:
    """Decode one line.

    Content and thinking are as sent: they may contain NUL and halves of surrogate pairs (see :func:`storable`).

    :raises UnreadableLine: the line is not a JSON object in UTF-8, or has neither a model nor an error.
    """
    try:
        line.decode()  # msgspec does not check the encoding of fields that it skips
        fields = _decode(line)
        calls = fields.message.tool_calls and [_storable_call(call, line) for call in fields.message.tool_calls]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_unusual(line)
    if fields.error or not fields.model:
        return _read_unusual(line)
    return ChatLine(
        content=fields.message.content,
        thinking=fields.message.thinking,
        tool_calls=calls,
        done=fields.done,
        thinking_restarted=fields.thinking_restarted,
    )


def _read_unusual(line: bytes) -> ChatLine:
    """Decode a line that is an error, has fields of unexpected types, or contains a lone surrogate."""
    try:
        fields = ujson.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise UnreadableLine(line) from error
    if not isinstance(fields, dict):
        raise UnreadableLine(line)
    if fields.get("error") is not None:
        return ChatLine(error=error_text(fields["error"]))
    if is_error_line(line):  # "error" twice: first a string, later null
        raise UnreadableLine(line)
    if not isinstance(fields.get("model"), str) or not fields["model"]:
        raise UnreadableLine(line)
    message = fields["message"] if isinstance(fields.get("message"), dict) else {}
    tool_calls = message.get("tool_calls")
    return ChatLine(
        content=_text(message.get("content")),
        thinking=_text(message.get("thinking")),
        tool_calls=[_encode_call(call, line) for call in tool_calls] if isinstance(tool_calls, list) else [],
        done=fields.get("done") is True,
        thinking_restarted=fields.get("thinking_restarted") is True,
    )


def tokens(last_line: bytes) -> tuple[int, int]:
    """Return the counts of prompt tokens and of generated tokens in the last line of a response.

    A count that is missing or invalid is 0 (ollama ``api/types.go``, ``Metrics``, omits zeros).
    """
    try:
        usage = _decode_usage(last_line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0, 0
    return usage.prompt_eval_count, usage.eval_count


def error_text(error: object) -> str:
    """Convert the value of an ``error`` field to text. Ollama sends a string; OpenAI-compatible servers an object."""
    return storable(error if isinstance(error, str) else ujson.dumps(error, escape_forward_slashes=False))


def error_line(text: str) -> bytes:
    """Encode an error as a line of a reply: ``{"error":"<text>"}``. Every error line is made here.

    Double quotes in the text become single quotes. The reference tutorial's server shows the escaped double quotes
    inside an error's text as single quotes, and existing clients display the text as it stands in the line.

    :param text: cut to :data:`TEXT_LIMIT` characters.
    """
    if len(text) > TEXT_LIMIT:
        text = text[:TEXT_LIMIT] + " ..."
    return msgspec.json.encode({"error": storable(text).replace('"', "'")})


def is_error_line(line: bytes) -> bool:
    """Return whether a line of a reply was made by :func:`error_line`; see :data:`ERROR_PREFIX`."""
    return line.startswith(ERROR_PREFIX)


def unreadable_line(line: bytes) -> bytes:
    """Encode an error line that quotes a line which could not be decoded."""
    return error_line(line[: 4 * TEXT_LIMIT].decode(errors="replace"))


def thinking_restarted_line(model: str) -> bytes:
    """Encode the line that is added before a model thinks again because its first thought was cut off."""
    return own_line(model, {"content": ""}, None, thinking_restarted=True)


def own_line(model: str, message: dict[str, Any], done_reason: str | None, **more: Any) -> bytes:
    """Encode a chat line that chatterd adds to a reply, in Ollama's format.

    :param message: the fields of the assistant's message, without its role.
    :param done_reason: reason why the reply is done; None if it is not done.
    :param more: further fields of the line.
    """
    line: dict[str, Any] = {
        "model": model,
        "created_at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "message": {"role": "assistant", **message},
        "done": done_reason is not None,
        **more,
    }
    if done_reason is not None:
        line["done_reason"] = done_reason
    return msgspec.json.encode(line)


def storable(text: str) -> str:
    """Join surrogate pairs; replace NUL and lone surrogates, which PostgreSQL cannot store in a text, by U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _storable_call(call: msgspec.Raw, line: bytes) -> msgspec.Raw:
    """Return a tool call as it was sent, unless PostgreSQL cannot store it like that."""
    text = bytes(call)
    if _NOT_STORABLE.search(text) or text.count(b"[") + text.count(b"{") > MAX_CALL_DEPTH:
        return _encode_call(msgspec.json.decode(call), line)
    return msgspec.Raw(text)  # a copy, which does not keep the line in memory


def _encode_call(call: Any, line: bytes) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(_storable_within(call, line, MAX_CALL_DEPTH)))


def _storable_within(value: Any, line: bytes, depth: int) -> Any:
    """Make the texts within a value storable.

    :raises UnreadableLine: the value has more than ``depth`` levels.
    """
    if not value:
        return value
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list | dict) and not depth:
        raise UnreadableLine(line)
    # Loops, not comprehensions, which take a second frame of Python's stack before Python 3.12 (PEP 709).
    if isinstance(value, list):
        items = []
        for one in value:
            items.append(_storable_within(one, line, depth - 1))
        return items
    if isinstance(value, dict):
        fields = {}
        for key, one in value.items():
            fields[storable(key)] = _storable_within(one, line, depth - 1)
        return fields
    return value
