"""The scripted Ollama as a program of its own, so that a test can kill it with -9 and start it again.

``python -m tests.fakes.serve --port=N [--pause=SECONDS] [--mode=MODE] [--no-renderings]`` says ``w0 w1 w2 ...``. A
model whose name is a mode (``open``, ``closed``, ``echo``) is in that mode, whatever ``--mode`` says. Lines of JSON on
stdout tell its URL, then each request for text as ``{"asked": [time, prompt, words said before]}``, and each error of
its own as ``{"error": ...}``. SIGUSR1 lets its runner die; SIGTERM and the end of its stdin end it.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, get_args

from .ollama import Mode, Prompt, ScriptedOllama, Words

MODES: tuple[Mode, ...] = get_args(Mode)

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)

ERROR_INTERVAL = 0.5
"""Seconds within which an error is reported."""


class ReportedWords(Words):
    """The deterministic model, in the mode that the model's name says; reports each request for text."""

    def mode_for(self, request: Mapping[str, Any]) -> Mode:
        name = str(request["model"]).partition(":")[0]
        return next((mode for mode in MODES if mode == name), self.mode)

    def signature(self, prompt: Prompt) -> Mapping[str, Any]:
        report(asked=[time.monotonic(), prompt.question, len(prompt.given.split())])
        return {}


def report(**what: Any) -> None:
    """Write a line to stdout, in one piece."""
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(what).encode() + b"\n")


def serve(ollama: ScriptedOllama) -> None:
    """Wait for signals, and report errors, until it is to end."""
    reported = 0
    while True:
        received = signal.sigtimedwait(SIGNALS, ERROR_INTERVAL)
        for error in ollama.errors[reported:]:
            report(error=repr(error))
            reported += 1
        if received is not None and received.si_signo != signal.SIGUSR1:
            return
        if received is not None:
            ollama.kill_runner()


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.serve", description="The scripted Ollama.")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each word")
    parser.add_argument("--mode", choices=MODES, default="open", help="of models whose name is no mode")
    parser.add_argument("--no-renderings", action="store_true", help="as an old Ollama: it answers for real")
    options = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # in the threads, too
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    with ScriptedOllama(port=options.port) as ollama:
        ollama.default = (ReportedWords(pause=options.pause, mode=options.mode),)
        ollama.model.renders = not options.no_renderings
        report(url=ollama.url)
        serve(ollama)
    os._exit(0)  # the thread that reads stdin cannot be ended


if __name__ == "__main__":
    main()
