"""Answer POST /api/chat and POST /api/generate with completions of the embedded model."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tornado.iostream import StreamClosedError

from embedded.api_handler import JSON, ApiHandler, encode, now
from embedded.llama import ApiError, Completion, CompletionResult, Llama, chatml
from embedded.requests import (
    ChatRequest,
    CompletionRequest,
    GenerateRequest,
    reject_unsupported,
    sampling_options,
    window,
)
from embedded.smollm2 import Record
from embedded.truncation import Message, cut_to_half, without_oldest

log = logging.getLogger("chatterd.embedded")

NDJSON = "application/x-ndjson"


def final_metrics(end: CompletionResult, total_ns: int, load_ns: int) -> Record:
    """Return the metrics of a last line. Zeros are left out, as in Ollama."""
    figures = {
        "total_duration": total_ns,
        "load_duration": load_ns,
        "prompt_eval_count": end.prompt_tokens,
        "prompt_eval_duration": end.prompt_ns,
        "eval_count": end.tokens,
        "eval_duration": end.tokens_ns,
    }
    return {"done_reason": end.reason, **{name: figure for name, figure in figures.items() if figure}}


class CompletionHandler(ApiHandler):
    """Base of the endpoints that generate text.

    Like an Ollama of 2026 with `shift: false`, the model does not forget the beginning of its window while it writes:
    the answer ends where the window does.
    """

    def prepare(self) -> None:
        """Create the completion before the model is there, so that a client that disconnects can stop it."""
        self.began = time.monotonic_ns()
        self.load_ns = 0
        self.completion = Completion()

    def content(self, text: str) -> Record:
        """Return the part of a line that holds the model's text."""
        raise NotImplementedError

    def line(self, request: CompletionRequest, text: str, done: bool, **figures: Any) -> str:
        """Return one line of the answer."""
        head = {"model": request.model, "created_at": now()}
        return encode({**head, **self.content(text), "done": done, **figures})

    @asynccontextmanager
    async def loaded(self, request: CompletionRequest) -> AsyncIterator[Llama]:
        """Keep the model loaded within the block, with the request's window."""
        async with self.scheduler.loaded(window(request, self.scheduler.default), request.model) as llama:
            self.load_ns = time.monotonic_ns() - self.began
            yield llama

    async def answer_without_text(self, request: CompletionRequest) -> None:
        """Answer a request without any text: it asks to load the model or, with `keep_alive` 0, to unload it."""
        reason = "unload" if request.keep_alive in (0, "0", "0s") else "load"
        if reason == "load":
            async with self.loaded(request):
                pass
        self.set_header("Content-Type", JSON)
        self.finish(self.line(request, "", True, done_reason=reason))

    async def stream_completion(self, llama: Llama, request: CompletionRequest, prompt: str) -> None:
        """Answer with the completion of a prompt: streamed, or as one object.

        Unless the request forbids it, a prompt that fills the window is cut to half of it.
        """
        streaming = request.stream is not False
        pieces: list[str] = []
        flushed = False
        sampling = sampling_options(request)
        self.error_type = "application/json"
        self.set_header("Content-Type", NDJSON if streaming else JSON)
        llama.complete(self.completion, await _within_window(llama, request, prompt), sampling)
        try:
            async for part in self.completion:
                if isinstance(part, CompletionResult):
                    figures = final_metrics(part, time.monotonic_ns() - self.began, self.load_ns)
                    self.finish(self.line(request, "".join(pieces), True, **figures) + "\n" * streaming)
                elif streaming:
                    flushed = True
                    await self.flush_line(self.line(request, part, False))
                else:
                    pieces.append(part)
        except ApiError as error:
            if not flushed:
                raise
            self.write(encode({"error": str(error)}) + "\n")
        except StreamClosedError:
            log.info("the client disconnected")
        finally:
            # If a write fails first, `on_connection_close` is not called.
            self.completion.stop()

    async def flush_line(self, line: str) -> None:
        """Send one line now."""
        self.write(line + "\n")
        await self.flush()

    def on_connection_close(self) -> None:
        """Stop the model: closing the connection is how a client does that."""
        self.completion.stop()


async def _within_window(llama: Llama, request: CompletionRequest, prompt: str) -> str | list[int]:
    """Return the prompt or, if it fills the window and may be cut, the tokens of half a window."""
    if request.truncate is False or len(prompt.encode()) < llama.window:
        return prompt
    tokens = await asyncio.to_thread(llama.tokenize, prompt)
    return prompt if len(tokens) < llama.window else cut_to_half(tokens, llama.window)


class ChatHandler(CompletionHandler):
    """POST /api/chat."""

    def content(self, text: str) -> Record:
        """Return it as a message."""
        return {"message": {"role": "assistant", "content": text}}

    async def post(self) -> None:
        """Generate the conversation's next message; a last message of role `assistant` is continued."""
        request = self.body(ChatRequest)
        messages = request.messages or []
        reject_unsupported(request, tools=request.tools, vision=any(message.images for message in messages))
        if not messages:
            return await self.answer_without_text(request)
        conversation = [(message.role.lower(), message.content or "") for message in messages]
        async with self.loaded(request) as llama:
            prompt = await asyncio.to_thread(_render, llama, conversation, request.truncate is not False)
            if request.render_only:
                return self.answer_rendering(request, prompt)
            await self.stream_completion(llama, request, prompt)

    def answer_rendering(self, request: ChatRequest, prompt: str) -> None:
        """Answer with the prompt as text."""
        head = {"model": request.model, "created_at": now(), "message": {"role": "", "content": ""}}
        self.answer({**head, "done": False, "_debug_info": {"rendered_template": prompt}})


def _render(llama: Llama, conversation: Sequence[Message], truncate: bool) -> str:
    """Return the prompt of a conversation, if it may be truncated without the oldest messages that do not fit."""

    def fits(messages: Sequence[Message]) -> bool:
        prompt = chatml(messages)
        # A token has at least one byte.
        return len(prompt.encode()) <= llama.window or len(llama.tokenize(prompt)) <= llama.window

    return chatml(without_oldest(conversation, fits) if truncate else conversation)


class GenerateHandler(CompletionHandler):
    """POST /api/generate, without the deprecated `context`."""

    def content(self, text: str) -> Record:
        """Return it under `response`."""
        return {"response": text}

    async def post(self) -> None:
        """Answer the prompt or, with `raw`, continue it."""
        request = self.body(GenerateRequest)
        reject_unsupported(request, insert=request.suffix, template=request.template, vision=request.images)
        if not request.prompt:
            return await self.answer_without_text(request)
        if request.raw and request.system:
            raise ApiError(400, "raw mode does not support template, system, or context")
        async with self.loaded(request) as llama:
            await self.stream_completion(llama, request, _prompt(request, request.prompt))


def _prompt(request: GenerateRequest, text: str) -> str:
    system = [("system", request.system)] if request.system else []
    return text if request.raw else chatml([*system, ("user", text)])
