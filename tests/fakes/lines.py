"""What Ollama's lines look like."""

import json
from collections.abc import Mapping
from typing import Any

CREATED_AT = "2026-08-01T12:00:00.123456789Z"
NANOSECONDS_PER_TOKEN = 11_000_000
NANOSECONDS_TO_LOAD = 545_005_416
"""To load the model, as recorded; some milliseconds if it is loaded."""


def line(content: str = "", *, message: Mapping[str, Any] | None = None, **more: Any) -> bytes:
    """One line of ``/api/chat``, without its end.

    :param message: further fields of the message: ``thinking``, ``tool_calls``.
    :param more: further fields of the line, or other values for ``model``, ``created_at`` and ``done``.
    """
    said = {"role": "assistant", "content": content, **(message or {})}
    return encode({"model": "fake", "created_at": CREATED_AT, "message": said, "done": False} | more)


def last_line(content: str = "", *, message: Mapping[str, Any] | None = None, **more: Any) -> bytes:
    """The line that ends an answer, with Ollama's numbers (times in nanoseconds)."""
    return line(content, message=message, **{**ending(prompt_tokens=10, tokens=5), **more})


def ndjson(*lines: bytes) -> bytes:
    """The lines as they stand in a body, each with its end."""
    return b"".join(one + b"\n" for one in lines)


def ending(prompt_tokens: int, tokens: int, reason: str = "stop", loaded_anew: bool = False) -> dict[str, Any]:
    """The fields by which a last line differs from the others; zeros are left out."""
    figures = {
        "total_duration": (prompt_tokens + tokens + 1) * NANOSECONDS_PER_TOKEN,
        "load_duration": NANOSECONDS_TO_LOAD if loaded_anew else NANOSECONDS_PER_TOKEN,
        "prompt_eval_count": prompt_tokens,
        "prompt_eval_duration": prompt_tokens * NANOSECONDS_PER_TOKEN,
        "eval_count": tokens,
        "eval_duration": tokens * NANOSECONDS_PER_TOKEN,
    }
    return {"done": True, "done_reason": reason, **{name: figure for name, figure in figures.items() if figure}}


def speak(request: Mapping[str, Any], text: str, thinking: str = "", **more: Any) -> bytes:
    """A line in the shape of the API that was asked: chat has messages, generate a prompt."""
    thought = {"thinking": thinking} if thinking else {}
    head = {"model": request["model"], "created_at": CREATED_AT}
    if "messages" in request:
        return go_json({**head, "message": {"role": "assistant", "content": text, **thought}, "done": False, **more})
    return go_json({**head, "response": text, **thought, "done": False, **more})


def encode(value: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def go_json(value: Any) -> bytes:
    """Compact JSON as Go writes it: some characters are escaped that JSON would allow (encoding/json, HTMLEscape)."""
    text = encode(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()
