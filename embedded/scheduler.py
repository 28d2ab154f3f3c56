"""Load the model with the window that a request wants, as Ollama's scheduler does (server/sched.go)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from embedded.llama import ApiError, Llama
from logging_setup import describe

log = logging.getLogger("chatterd.embedded")


class Scheduler:
    """The loaded model. It has one window at a time.

    A request for another window waits until the requests before it have been answered; then the model is loaded anew,
    and what it had cached is lost. Later requests wait behind it.

    :param load: loads the model with a window; blocks.
    :param default: the window, in tokens, of requests that name none.
    :ivar window: the window of the loaded model; 0 if it is not loaded.
    :ivar name: the model's name in the newest request.
    """

    def __init__(self, load: Callable[[int], Llama], default: int, name: str) -> None:
        self.default = default
        self.window = 0
        self.name = name
        self._load = load
        self._llama: Llama | None = None
        self._turn = asyncio.Lock()
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def loaded(self, window: int, name: str) -> AsyncIterator[Llama]:
        """Keep the model loaded with a window within the block, under the name of the request.

        :raises ApiError: 500, it could not be loaded.
        """
        async with self._turn:
            llama = await self._with_window(window)
            self.name = name
            self._requests += 1
            self._idle.clear()
        try:
            yield llama
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    def close(self) -> None:
        """Stop all completions. Blocks for a token or a batch of a prompt."""
        if self._llama:
            self._llama.close()

    async def _with_window(self, window: int) -> Llama:
        if self._llama and window == self.window:
            return self._llama
        await self._idle.wait()
        previous, self._llama, self.window = self._llama, None, 0
        if previous:
            await asyncio.to_thread(previous.unload)
            previous = None
        try:
            self._llama = await asyncio.to_thread(self._load, window)
        except RuntimeError as error:  # how xllamacpp translates llama.cpp's C++ exceptions
            log.error("the model could not be loaded: %s", describe(error))
            raise ApiError(500, f"the model could not be loaded: {error}") from error
        self.window = window
        log.info("model loaded with a window of %d tokens", window)
        return self._llama
