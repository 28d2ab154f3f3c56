"""Chooses which Ollama serves a request: the one at ``OLLAMA_HOST``, or until that one answers, an embedded model."""

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import msgspec

from errors import ChatterdError
from relay.ollama.client import SHOW, OllamaClient
from relay.ollama.foreign_server import SILENT, STAND_IN, UNREACHABLE, OllamaState

log = logging.getLogger("chatterd")

Result = TypeVar("Result")

START_TIMEOUT = 3.0
"""Seconds for which the start of this process waits for Ollama's answer. A later answer is not missed."""

PROBE_INTERVAL = 1.0
"""Seconds between two requests to Ollama while the embedded model stands in."""

MODEL_TIMEOUT = 10.0
"""Seconds for Ollama to say whether it has a model."""


class StandIn(Protocol):
    """A small model behind Ollama's API that can be started on this machine (``embedded/model.py``)."""

    def serves(self, model: str) -> bool:
        """Return whether it answers to this model's name."""
        ...

    async def start(self) -> str:
        """Start it, if it does not run, and return its URL.

        :raises OSError: it does not start.
        """
        ...

    async def stop(self) -> None:
        """Stop it, if it runs."""


class Upstreams:
    """The Ollama that is configured, and a model that may stand in for it.

    The stand-in answers requests for its own model only; those for other models wait for Ollama. Once Ollama has
    answered it is used, and the stand-in does not come back: an Ollama that restarts is waited for, as ever, rather
    than have a conversation change its model for some seconds. Replies that run on the stand-in end on it.

    :param ollama: client of the configured Ollama.
    :param stand_in: None if no other model may answer.
    :ivar standing_in: whether the stand-in serves requests.
    """

    def __init__(self, ollama: OllamaClient, stand_in: StandIn | None = None) -> None:
        self.ollama = ollama
        self.standing_in = False
        self._stand_in = stand_in
        self._stand_in_client: OllamaClient | None = None
        self._stand_in_requests = 0
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> OllamaState:
        """Look for Ollama, let the stand-in take its place until it answers, and return what was found."""
        state = await self.ollama.state(START_TIMEOUT)
        if state.ok:
            log.info("Using Ollama at %s", self.ollama.url)
        elif await self._start_stand_in() is None:
            waiting = "" if state.problem else "; replies wait for it, up to --ollama-retry-timeout."
            log.warning("%s%s", _describe(state, self.ollama.url), waiting)
        else:
            self.standing_in = True
            log.info("%s", _describe(state, self.ollama.url))
            log.info("Until Ollama answers, the embedded SmolLM2-135M does: a toy, whose answers are often wrong.")
            log.info("For real models start Ollama, which is found within seconds, or set OLLAMA_HOST to its address.")
            self._spawn(self._wait_for_ollama(state))
        return state

    async def stop(self) -> None:
        """Stop the stand-in and what this object does in the background."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stop_stand_in()

    @property
    def listing(self) -> OllamaClient:
        """The client of the Ollama whose models are offered."""
        return self._stand_in_client if self.standing_in and self._stand_in_client else self.ollama

    async def state(self, seconds: float) -> OllamaState:
        """Return the state of the configured Ollama; ``STAND_IN`` while the stand-in replies in its place.

        :param seconds: how long to wait for its response.
        """
        return OllamaState(STAND_IN) if self.standing_in else await self.ollama.state(seconds)

    def acquire(self, model: str) -> OllamaClient:
        """Return the client for a request to a model. Call :meth:`release` when its response has ended."""
        if self.standing_in and self._stand_in and self._stand_in_client and self._stand_in.serves(model):
            self._stand_in_requests += 1
            return self._stand_in_client
        return self.ollama

    async def acquire_to_resume(self, model: str) -> OllamaClient:
        """Return the client that finishes a reply which another process has begun, as :meth:`acquire` does.

        A reply of the stand-in's model ends on the stand-in, which is started for it, unless Ollama has this model.
        """
        if self._stand_in is None or not self._stand_in.serves(model) or await self._has_model(model):
            return self.ollama
        log.info("A reply of %s goes on with the embedded model: Ollama does not have this model.", model)
        self._stand_in_requests += 1
        client = None
        try:
            # A start that is under way is not cancelled: another reply may wait for it, too.
            client = await asyncio.shield(self._spawn(self._start_stand_in()))
        finally:
            if client is None:
                self._end_stand_in_request()
        return client or self.ollama

    def release(self, client: OllamaClient) -> None:
        """End the use of a client. The stand-in ends with its last use, once Ollama answers."""
        if client is self._stand_in_client:
            self._end_stand_in_request()

    @contextmanager
    def serving(self, model: str) -> Iterator[OllamaClient]:
        """Yield the client for a request to a model, and release it."""
        client = self.acquire(model)
        try:
            yield client
        finally:
            self.release(client)

    async def _wait_for_ollama(self, state: OllamaState) -> None:
        while not (found := await self.ollama.state(quiet=True)).ok:
            if found != state:
                log.info("%s", _describe(found, self.ollama.url))
            state = found
            await asyncio.sleep(PROBE_INTERVAL)
        self.standing_in = False
        log.info("Ollama answers at %s: from now on it is used, and no longer the toy SmolLM2-135M.", self.ollama.url)
        await self._stop_unused_stand_in()

    async def _has_model(self, model: str) -> bool:
        if self.standing_in:
            return False
        try:
            status, _ = await self.ollama.post(SHOW, msgspec.json.encode({"model": model}), MODEL_TIMEOUT, "")
        except (ChatterdError, TimeoutError):
            return False
        return status == 200

    async def _start_stand_in(self) -> OllamaClient | None:
        if self._stand_in is None:
            return None
        async with self._changing:
            if self._stand_in_client is None:
                try:
                    self._stand_in_client = self.ollama.at(await self._stand_in.start())
                except OSError as error:
                    log.warning("%s", error)
            return self._stand_in_client

    def _end_stand_in_request(self) -> None:
        self._stand_in_requests -= 1
        if not self._stand_in_requests and not self.standing_in:
            self._spawn(self._stop_unused_stand_in())

    async def _stop_unused_stand_in(self) -> None:
        async with self._changing:
            if not self._stand_in_requests:
                await self._stop_stand_in()

    async def _stop_stand_in(self) -> None:
        client, self._stand_in_client = self._stand_in_client, None
        if client:
            client.close()
        if self._stand_in:
            await self._stand_in.stop()

    def _spawn(self, coroutine: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _describe(state: OllamaState, url: str) -> str:
    """Describe for the log why Ollama is not used."""
    if state.name == SILENT:
        return f"Ollama has not answered yet at {url}"
    if state.name == UNREACHABLE:
        return f"Ollama is unreachable at {url}" + (f": {state.problem}" if state.problem else "")
    return f"{state.problem} The address is {url}"
