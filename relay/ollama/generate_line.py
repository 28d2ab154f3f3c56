"""Convert lines of Ollama's ``/api/generate`` to the form of ``/api/chat``. Pure.

A line of ``/api/generate`` (ollama ``api/types.go``, ``GenerateResponse``) has ``response``, and perhaps ``thinking``,
where one of ``/api/chat`` has ``message``. All other fields are the same.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import ujson

from relay.ollama import chat_line

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def as_chat_line(line: bytes) -> bytes:
    """Return the line in the form of ``/api/chat``; unchanged if it has no ``response``: an error, or unreadable.

    The other fields keep their bytes and their order; ``context`` (tokens that ``/api/generate`` could continue from)
    is removed.
    """
    try:
        return _convert(_decode(line), msgspec.json.encode, line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _convert_unusual(line)


def _convert_unusual(line: bytes) -> bytes:
    """Convert a line that msgspec cannot decode: one with a lone surrogate, or an unreadable one."""
    if chat_line.has_too_many_values(line):
        return chat_line.unreadable_line(line)
    try:
        fields = ujson.loads(line.decode())
    except (ValueError, RecursionError):
        return line
    return _convert(fields, _encode_ascii, line) if isinstance(fields, dict) else line


def _encode_ascii(value: object) -> bytes:
    return ujson.dumps(value, escape_forward_slashes=False).encode()


def _convert(fields: dict[str, Any], encode: Callable[[object], bytes], line: bytes) -> bytes:
    if "response" not in fields:
        return line
    message = {"role": "assistant", "content": fields["response"]}
    if "thinking" in fields:
        message["thinking"] = fields["thinking"]
    converted = {
        "message" if name == "response" else name: message if name == "response" else value
        for name, value in fields.items()
        if name not in ("thinking", "context")
    }
    return encode(converted)
