"""What a request to Ollama says about the window: read from the client's, and added to what is sent. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from relay.window.request_options import num_ctx_of

Fields = Mapping[str, msgspec.Raw]
"""A request's fields, each as its JSON text."""

WHEN_FULL = "context_full"
"""A field that is not for Ollama: ``cut``, or ``stop`` to end the reply with an error instead of cutting."""


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """What a client's request says about the window.

    :ivar num_ctx: the window it wants, in tokens; None if it does not say.
    :ivar num_predict: the longest reply that it wants, in tokens; None if it does not say, or as long as possible.
    :ivar truncate: whether Ollama itself may leave out what does not fit.
    :ivar stops: whether the reply is to end if something would have to be left out.
    """

    num_ctx: int | None = None
    num_predict: int | None = None
    truncate: bool = False
    stops: bool = False


def window_options(fields: Fields) -> WindowOptions:
    """Return what a request says about the window. What Ollama will refuse counts as not said."""
    options = _object(fields.get("options"))
    return WindowOptions(
        num_ctx_of(fields),
        _positive(options.get("num_predict")),
        _decode(fields.get("truncate")) is True,
        _decode(fields.get(WHEN_FULL)) == "stop",
    )


def without_own_fields(fields: Fields) -> dict[str, msgspec.Raw]:
    """Return a request without the fields that are not for Ollama, with ``truncate: false`` unless it says otherwise:
    nothing is left out of a conversation unless chatterd knows it (ollama ``server/routes.go``, ``ChatHandler``)."""
    return {"truncate": msgspec.Raw(b"false"), **{name: raw for name, raw in fields.items() if name != WHEN_FULL}}


def with_answer_limit(fields: Fields, limit: int | None) -> dict[str, msgspec.Raw]:
    """Return a request whose reply ends where the window does: beyond it Ollama would forget the beginning of the
    conversation while it writes, and lose what it has cached.

    :param limit: tokens; None to add no limit. A smaller one of the client stays.
    """
    given = fields.get("options")
    options = _object(given)
    wanted = _decode(options.get("num_predict"))
    # Ollama rejects an option of another type; negative values mean no limit (ollama api/types.go, DefaultOptions).
    is_number = wanted is None or (isinstance(wanted, int | float) and not isinstance(wanted, bool))
    if limit is None or not is_number or (wanted is not None and 0 <= wanted <= limit):
        return dict(fields)
    if given is not None and not bytes(given).startswith(b"{") and bytes(given) != b"null":
        return dict(fields)
    changed = {**options, "num_predict": msgspec.Raw(b"%d" % limit)}
    return {**fields, "options": msgspec.Raw(msgspec.json.encode(changed))}


def _decode(raw: msgspec.Raw | None) -> Any:
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except msgspec.MsgspecError:
        return None


def _object(raw: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(raw or b"{}", type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return {}


def _positive(raw: msgspec.Raw | None) -> int | None:
    value = _decode(raw)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 2**31:
        return None
    return int(value)
