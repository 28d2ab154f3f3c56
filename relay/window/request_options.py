"""The options of a request that decide how its model is loaded, and the window that is set for all requests. Pure.

A request whose options of the runner, or whose ``shift``, differ from those of the loaded model makes Ollama load the
model anew, and every cached prompt is lost (ollama ``server/sched.go``, ``needsReload``). So all requests for a reply
carry the same ones: the reply itself, the rendering of a prompt, a continuation as a raw prompt, and the load.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

RUNNER_OPTIONS = (
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    *("numa", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock"),  # of older versions
)
"""The options of the runner (ollama ``api/types.go``, ``Runner``). They are never sent apart from the other options: a
version of Ollama may have more of them."""

LOAD_FIELDS = ("model", "options", "shift")
"""Fields of a chat request that decide how the model is loaded. ``keep_alive`` is not among them: in a request without
messages, 0 unloads the model (ollama ``server/routes.go``, ``ChatHandler``)."""

MAX_WINDOW = 2_147_483_647
"""Tokens of the largest window that is taken for one: llama.cpp's count has 32 bits."""


def with_num_ctx(fields: Mapping[str, Any], num_ctx: int) -> dict[str, Any]:
    """Return a request's fields with ``options.num_ctx``, unless the request has one of its own.

    :param fields: of a request to ``/api/chat`` or ``/api/generate``; ``options`` as its JSON text (``msgspec.Raw``).
    :param num_ctx: tokens of the window, ``--num-ctx``; 0: not set.
    :returns: the fields, as they are if ``options`` is no object: Ollama will report that.
    """
    options = _options(fields)
    if not num_ctx or options is None or _decode(options.get("num_ctx")) is not None:
        return dict(fields)
    merged = {**options, "num_ctx": num_ctx}
    return {**fields, "options": msgspec.Raw(msgspec.json.encode(merged))}


def num_ctx_of(fields: Mapping[str, Any]) -> int | None:
    """Return a request's ``options.num_ctx``, in tokens; None if it has none that Ollama can use."""
    value = _decode((_options(fields) or {}).get("num_ctx"))
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MAX_WINDOW:
        return None
    return int(value)  # as Ollama, which takes 7.5, too (api/types.go, FromMap)


def load_body(request: str, num_ctx: int) -> bytes:
    """Return a body for ``/api/chat`` that loads the model of a request, with its options, and generates nothing.

    :param request: the JSON object of a request for a reply.
    :param num_ctx: tokens of the window, ``--num-ctx``; 0: not set.
    :raises msgspec.MsgspecError: the request is not a JSON object.
    """
    fields = msgspec.json.decode(request, type=dict[str, msgspec.Raw])
    sent = {name: value for name, value in with_num_ctx(fields, num_ctx).items() if name in LOAD_FIELDS}
    return msgspec.json.encode({**sent, "messages": [], "stream": False})


def _options(fields: Mapping[str, Any]) -> dict[str, msgspec.Raw] | None:
    """Return a request's options; None if they are no object."""
    raw = fields.get("options")
    if raw is None:
        return {}
    try:
        return msgspec.json.decode(raw, type=dict[str, msgspec.Raw] | None) or {}
    except msgspec.MsgspecError:
        return None


def _decode(raw: msgspec.Raw | None) -> object:
    """Return an option's value; None if there is none."""
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return raw
