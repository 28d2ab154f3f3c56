"""What one line of ``/api/chat`` says, and the lines that chatterd says itself. Pure.

Shapes: ollama ``api/types.go``, ``ChatResponse``: ``model, created_at, message{role, content, thinking, tool_calls},
done``, and ``done_reason`` with metrics in the last one; or ``{"error": ...}``.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import ujson

from errors import UnreadableLine

TEXT_LIMIT = 4_096
"""Characters of an unreadable line or of an error that a viewer is shown."""

BACKSLASH = ord("\\")

ERROR_PREFIX = b'{"error":"'
"""How every line made by :func:`error_line` begins, and no line of a model: Ollama's lines begin with ``model``."""


class ChatLine(msgspec.Struct, gc=False):
    """One line, read. ``error`` is Ollama's text if the line is an error."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[Any] = []
    done: bool = False
    error: str | None = None


class _Message(msgspec.Struct, gc=False):
    content: str = ""
    thinking: str = ""
    tool_calls: list[Any] = []


class _Line(msgspec.Struct, gc=False):
    model: str
    message: _Message = msgspec.field(default_factory=_Message)
    done: bool = False
    error: msgspec.Raw = msgspec.Raw()


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Usage(msgspec.Struct, gc=False):
    prompt_eval_count: _Count = 0
    eval_count: _Count = 0


_decode = msgspec.json.Decoder(_Line).decode
_decode_usage = msgspec.json.Decoder(_Usage).decode


def read(line: bytes) -> ChatLine:
    """Read one line.

    NUL and lone surrogates, which PostgreSQL cannot hold, become U+FFFD in what is read; the line itself is untouched.

    :raises UnreadableLine: not JSON in UTF-8, not an object, or without a model.
    """
    try:
        if not line.isascii():
            line.decode()
        said = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_unusual(line)
    if said.error or not said.model:
        return _read_unusual(line)
    message = said.message
    if BACKSLASH not in line and not message.tool_calls and line.isascii():
        return ChatLine(message.content, message.thinking, [], said.done)
    return ChatLine(storable(message.content), storable(message.thinking), _calls(message.tool_calls, line), said.done)


def _read_unusual(line: bytes) -> ChatLine:
    """Read a line that is an error, has fields of unusual types, or holds half a surrogate pair."""
    try:
        said = ujson.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise UnreadableLine(line) from error
    if not isinstance(said, dict):
        raise UnreadableLine(line)
    if said.get("error") is not None:
        return ChatLine(error=error_text(said["error"]))
    if not isinstance(said.get("model"), str) or not said["model"]:
        raise UnreadableLine(line)
    message = said["message"] if isinstance(said.get("message"), dict) else {}
    tool_calls = message.get("tool_calls")
    return ChatLine(
        content=storable(_text(message.get("content"))),
        thinking=storable(_text(message.get("thinking"))),
        tool_calls=_calls(tool_calls, line) if isinstance(tool_calls, list) else [],
        done=said.get("done") is True,
    )


def tokens(last_line: bytes) -> tuple[int, int]:
    """How many tokens the model read and how many it generated, as a reply's last line says (ollama ``api/types.go``,
    ``Metrics``); 0 for what it does not say."""
    try:
        said = _decode_usage(last_line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0, 0
    return said.prompt_eval_count, said.eval_count


def error_text(error: object) -> str:
    """Say in text what an ``error`` field holds; other APIs behind the same address put an object there."""
    return storable(error if isinstance(error, str) else ujson.dumps(error, escape_forward_slashes=False))


def error_line(text: str) -> bytes:
    """Make the data of an error event: ``{"error": "<text>"}``, double quotes shown as single ones.

    :param text: cut to :data:`TEXT_LIMIT` characters.
    """
    if len(text) > TEXT_LIMIT:
        text = text[:TEXT_LIMIT] + " ..."
    return msgspec.json.encode({"error": storable(text).replace('"', "'")})


def is_error_line(line: bytes) -> bool:
    """Return whether a line of a reply is an error event's data, as :func:`error_line` makes it."""
    return line.startswith(ERROR_PREFIX)


def unreadable_line(line: bytes) -> bytes:
    """Make the data of the error event for a line that could not be read: its text inside ``error``."""
    return error_line(line[: 4 * TEXT_LIMIT].decode(errors="replace"))


def own_line(model: str, message: dict[str, Any], done_reason: str | None) -> bytes:
    """Make a line in Ollama's shape without Ollama's help.

    :param message: content, and what else the assistant's message has.
    :param done_reason: why the reply is done; None if it is not.
    """
    line: dict[str, Any] = {
        "model": model,
        "created_at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "message": {"role": "assistant", **message},
        "done": done_reason is not None,
    }
    if done_reason is not None:
        line["done_reason"] = done_reason
    return msgspec.json.encode(line)


def storable(text: str) -> str:
    """Replace by U+FFFD what PostgreSQL cannot hold in a text: NUL and lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _calls(tool_calls: list[Any], line: bytes) -> list[Any]:
    try:
        return [_storable_within(call) for call in tool_calls]
    except RecursionError as error:
        raise UnreadableLine(line) from error


def _storable_within(value: Any) -> Any:
    if not value:
        return value
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [_storable_within(one) for one in value]
    if isinstance(value, dict):
        return {storable(key): _storable_within(one) for key, one in value.items()}
    return value
