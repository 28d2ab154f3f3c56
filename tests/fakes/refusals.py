"""How Ollama refuses a request before its model is asked: status and words as recorded."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from .lines import encode
from .runner import Model
from .script import Whole, failure

KINDS = {str: "string", list: "array", int: "number", float: "number", bool: "bool"}
"""JSON's types in Go's words (encoding/json, decode.go)."""

TYPES: Mapping[str, tuple[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p", "repeat_penalty"), ("float32", (int, float))),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), ("float32", (int, float))),
    **dict.fromkeys(("seed", "top_k", "num_predict", "num_ctx", "repeat_last_n"), ("integer", (int, float))),
    "stop": ("array", list),
}
"""Ollama's word for an option's type, and the types (api/types.go, FromMap). Unknown options are ignored."""

NO_SHIFT = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)


FIELDS: Mapping[str, tuple[type, ...]] = {
    "model": (str,),
    "messages": (list,),
    "options": (dict,),
    "tools": (list,),
    "stream": (bool,),
    "think": (bool, str),
    "keep_alive": (int, float, str),
    "truncate": (bool,),
    "shift": (bool,),
}
"""JSON's types of a request's fields (api/types.go, ChatRequest); null is a missing field."""

MESSAGE_FIELDS: Mapping[str, tuple[type, ...]] = {
    "role": (str,),
    "content": (str,),
    "thinking": (str,),
    "images": (list,),
    "tool_calls": (list,),
    "tool_name": (str,),
}
"""Those of a message's fields (api/types.go, Message)."""


def refuse_by_llama_server(message: str, kind: str = "invalid_request_error", **figures: int) -> Whole:
    """An error of llama-server, which is JSON in a string."""
    inner = encode({"error": {"code": 400, "message": message, "type": kind, **figures}}).decode()
    return Whole(400, encode({"error": inner}), "application/json")


def too_long(tokens: int, window: int) -> Whole:
    """The answer to a prompt that is not to be truncated and does not fit."""
    message = f"request ({tokens} tokens) exceeds the available context size ({window} tokens), try increasing it"
    return refuse_by_llama_server(message, "exceed_context_size_error", n_prompt_tokens=tokens, n_ctx=window)


def no_shift() -> Whole:
    """The answer to a prompt that does not fit, with ``shift`` false."""
    return Whole(400, encode({"error": NO_SHIFT}), "application/json")


def refusal(request: Any, model: Model) -> Whole | None:
    """Return why a request for text is refused; None if it is not."""
    if not isinstance(request, dict):
        return failure(400, f"json: cannot unmarshal {KINDS[type(request)]} into Go value of type api.ChatRequest")
    if field := _malformed(request):
        return failure(400, f"json: cannot unmarshal into Go struct field {field}")
    images = [image for message in request.get("messages") or [] for image in message.get("images") or []]
    if any(not _is_base64(image) for image in images):
        return failure(400, "illegal base64 data at input byte 0")
    return (
        _unknown(request, model) or _unable(request, model) or _mistyped(request) or _unusable(request, images, model)
    )


def _malformed(request: Mapping[str, Any]) -> str | None:
    """Return the field whose value has another type than Ollama's; None if there is none."""
    for field, types in FIELDS.items():
        if request.get(field) is not None and not isinstance(request[field], types):
            return f"ChatRequest.{field}"
    for message in request.get("messages") or []:
        if not isinstance(message, dict):
            return "ChatRequest.messages"
        for field, types in MESSAGE_FIELDS.items():
            if message.get(field) is not None and not isinstance(message[field], types):
                return f"ChatRequest.messages.{field}"
        if any(not isinstance(image, str) for image in message.get("images") or []):
            return "ChatRequest.messages.images"
    return None


def _unknown(request: Mapping[str, Any], model: Model) -> Whole | None:
    name = request.get("model")
    if not name:
        return failure(400, "model is required")
    if not re.fullmatch(r"[\w.\-/]+(:[\w.\-]+)?", name):
        return failure(400, "invalid model name")
    if not knows(model, name):
        return failure(404, f"model '{name}' not found")
    return None


def _unable(request: Mapping[str, Any], model: Model) -> Whole | None:
    name = request["model"]
    if request.get("think") and "thinking" not in model.capabilities:
        return failure(400, f'"{name}" does not support thinking')
    if request.get("tools") and "tools" not in model.capabilities:
        return failure(400, f"registry.ollama.ai/library/{full_name(name)} does not support tools")
    return None


def _mistyped(request: Mapping[str, Any]) -> Whole | None:
    for name, value in (request.get("options") or {}).items():
        word, kinds = TYPES.get(name, ("", object))
        if value is not None and (not isinstance(value, kinds) or (word and isinstance(value, bool))):
            return failure(500, f'option "{name}" must be of type {word}')
    return None


def _unusable(request: Mapping[str, Any], images: list[str], model: Model) -> Whole | None:
    if images and "vision" not in model.capabilities:
        return refuse_by_llama_server("Multimodal data provided, but model does not support multimodal requests.")
    form = request.get("format")
    if isinstance(form, dict) and form.get("type") == "nonsense":
        schema = encode(form).decode()
        reason = f"JSON schema conversion failed:\nUnrecognized schema: {schema}"
        return refuse_by_llama_server(f"Field 'json_schema': \"json_schema\": {reason}")
    return None


def knows(model: Model, name: str) -> bool:
    """Return whether there is a model of this name."""
    return model.known is None or full_name(name) in map(full_name, model.known)


def full_name(name: str) -> str:
    """Return a model's name with its tag."""
    return name if ":" in name else f"{name}:latest"


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
