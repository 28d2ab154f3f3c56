"""What Ollama tells of its models: ``/api/tags``, ``/api/ps``, ``/api/show``."""

from collections.abc import Iterable, Mapping
from typing import Any

from .lines import CREATED_AT, go_json
from .refusals import full_name, knows
from .runner import Model, Runner
from .script import Whole, failure

DIGEST = "0" * 64
DETAILS: Mapping[str, Any] = {
    "parent_model": "",
    "format": "gguf",
    "family": "fake",
    "families": ["fake"],
    "parameter_size": "1K",
    "quantization_level": "F16",
}


def tags(models: Iterable[str | Mapping[str, Any]], model: Model) -> dict[str, Any]:
    """The installed models: names, or further fields of Ollama's list with a name among them."""
    return {"models": [_described(one, model) for one in models]}


def _described(one: str | Mapping[str, Any], model: Model) -> dict[str, Any]:
    if not isinstance(one, str):
        return _described(one["name"], model) | dict(one)
    return {
        "name": one,
        "model": one,
        "modified_at": CREATED_AT,
        "size": model.file_bytes,
        "digest": DIGEST,
        "details": {**DETAILS, "context_length": model.context_length, "embedding_length": 1},
        "capabilities": list(model.capabilities),
    }


def ps(runner: Runner) -> dict[str, Any]:
    """The loaded model, if one is loaded."""
    return {"models": [_loaded(*runner.loaded[:2], runner.model)] if runner.loaded else []}


def _loaded(name: str, window: int, model: Model) -> dict[str, Any]:
    return {
        "name": full_name(name),
        "model": full_name(name),
        "size": model.file_bytes + window * model.token_bytes,
        "digest": DIGEST,
        "details": DETAILS,
        "expires_at": CREATED_AT,
        "size_vram": 0,
        "context_length": window,
    }


def show(request: Any, model: Model) -> Whole:
    """The answer to ``/api/show``."""
    name = request.get("model") or request.get("name")
    if not name:
        return failure(400, "model is required")
    if not knows(model, name):
        return failure(404, f"model '{full_name(name)}' not found")
    return Whole(200, go_json(_shown(model)))


def _shown(model: Model) -> dict[str, Any]:
    return {
        **({"parameters": _parameters(model.parameters)} if model.parameters else {}),
        "template": model.template,
        **({"remote_model": "fake", "remote_host": model.remote_host} if model.remote_host else {}),
        "details": DETAILS,
        "model_info": {
            "general.architecture": "fake",
            "fake.context_length": model.context_length,
            "tokenizer.ggml.add_bos_token": bool(model.bos),
        },
        "capabilities": list(model.capabilities),
        "modified_at": CREATED_AT,
    }


def _parameters(parameters: Mapping[str, Any]) -> str:
    pairs = [(name, one) for name, value in parameters.items() for one in (value if _is_list(value) else [value])]
    return "\n".join(f"{name:<30} {_quoted(value)}" for name, value in pairs)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
