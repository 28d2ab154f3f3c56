"""Start the embedded model: the process of ``embedded/ollama.py``, supervised and restarted if it dies."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import cast

from embedded import llama
from embedded.smollm2 import NAMES

log = logging.getLogger("chatterd")

START_TIMEOUT = 60.0
"""Seconds for the model to load."""

STOP_TIMEOUT = 5.0
"""Seconds until the process is killed if it has not ended."""


RESTART_INTERVAL = 5.0
"""Seconds between two attempts to start a process that has died."""


class EmbeddedModel:
    """A small real model behind Ollama's API, on a free port of the loopback address.

    :param log_format: of its process: ``text`` or ``json``.
    """

    def __init__(self, log_format: str = "text") -> None:
        self._log_format = log_format
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    @staticmethod
    def installed() -> bool:
        """Return whether its packages are installed."""
        return llama.installed()

    def serves(self, model: str) -> bool:
        """Return whether it answers to a model's name."""
        return model.lower() in NAMES

    async def start(self) -> str:
        """Start it and return its URL.

        :raises OSError: it did not start within :data:`START_TIMEOUT`.
        """
        url = await self._spawn(port=0)
        self._watching = asyncio.create_task(self._watch(int(url.rpartition(":")[2])))
        return url

    async def _spawn(self, port: int) -> str:
        # A session of its own, so that Ctrl-C in a terminal reaches chatterd only, which stops the model last.
        # The kernel closes its stdin when chatterd dies, in whatever way, and then it ends too.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "embedded.ollama",
            f"--port={port}",
            "--until-stdin-closes",
            f"--log-format={self._log_format}",
            cwd=Path(__file__).parent.parent,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        stdout = cast(asyncio.StreamReader, self._process.stdout)
        try:
            line = await asyncio.wait_for(stdout.readline(), START_TIMEOUT)
        except TimeoutError:
            line = b""
        if not line:
            await self._end()
            raise OSError("The embedded model did not start; its own messages are above.")
        return line.decode().strip()

    async def _watch(self, port: int) -> None:
        while self._process is not None:
            status = await self._process.wait()
            log.error("The embedded model has died (status %d); starting it again.", status)
            while not await self._restarted(port):  # noqa: ASYNC110 - no event tells when it can
                await asyncio.sleep(RESTART_INTERVAL)
            log.info("The embedded model answers again.")

    async def _restarted(self, port: int) -> bool:
        try:
            await self._spawn(port)
        except OSError as error:
            log.error("%s", error)
            return False
        return True

    async def stop(self) -> None:
        """Stop it."""
        if self._watching:
            self._watching.cancel()
        await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()
