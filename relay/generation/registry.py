"""The replies that this process generates now, their tasks, and how many there are per tenant and per address."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from errors import ServiceUnavailable
from relay.generation.attempt import OllamaCall
from relay.generation.generation import Generation
from relay.generation.journal import Journal
from relay.metrics import Metrics

log = logging.getLogger("chatterd.relay")


class ConcurrencyCounter:
    """Counts the replies that are generated now.

    :ivar tenants: number per tenant; a tenant without replies has no entry.
    :ivar addresses: number per client address, likewise; adopted replies have no address.
    """

    def __init__(self) -> None:
        self.tenants: Counter[str] = Counter()
        self.addresses: Counter[str] = Counter()

    def increment(self, tenant: str, address: str) -> None:
        """Count one more reply.

        :param address: empty to count by tenant only.
        """
        self.tenants[tenant] += 1
        if address:
            self.addresses[address] += 1

    def decrement(self, tenant: str, address: str) -> None:
        """Undo :meth:`increment`."""
        _decrement(self.tenants, tenant)
        if address:
            _decrement(self.addresses, address)

    @contextmanager
    def counted(self, tenant: str, address: str) -> Iterator[None]:
        """Count one more reply within the block."""
        self.increment(tenant, address)
        try:
            yield
        finally:
            self.decrement(tenant, address)


def _decrement(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


class GenerationRegistry:
    """Generations by reply id, from before the reply is recorded until it has ended or is lost.

    :ivar concurrency: how many there are per tenant and address.
    :param on_ended: called with a generation that has ended here, in whatever way.
    """

    def __init__(
        self, journal: Journal, metrics: Metrics, on_ended: Callable[[Generation], object] = lambda generation: None
    ) -> None:
        self.concurrency = ConcurrencyCounter()
        self._journal = journal
        self._metrics = metrics
        self._on_ended = on_ended
        self._generations: dict[UUID, Generation] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._generations)

    @property
    def lines(self) -> int:
        """Number of lines that this process has committed since it started."""
        current = sum(generation.reply.committed for generation in self._generations.values())
        return self._metrics.past_lines + current

    def get(self, id: UUID) -> Generation | None:
        """Return the generation of a reply, if this process generates it."""
        return self._generations.get(id)

    def ids(self) -> list[UUID]:
        """Return the ids of all replies generated here."""
        return list(self._generations)

    def add(self, generation: Generation) -> None:
        """Add a generation before it is started: its reply can be found here as soon as the database knows it."""
        if generation.reply.id not in self._generations:
            self.concurrency.increment(generation.reply.tenant, generation.address)
        self._generations[generation.reply.id] = generation

    def remove(self, id: UUID) -> None:
        """Remove a generation that was not started or has ended."""
        generation = self._generations.pop(id)
        self.concurrency.decrement(generation.reply.tenant, generation.address)

    def start(self, generation: Generation, call: OllamaCall | None) -> None:
        """Run a generation in a task until its reply has ended or is lost.

        :param call: see :meth:`Generation.run`.
        """
        self.add(generation)
        self._metrics.past_lines -= generation.reply.committed  # committed by the process that it was adopted from
        self.spawn(self._run(generation, call))

    async def _run(self, generation: Generation, call: OllamaCall | None) -> None:
        try:
            await generation.run(call)
        finally:
            self._journal.untrack(generation.reply)
            self.remove(generation.reply.id)
            self._metrics.past_lines += generation.reply.committed
            if not generation.reply.ended:
                self._metrics.replies_handed_over += 1
                generation.reply.mark_lost()
            self._on_ended(generation)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a task of its own and log its errors."""
        task = asyncio.create_task(_log_errors(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self, id: UUID) -> bool:
        """Stop a reply.

        :returns: False if this process does not generate it.
        """
        generation = self.get(id)
        if generation is None:
            return False
        generation.stop()
        return True

    def abandon_all(self) -> None:
        """Stop generating and store nothing: other processes own the replies, or will adopt them."""
        for generation in self._generations.values():
            generation.abandon()

    def fail_all(self, error: str) -> None:
        """End all replies because they cannot be stored."""
        for generation in self._generations.values():
            generation.fail(error)

    async def wait(self, seconds: float) -> None:
        """Wait for all tasks to end, at most ``seconds``."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)


async def _log_errors(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        await coroutine
    except ServiceUnavailable:
        pass  # logged already; a sweep makes up for it
    except Exception:
        log.exception("A background task failed.")
