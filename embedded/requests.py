"""Parse the request bodies of Ollama's API, and translate their options into llama.cpp's."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import msgspec.structs

from embedded.llama import ApiError
from embedded.smollm2 import FULL_NAME, REPLY_TOKENS, TRAINED_WINDOW

WINDOW = 4096
"""Tokens in the window if neither the request nor the command line names a number; Ollama's own default where there is
no large graphics card."""

MIN_WINDOW = 4
"""Ollama's smallest window, in tokens (server/sched.go)."""


class Message(msgspec.Struct):
    """One message of a conversation."""

    role: str
    content: str | None = None
    images: list[str] | None = None


class Options(msgspec.Struct):
    """Ollama's options and defaults (api/types.go, DefaultOptions). Unknown options are ignored, as in Ollama.

    Other than Ollama's are temperature and top_p, which are those of SmolLM2's model card, and num_predict. Ollama
    takes such values from a Modelfile.
    """

    temperature: float = 0.2
    seed: int = -1
    num_predict: int = REPLY_TOKENS
    num_ctx: int = WINDOW
    stop: list[str] = []
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


TYPES: Mapping[Any, str] = {float: "float32", int: "integer"}
"""Ollama's words for the types of options (api/types.go, FromMap); the others are arrays."""


class ModelRequest(msgspec.Struct):
    """The fields of every request about a model; `name` is the deprecated form of `model`."""

    model: str = ""
    name: str = ""


class CompletionRequest(ModelRequest):
    """The common fields of /api/chat and /api/generate."""

    stream: bool | None = None
    options: dict[str, Any] | None = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    truncate: bool | None = None
    keep_alive: int | float | str | None = None


class ChatRequest(CompletionRequest):
    """The body of POST /api/chat."""

    messages: list[Message] | None = None
    tools: list[Any] | None = None
    render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")


class GenerateRequest(CompletionRequest):
    """The body of POST /api/generate."""

    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
    raw: bool | None = None
    images: list[str] | None = None


AnyNamed = TypeVar("AnyNamed", bound=ModelRequest)


def sampling_options(request: CompletionRequest) -> dict[str, Any]:
    """Return the request's options under llama.cpp's names.

    :raises ApiError: 400, an unknown format; 500, an option has the wrong type.
    """
    options: dict[str, Any] = msgspec.to_builtins(msgspec.convert(given_options(request), Options))
    limit = options.pop("num_predict")
    del options["num_ctx"]
    # llama.cpp: a seed has 32 bits, all ones for a random one; -1 is no limit; repeat_last_n is allocated unchecked.
    options["seed"] &= 0xFFFFFFFF
    options["n_predict"] = limit if limit > 0 else -1
    options["repeat_last_n"] = max(-1, min(options["repeat_last_n"], TRAINED_WINDOW))
    return {**options, **schema(request.format)}


def window(request: CompletionRequest, default: int) -> int:
    """Return the number of tokens in the request's window: its `num_ctx`, up to what the model was trained for.

    :raises ApiError: 500, an option has the wrong type.
    """
    return bounded(int(given_options(request).get("num_ctx", 0)) or default)


def bounded(window: int) -> int:
    """Return a window as the model can be loaded with it."""
    return max(MIN_WINDOW, min(window, TRAINED_WINDOW))


def given_options(request: CompletionRequest) -> dict[str, Any]:
    """Return the request's options without those that are null.

    :raises ApiError: 500, as in Ollama, an option has the wrong type.
    """
    given = {name: value for name, value in (request.options or {}).items() if value is not None}
    for field in msgspec.structs.fields(Options):
        if field.name in given:
            try:
                msgspec.convert(given[field.name], field.type)
            except msgspec.ValidationError as error:
                kind = TYPES.get(field.type, "array")
                raise ApiError(500, f'option "{field.name}" must be of type {kind}') from error
    return given


def schema(wanted: str | dict[str, Any] | None) -> dict[str, Any]:
    """Return the option that constrains llama.cpp to `format`: "json", or a JSON schema.

    :raises ApiError: 400, another format.
    """
    match wanted:
        case None | "":
            return {}
        case "json":
            return {"json_schema": {"type": "object"}}
        case dict():
            return {"json_schema": wanted}
    raise ApiError(400, f'invalid format: "{wanted}"; expected "json" or a valid JSON Schema object')


def reject_unsupported(request: CompletionRequest, **wanted: object) -> None:
    """Reject a request for an ability that this model lacks.

    :param wanted: by the name of each ability, what the request asks of it.
    :raises ApiError: 400, for the first of them.
    """
    if request.think:
        raise ApiError(400, f'"{request.model}" does not support thinking')
    for ability, asked in wanted.items():
        if asked:
            raise ApiError(400, f"{FULL_NAME} does not support {ability}")
