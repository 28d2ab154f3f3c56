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
from json_text import count_tokens, depths, has_refused_number, slices, without_refused_numbers

TEXT_LIMIT = 4_096
"""Maximum number of characters of an error's text, or of an unreadable line, that is shown to a viewer."""

MAX_CALL_DEPTH = 500
"""Levels of nesting in a tool call. How deep Python itself can descend differs between its versions."""

MAX_TOKENS = 100_000
"""Strings, commas and opening brackets in the tool calls of a line, or in a line with a lone surrogate."""

MAX_REPLACED = 10_000
"""Characters in the tool calls of a line that are replaced, see :func:`storable`."""

ERROR_PREFIX = b'{"error":"'
"""The first bytes of every line that :func:`error_line` makes, and of no line that :func:`read` accepts as a chat line.

A reply's log holds only lines of these two kinds, so the prefix alone tells an error event from a message.
"""


class ChatLine(msgspec.Struct, gc=False):
    """A decoded line.

    :ivar tool_calls: the JSON text of each call, its keys in their order.
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
    tool_calls: msgspec.Raw = msgspec.Raw()


class _Line(msgspec.Struct, gc=False):
    model: str
    message: _Message = msgspec.field(default_factory=_Message)
    done: bool = False
    thinking_restarted: bool = False
    error: msgspec.Raw = msgspec.Raw()


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Usage(msgspec.Struct, gc=False):
    """What the last line of a response says about its end, and its cost (ollama ``api/types.go``, ``ChatResponse``; its
    ``Metrics`` omit zeros).

    :ivar load_duration: nanoseconds.
    """

    prompt_eval_count: _Count = 0
    eval_count: _Count = 0
    load_duration: _Count = 0
    done_reason: Any = None


_decode = msgspec.json.Decoder(_Line).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_usage = msgspec.json.Decoder(Usage).decode


_REPLACED = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_ESCAPES = re.compile(
    rb"((?:[^\\]++|\\[^u]|\\u(?!0000|[dD][89a-fA-F])....|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)*+)(\\u....)?+", re.DOTALL
)
"""JSON text up to an escape of NUL or of half of a surrogate pair, and this escape; at the end without: linear."""


def read(line: bytes) -> ChatLine:
    """Decode one line.

    Content and thinking are as sent: they may contain NUL and halves of surrogate pairs (see :func:`storable`).

    :raises UnreadableLine: the line is not a JSON object in UTF-8, or has neither a model nor an error.
    """
    try:
        line.decode()  # msgspec does not check the encoding of fields that it skips
        fields = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_unusual(line)
    if fields.error or not fields.model:
        return _read_unusual(line)
    message = fields.message
    return ChatLine(
        content=message.content,
        thinking=message.thinking,
        tool_calls=_storable_calls(bytes(message.tool_calls), line) if message.tool_calls else [],
        done=fields.done,
        thinking_restarted=fields.thinking_restarted,
    )


def _read_unusual(line: bytes) -> ChatLine:
    """Decode a line that is an error, has fields of unexpected types, or contains a lone surrogate."""
    fields = _fields_of(line)
    error = _without_null(fields.get("error"))
    if error is not None:
        return ChatLine(error=_error_text(error))
    if is_error_line(line):  # "error" twice: first a string, later null
        raise UnreadableLine(line)
    if not _text(fields.get("model")):
        raise UnreadableLine(line)
    message = _members(fields.get("message"))
    return ChatLine(
        content=_text(message.get("content")),
        thinking=_text(message.get("thinking")),
        tool_calls=_storable_calls(_as_text(message.get("tool_calls")), line),
        done=_as_text(fields.get("done")) == b"true",
        thinking_restarted=_as_text(fields.get("thinking_restarted")) == b"true",
    )


def _fields_of(line: bytes) -> dict[str, Any]:
    """Return the fields of a line, each as ``msgspec.Raw``; decoded if the line contains a lone surrogate.

    :raises UnreadableLine: it is not a JSON object in UTF-8.
    """
    try:
        line.decode()
        return _decode_members(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if has_too_many_values(line):
            raise UnreadableLine(line) from None
    try:
        fields = ujson.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise UnreadableLine(line) from error
    if not isinstance(fields, dict):
        raise UnreadableLine(line)
    return fields


def has_too_many_values(line: bytes) -> bool:
    """Return whether a line may have so many values that to decode them all takes long."""
    return line.count(b",") + line.count(b"[") + line.count(b"{") > MAX_TOKENS


def _without_null(value: object) -> object:
    return None if value is None or _as_text(value) == b"null" else value


def _members(value: object) -> dict[str, Any]:
    if isinstance(value, msgspec.Raw):
        return _decode_members(value) if bytes(value).startswith(b"{") else {}
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    """Return the text of a JSON string, decoded or not; empty if it is another value."""
    if isinstance(value, msgspec.Raw):
        return _decode_text(value) if bytes(value).startswith(b'"') else ""
    return value if isinstance(value, str) else ""


def _as_text(value: object) -> bytes:
    """Return the JSON text of a value; empty if there is none."""
    if isinstance(value, msgspec.Raw):
        return bytes(value)
    return b"" if value is None else ujson.dumps(value, escape_forward_slashes=False).encode()


def _error_text(value: object) -> str:
    if isinstance(value, msgspec.Raw):
        text = bytes(value)
        return storable(_decode_text(value) if text.startswith(b'"') else text.decode())
    return error_text(value)


def usage(last_line: bytes) -> Usage:
    """Return the counts in the last line of a response; those that are missing or invalid are 0."""
    try:
        return _decode_usage(last_line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Usage()


def error_text(error: object) -> str:
    """Convert the value of an ``error`` field to text. Ollama sends a string; OpenAI-compatible servers an object."""
    return storable(error if isinstance(error, str) else ujson.dumps(error, escape_forward_slashes=False))


def error_line(text: str, code: str | None = None) -> bytes:
    """Encode an error as a line of a reply: ``{"error":"<text>"}``. Every error line is made here.

    Double quotes in the text become single quotes. The reference tutorial's server shows the escaped double quotes
    inside an error's text as single quotes, and existing clients display the text as it stands in the line.

    :param text: cut to :data:`TEXT_LIMIT` characters.
    :param code: added as a field of that name: what the error means to a program.
    """
    if len(text) > TEXT_LIMIT:
        text = text[:TEXT_LIMIT] + " ..."
    return msgspec.json.encode({"error": storable(text).replace('"', "'"), **({"code": code} if code else {})})


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


def _storable_calls(text: bytes, line: bytes) -> list[msgspec.Raw]:
    """Return the tool calls in a list of JSON, each as its text, in which PostgreSQL can store all strings.

    :param text: the value of ``tool_calls``; none are in another value than a list.
    Numbers that are not accepted (see :func:`json_text.is_number_accepted`) are null.

    :raises UnreadableLine: there are too many values, levels or characters to replace.
    """
    if not text.startswith(b"["):
        return []
    count = depth = 0
    has_refused = False
    for outline, _ in slices(text):
        count += count_tokens(outline)
        depth, greatest = depths(outline, depth)
        has_refused = has_refused or has_refused_number(outline)
        if count > MAX_TOKENS or greatest > MAX_CALL_DEPTH + 1:
            raise UnreadableLine(line)
    if has_refused:
        text = without_refused_numbers(text)
    if _REPLACED.search(text):
        text, replaced = _ESCAPES.subn(_replace, text, count=MAX_REPLACED)
        if replaced == MAX_REPLACED:
            raise UnreadableLine(line)
    return [call.copy() for call in _decode_list(text)]  # the originals keep the whole line in memory


def _replace(found: re.Match[bytes]) -> bytes:
    return found[1] + rb"\ufffd" if found[2] else found[1]
