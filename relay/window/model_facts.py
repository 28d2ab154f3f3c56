"""What Ollama says of a model: how it is loaded (``/api/ps``), and what it is (``/api/show``, ``/api/tags``).

Written from ollama ``server/routes.go`` and from recordings of a real Ollama (``tests/fakes/recordings.jsonl``). What
cannot be read, of an older version or of something else at Ollama's address, counts as not said.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from relay.ollama.client import SHOW, OllamaClient
from relay.window.request_options import MAX_WINDOW

TIMEOUT = 5.0
"""Seconds until a question fails. Ollama answers these in milliseconds, also while it loads models or generates."""

_REGISTRY, _LIBRARY, _TAG = "registry.ollama.ai/", "library/", "latest"
"""The parts of a model's name that may be left out (ollama ``types/model/name.go``, ``DefaultName``)."""

_PARAMETER = re.compile(r"^(num_ctx|num_predict)\s+(\d{1,10})\s*$", re.MULTILINE)
"""A number in the text of a model's parameters; texts among them are quoted, line breaks too."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model as it is loaded.

    :ivar window: tokens that it holds; None before Ollama 0.10, and while it is being loaded.
    :ivar memory_bytes: of weights, cache and buffers, on processors and graphics cards together.
    """

    window: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model as it is installed.

    :ivar trained: tokens of the longest window that it was trained for.
    :ivar num_ctx: tokens of the window that its Modelfile asks for; None if it does not.
    :ivar num_predict: tokens of the longest reply that its Modelfile asks for; None if it does not.
    :ivar remote: whether it runs in the cloud. It is never loaded then, and always has its longest window (ollama
        ``docs/context-length.mdx``).
    """

    trained: int | None = None
    num_ctx: int | None = None
    num_predict: int | None = None
    remote: bool = False


async def find_loaded(ollama: OllamaClient, model: str, conversation_key: str = "") -> LoadedModel | None:
    """Ask how a model is loaded.

    :param conversation_key: see :meth:`relay.ollama.client.OllamaClient.stream`.
    :returns: None if it is not, or this cannot be known.
    :raises UpstreamUnreachable: Ollama does not answer.
    """
    response = await ollama.get("/api/ps", TIMEOUT, quiet=True, conversation_key=conversation_key)
    return read_loaded(response.body, model) if response.code == 200 else None


async def describe(ollama: OllamaClient, model: str, conversation_key: str = "") -> tuple[int, ModelDescription]:
    """Ask what a model is.

    :returns: the status, 404 for an unknown model (or an address that is not Ollama's), and what is said of it.
    :raises UpstreamUnreachable: there is no connection.
    :raises UpstreamDisconnected: the response is not complete.
    :raises TimeoutError: it is not complete in time.
    """
    status, body = await ollama.post(SHOW, msgspec.json.encode({"model": model}), TIMEOUT, conversation_key)
    return status, read_description(body) if status == 200 else ModelDescription()


async def find_file_bytes(ollama: OllamaClient, model: str) -> int | None:
    """Ask for the size of a model's files.

    :returns: None if it is not installed, or this cannot be known.
    :raises UpstreamUnreachable: Ollama does not answer.
    """
    response = await ollama.get("/api/tags", TIMEOUT, quiet=True)
    return read_file_bytes(response.body, model) if response.code == 200 else None


def full_name(name: str) -> str:
    """Return a model's name in the form in which two names of one model are equal: Ollama compares without case.

    >>> full_name("registry.ollama.ai/library/Llama3.2")
    'llama3.2:latest'
    """
    name = name.strip().casefold().removeprefix(_REGISTRY).removeprefix(_LIBRARY)
    return name if ":" in name.rpartition("/")[2] else f"{name}:{_TAG}"


def read_loaded(body: bytes, model: str) -> LoadedModel | None:
    """Read what ``/api/ps`` says of a model."""
    listed = _find(body, model)
    return LoadedModel(window(listed.context_length), _positive(listed.size)) if listed else None


def read_file_bytes(body: bytes, model: str) -> int | None:
    """Read the size of a model's files from ``/api/tags``."""
    listed = _find(body, model)
    return _positive(listed.size) if listed else None


def read_description(body: bytes) -> ModelDescription:
    """Read what ``/api/show`` says."""
    try:
        shown = _decode_shown(body)
    except _UNREADABLE:
        return ModelDescription()
    trained = shown.model_info.get(f"{shown.model_info.get('general.architecture')}.context_length")
    asked = {name: window(int(number)) for name, number in _PARAMETER.findall(shown.parameters)}
    return ModelDescription(
        window(trained), asked.get("num_ctx"), asked.get("num_predict"), remote=bool(shown.remote_host)
    )


def window(value: object) -> int | None:
    """Return a number of tokens; None if it is none that a window can have."""
    number = _positive(value)
    return number if number and number <= MAX_WINDOW else None


def bytes_per_token(loaded: LoadedModel, file_bytes: int | None) -> int | None:
    """Return about how much memory a token of the window takes: what a loaded model has beyond its files, by token.

    That is the cache, and buffers of which a part does not grow with the window: a little too much, for small windows.
    """
    if loaded.window is None or loaded.memory_bytes is None or file_bytes is None:
        return None
    more = loaded.memory_bytes - file_bytes
    return round(more / loaded.window) if more > 0 else None


class _Listed(msgspec.Struct):
    name: str = ""
    model: str = ""
    size: object = None
    context_length: object = None


class _List(msgspec.Struct):
    models: list[_Listed]


class _Shown(msgspec.Struct):
    model_info: dict[str, object] = {}
    parameters: str = ""
    remote_host: str = ""


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_decode_list = msgspec.json.Decoder(_List).decode
_decode_shown = msgspec.json.Decoder(_Shown).decode


def _find(body: bytes, model: str) -> _Listed | None:
    try:
        listed: Iterable[_Listed] = _decode_list(body).models
    except _UNREADABLE:
        return None
    wanted = full_name(model)
    return next((one for one in listed if wanted in (full_name(one.name), full_name(one.model))), None)


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
