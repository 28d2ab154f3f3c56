"""What a request to Ollama says about the window, and what is added to it: the window that is set for all requests, the
limit of the answer, and that Ollama leaves nothing out. Pure.

A request whose options of the runner, or whose ``shift``, differ from those of the loaded model makes Ollama load the
model anew, and every cached prompt is lost (ollama ``server/sched.go``, ``needsReload``). So all requests for a reply
carry the same ones: the reply itself, the rendering of a prompt, a continuation as a raw prompt, and the load.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

Fields = Mapping[str, msgspec.Raw]
"""A request's fields, each as its JSON text."""

LOAD_FIELDS = ("model", "options", "shift")
"""Fields of a chat request that decide how the model is loaded. ``keep_alive`` is not among them: in a request without
messages, 0 unloads the model (ollama ``server/routes.go``, ``ChatHandler``)."""

MIN_WINDOW = 4
"""Tokens of the smallest window: Ollama makes it of every smaller number, 0 and negative ones too (ollama
``server/sched.go``, ``getRunner``)."""

MAX_WINDOW = 2_147_483_647
"""Tokens of the largest window that is taken for one: llama.cpp's count has 32 bits."""

WHEN_FULL = "context_full"
"""A field that is not for Ollama: ``cut``, or ``stop`` to end the reply with an error instead of cutting."""


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """What a client's request says about the window.

    :ivar num_ctx: the window it wants, in tokens; None if it does not say.
    :ivar num_predict: the longest reply that it wants, in tokens; negative: as long as possible; None if it does not
        say.
    :ivar truncate: whether Ollama itself may leave out what does not fit.
    :ivar stops: whether the reply is to end if something would have to be left out.
    """

    num_ctx: int | None = None
    num_predict: int | None = None
    truncate: bool = False
    stops: bool = False


def window_options(fields: Fields) -> WindowOptions:
    """Return what a request says about the window. What Ollama will refuse counts as not said."""
    return WindowOptions(
        num_ctx_of(fields),
        _whole_number((_options(fields) or {}).get("num_predict")),
        _decode(fields.get("truncate")) is True,
        _decode(fields.get(WHEN_FULL)) == "stop",
    )


def without_own_fields(fields: Fields) -> dict[str, msgspec.Raw]:
    """Return a request without the fields that are not for Ollama, with ``truncate: false`` unless it says otherwise:
    nothing is left out of a conversation unless chatterd knows it (ollama ``server/routes.go``, ``ChatHandler``)."""
    sent = {name: raw for name, raw in fields.items() if name != WHEN_FULL}
    if _decode(sent.get("truncate")) is None:  # Ollama takes null as true
        sent.pop("truncate", None)
    return {"truncate": msgspec.Raw(b"false"), **sent}


def with_answer_limit(fields: Fields, limit: int | None) -> dict[str, msgspec.Raw]:
    """Return a request whose reply ends where the window does: beyond it Ollama would forget the beginning of the
    conversation while it writes, and lose what it has cached.

    :param limit: tokens; None to add no limit. A smaller one of the client stays, and what Ollama will refuse.
    """
    options = _options(fields)
    if limit is None or options is None:
        return dict(fields)
    wanted = _whole_number(options.get("num_predict"))
    is_said = _decode(options.get("num_predict")) is not None
    # Negative values mean no limit (ollama api/types.go, DefaultOptions).
    if is_said and (wanted is None or 0 <= wanted <= limit):
        return dict(fields)
    return {**fields, "options": _encode({**options, "num_predict": _encode(limit)})}


def with_num_ctx(fields: Fields, num_ctx: int) -> dict[str, msgspec.Raw]:
    """Return a request's fields with ``options.num_ctx``, unless the request has one of its own.

    :param fields: of a request to ``/api/chat`` or ``/api/generate``.
    :param num_ctx: tokens of the window, ``--num-ctx``; 0: not set.
    :returns: the fields, as they are if ``options`` is no object: Ollama will report that.
    """
    options = _options(fields)
    if not num_ctx or options is None or _decode(options.get("num_ctx")) is not None:
        return dict(fields)
    return {**fields, "options": _encode({**options, "num_ctx": _encode(num_ctx)})}


def num_ctx_of(fields: Fields) -> int | None:
    """Return a request's ``options.num_ctx``, in tokens, as Ollama takes it; None if it has none, or no number."""
    value = _decode((_options(fields) or {}).get("num_ctx"))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(min(max(value, MIN_WINDOW), MAX_WINDOW))


def load_body(request: str, num_ctx: int) -> bytes:
    """Return a body for ``/api/chat`` that loads the model of a request, with its options, and generates nothing.

    :param request: the JSON object of a request for a reply.
    :param num_ctx: tokens of the window, ``--num-ctx``; 0: not set.
    :raises msgspec.MsgspecError: the request is not a JSON object.
    """
    fields = msgspec.json.decode(request, type=dict[str, msgspec.Raw])
    sent = {name: value for name, value in with_num_ctx(fields, num_ctx).items() if name in LOAD_FIELDS}
    return msgspec.json.encode({**sent, "messages": [], "stream": False})


def _options(fields: Fields) -> dict[str, msgspec.Raw] | None:
    """Return a request's options; None if they are no object."""
    try:
        return msgspec.json.decode(fields.get("options", b"null"), type=dict[str, msgspec.Raw] | None) or {}
    except msgspec.MsgspecError:
        return None


def _decode(raw: msgspec.Raw | None) -> object:
    """Return a value; None if there is none, the text itself if it is nested too deeply."""
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return raw


def _whole_number(raw: msgspec.Raw | None) -> int | None:
    """Return a number without its fraction, as Ollama takes 7.5, too (api/types.go, ``FromMap``); None for any other
    value, and for what no window can have."""
    value = _decode(raw)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_WINDOW:
        return None
    return int(value)


def _encode(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
