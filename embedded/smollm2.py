"""Descriptions of the embedded model, SmolLM2-135M-Instruct, for Ollama's API: names, details and size."""

from datetime import UTC, datetime, timedelta
from typing import Any

from embedded.llama import BEGINNING, SLOTS, SYSTEM, Weights

Record = dict[str, Any]
"""A JSON object."""

MODEL = "smollm2:135m"
NAMES = {MODEL, "smollm2", "smollm2:latest"}
"""Names that requests may use, in upper or lower case."""
FULL_NAME = f"registry.ollama.ai/library/{MODEL}"
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "134.52M",
    "quantization_level": "Q4_1",
}
TRAINED_WINDOW = 8192
"""Tokens in the largest window: what the model was trained for."""
INFO = {
    "general.architecture": "llama",
    "general.basename": "SmolLM2",
    "general.parameter_count": 134515008,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.block_count": 30,
    "llama.context_length": TRAINED_WINDOW,
    "llama.embedding_length": 576,
    "tokenizer.ggml.add_bos_token": False,
}
"""Some of the .gguf's own metadata."""
TOKEN_BYTES = 30 * 3 * (576 // 9) * 2 * 2
"""Memory of one token in a window: blocks x heads of keys and values x numbers in a head x (key, value) x 2 bytes."""

REPLY_TOKENS = 256
"""Tokens of an answer if the request names no limit: 5 to 15 s on two cores. A small model that does not end by itself
repeats itself; more of it helps no reader, who can ask to continue."""

LENGTHS = {"context_length": TRAINED_WINDOW, "embedding_length": INFO["llama.embedding_length"]}
CAPABILITIES = ["completion"]
PARAMETERS = f"""\
num_predict                    {REPLY_TOKENS}
temperature                    0.2
top_p                          0.9"""
"""The options that differ from Ollama's defaults, in the form of `/api/show`."""
TEMPLATE = f"""{BEGINNING}{{{{- range $i, $_ := .Messages }}}}{{{{- $last := eq (len (slice $.Messages $i)) 1 }}}}
{{{{- if and (eq $i 0) (ne .Role "system") }}}}<|im_start|>system
{SYSTEM}<|im_end|>
{{{{ end }}}}<|im_start|>{{{{ .Role }}}}
{{{{ .Content }}}}{{{{ if not (and $last (eq .Role "assistant")) }}}}<|im_end|>
{{{{ end }}}}
{{{{- if and $last (ne .Role "assistant") }}}}<|im_start|>assistant
{{{{ end }}}}{{{{- end }}}}"""
"""What `chatml` does, in Ollama's language."""


def tags_response(weights: Weights) -> Record:
    """Return the answer to GET /api/tags: the installed models.

    Beyond Ollama's fields it has ``stand_in``, which tells the chat page that this model only stands in for others.
    """
    listed = _identity(weights) | {"details": {**DETAILS, **LENGTHS}, "capabilities": CAPABILITIES}
    return {"models": [{**listed, "modified_at": _modified(weights), "stand_in": True}]}


def ps_response(weights: Weights, name: str, window: int) -> Record:
    """Return the answer to GET /api/ps: the loaded models. This one stays loaded.

    `size` is the memory of the weights and of the windows.
    """
    if not window:
        return {"models": []}
    never = (datetime.now(UTC) + timedelta(days=365)).isoformat()
    tagged = name if ":" in name else f"{name}:latest"
    loaded = {
        **_identity(weights),
        "name": tagged,
        "model": tagged,
        "size": weights.size + SLOTS * window * TOKEN_BYTES,
    }
    return {"models": [{**loaded, "expires_at": never, "size_vram": 0, "context_length": window}]}


def show_response(weights: Weights) -> Record:
    """Return the answer to POST /api/show: the model's details."""
    return {
        "license": "Apache-2.0",
        "modelfile": f"FROM {weights.path}\n",
        "parameters": PARAMETERS,
        "template": TEMPLATE,
        "details": DETAILS,
        "model_info": INFO,
        "capabilities": CAPABILITIES,
        "modified_at": _modified(weights),
    }


def _identity(weights: Weights) -> Record:
    return {"name": MODEL, "model": MODEL, "size": weights.size, "digest": weights.sha256, "details": DETAILS}


def _modified(weights: Weights) -> str:
    # The time of the package's installation.
    return datetime.fromtimestamp(weights.path.stat().st_mtime, UTC).isoformat()
