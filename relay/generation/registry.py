"""The replies that this process generates at the moment, and the tasks that do it."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

from errors import ServiceUnavailable
from relay.generation.at_once import ConcurrencyCounter
from relay.generation.generation import Generation
from relay.generation.journal import Journal
from relay.metrics import Metrics

log = logging.getLogger("chatterd.relay")


class GenerationRegistry:
    """Generations by their reply's id, from before the reply is recorded until it has ended or is another process's.

    :ivar at_once: how many of them there are for whom.
    """

    def __init__(self, journal: Journal, metrics: Metrics) -> None:
        self.at_once = ConcurrencyCounter()
        self._journal = journal
        self._metrics = metrics
        self._generations: dict[UUID, Generation] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._generations)

    @property
    def lines(self) -> int:
        """How many lines this process has let viewers see since it started."""
        running = sum(generation.reply.committed for generation in self._generations.values())
        return self._metrics.lines_settled + running

    def get(self, id: UUID) -> Generation | None:
        """The generation of a reply, if it is here."""
        return self._generations.get(id)

    def ids(self) -> list[UUID]:
        """The replies that are here."""
        return list(self._generations)

    def add(self, generation: Generation) -> None:
        """Make a generation known, so that whoever learns its reply's id from the database finds it here."""
        if generation.reply.id not in self._generations:
            self.at_once.enter(generation.reply.tenant, generation.address)
        self._generations[generation.reply.id] = generation

    def remove(self, id: UUID) -> None:
        """Forget a generation that was not started."""
        generation = self._generations.pop(id)
        self.at_once.leave(generation.reply.tenant, generation.address)

    def start(self, generation: Generation, body: bytes) -> None:
        """Generate in a task of the process, until the reply has ended or is let go.

        :param body: the request to Ollama.
        """
        self.add(generation)
        self._metrics.lines_settled -= generation.reply.committed
        self.spawn(self._generate(generation, body))

    async def _generate(self, generation: Generation, body: bytes) -> None:
        try:
            await generation.run(body)
        finally:
            self._journal.untrack(generation.reply)
            self.remove(generation.reply.id)
            self._metrics.lines_settled += generation.reply.committed
            if not generation.reply.ended:
                self._metrics.replies_moved += 1
                generation.reply.mark_lost()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for; what goes wrong in it is logged, not lost."""
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self, id: UUID) -> bool:
        """Stop a reply; False if it is not here."""
        generation = self.get(id)
        if generation is None:
            return False
        generation.stop()
        return True

    def abandon_all(self) -> None:
        """Generate no more, store nothing: the replies are other processes', or will be."""
        for generation in self._generations.values():
            generation.abandon()

    def fail_all(self, error: str) -> None:
        """End all replies, because they cannot be stored."""
        for generation in self._generations.values():
            generation.fail(error)

    async def wait(self, seconds: float) -> None:
        """Wait until all tasks have ended, but not longer."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except ServiceUnavailable as error:
        log.info("Put off until the database is back: %s", error)
    except Exception:
        log.exception("Something failed inside chatterd")
