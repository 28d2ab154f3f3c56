"""Supersession: stops a reply without viewers for which the next prompt of its conversation waits.

Only replies of plain clients are superseded: clients that can neither follow nor stop a reply, so that its text is lost
for them once their connection is closed. The process that generates the reply decides. It knows the viewers that it
serves, and asks the other processes for theirs.
"""

import asyncio
import logging
from collections import Counter
from uuid import UUID

from db import processes
from db.pool import Database
from errors import ServiceUnavailable
from relay.cluster.lease import ProcessLease
from relay.cluster.notifications import Notifier
from relay.generation.generation import Generation
from relay.generation.registry import GenerationRegistry
from relay.metrics import Metrics

log = logging.getLogger("chatterd.relay")

ANSWER_TIMEOUT = 0.5
"""Seconds within which other processes with viewers of a reply must answer. If one does not, its viewers see the reply
stopped, with all text so far."""


class ViewerCounts:
    """The number of viewers of each reply in this process.

    :param notifier: prompts that wait here for the end of a reply are woken when its last viewer leaves.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._counts: Counter[UUID] = Counter()
        self._notifier = notifier

    def __contains__(self, id: object) -> bool:
        return id in self._counts

    def add(self, id: UUID) -> None:
        """Count one more viewer of a reply."""
        self._counts[id] += 1

    def remove(self, id: UUID) -> None:
        """Undo :meth:`add`."""
        self._counts[id] -= 1
        if not self._counts[id]:
            del self._counts[id]
            self._notifier.wake(id)


class Supersession:
    """Requests that replies be superseded, decides on requests, and answers the questions of other processes."""

    def __init__(
        self,
        database: Database,
        notifier: Notifier,
        lease: ProcessLease,
        registry: GenerationRegistry,
        viewers: ViewerCounts,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._lease = lease
        self._registry = registry
        self._viewers = viewers
        self._metrics = metrics
        self._deciding: set[UUID] = set()

    async def request(self, id: UUID) -> None:
        """Ask the process that generates a reply to stop it if it may be superseded, and to notify us of its end.

        :raises ServiceUnavailable: the database is unavailable.
        """
        if self._registry.get(id) is not None:
            self.on_request(id)
            return
        async with self._database.acquire() as connection:
            await processes.notify(connection, f"supersede {id}")

    def on_request(self, id: UUID) -> None:
        """Decide on a request for a reply, if it is generated here."""
        generation = self._registry.get(id)
        if generation is None:
            return
        self._notifier.mark_awaited(id)
        if generation.plain_client and id not in self._viewers and id not in self._deciding:
            self._deciding.add(id)
            self._registry.spawn(self._decide(generation))

    async def _decide(self, generation: Generation) -> None:
        id = generation.reply.id
        try:
            if await self._has_viewers_elsewhere(id) or id in self._viewers or self._registry.get(id) is not generation:
                return
        finally:
            self._deciding.discard(id)
        log.info("Reply %s has no viewers and is stopped: the next prompt of its conversation waits.", id)
        self._metrics.replies_superseded += 1
        generation.stop()

    async def _has_viewers_elsewhere(self, id: UUID) -> bool:
        asked_at = asyncio.get_running_loop().time()
        async with self._database.acquire() as connection:
            if not await processes.ask_others(connection, self._lease.owner, f"viewers {id}"):
                return False
        await asyncio.sleep(ANSWER_TIMEOUT)
        return self._notifier.watched_since(id, asked_at)

    def on_viewers_question(self, id: UUID) -> None:
        """Answer the process that generates a reply, if the reply has viewers here."""
        if id in self._viewers and self._registry.get(id) is None:
            self._registry.spawn(self._answer(id))

    async def _answer(self, id: UUID) -> None:
        try:
            async with self._database.acquire() as connection:
                await processes.notify(connection, f"watch {id}")
        except ServiceUnavailable as error:
            log.info("The viewers of reply %s could not be reported: %s", id, error)
