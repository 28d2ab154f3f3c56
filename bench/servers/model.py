"""The embedded model as the Ollama behind a server under test: it caches prompts as llama.cpp's server does."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchError
from bench.paths import PYTHON, ROOT

NAME = "smollm2:135m"

STOP_TIMEOUT = 15.0
"""Seconds until it must have exited after SIGTERM."""


@contextmanager
def embedded_model(window: int, folder: Path) -> Iterator[int]:
    """Start the model for the block, and return its port.

    :param window: in tokens.
    :param folder: for its log.
    :raises BenchError: it does not start.
    """
    command = [str(PYTHON), "-m", "embedded.ollama", f"--window={window}"]
    log = folder / "model.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)  # noqa: S603
    try:
        url = process.stdout.readline().strip() if process.stdout else ""
        if not url:
            last = log.read_text(errors="replace").splitlines()[-1:] or ["its log is empty"]
            raise BenchError(f"the embedded model does not start: {last[0]}")
        yield int(url.rpartition(":")[2])
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
