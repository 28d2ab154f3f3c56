"""Periodic tasks of each process: adopt orphans, reconcile its own replies, store what was learned, prune the log."""

import asyncio
import logging
import random
from time import monotonic

from db import reply_lines
from errors import ServiceUnavailable
from relay.components import RelayComponents
from relay.failover import Failover
from relay.generation.registry import GenerationRegistry

log = logging.getLogger("chatterd.relay")

INTERVAL = 3.0
"""Seconds between two sweeps, plus or minus a fifth, so that processes do not sweep simultaneously."""

WATCH_INTERVAL = 0.3
"""Seconds between two searches for dead processes while viewers here wait for replies of other processes."""

STOP_TIMEOUT = 1.0
"""Seconds at most for statements in progress to be cancelled."""

PRUNE_BATCH = 5_000
"""Lines deleted by one statement."""

PRUNE_PAUSE = 0.1
"""Seconds between two such statements while there are lines to delete."""


class Sweeper:
    """Runs the periodic tasks. It also ends all replies when the database was unavailable for too long."""

    def __init__(self, relay: RelayComponents, registry: GenerationRegistry, failover: Failover) -> None:
        self._registry = registry
        self._failover = failover
        self._journal = relay.journal
        self._notifier = relay.notifier
        self._database = relay.database
        self._tokens = relay.planner.tokens
        self._settings = relay.settings
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Sweep once, which adopts the replies of a predecessor, and start the periodic tasks."""
        await self._sweep()
        loops = (self._sweep_periodically, self._watch_owners, self._prune_periodically)
        self._tasks = [asyncio.create_task(loop()) for loop in loops]

    async def stop(self) -> None:
        """Stop the periodic tasks."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT)

    async def _sweep_periodically(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL * random.uniform(0.8, 1.2))  # noqa: S311 - not used for security
            await self._sweep()

    async def _sweep(self) -> None:
        since = self._journal.unavailable_since
        if since is not None and monotonic() - since > self._settings.db_retry_timeout:
            self._registry.fail_all("The reply could not be saved: the database is unavailable.")
        for reply in self._journal.failing_for(self._settings.db_retry_timeout):
            if generation := self._registry.get(reply.id):
                generation.fail("The reply could not be saved.")
        for step in (
            self._adopt,
            self._failover.reconcile_owned,
            self._tokens.store,
        ):  # each whether or not another one fails
            try:
                await step()
            except ServiceUnavailable:
                pass  # logged already; the next sweep tries again
            except Exception:
                log.exception("The sweep failed; the next one tries again.")

    async def _adopt(self) -> None:
        await self._failover.adopt_from_dead(always_search=True)

    async def _watch_owners(self) -> None:
        """Search for dead processes more often while viewers here wait for replies of other processes."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            if self._notifier.has_waiters:
                try:
                    await self._failover.adopt_from_dead()
                except ServiceUnavailable:
                    continue  # each viewer applies --db-retry-timeout itself
                except Exception:
                    log.exception("The search for dead processes failed; retrying.")

    async def _prune_periodically(self) -> None:
        """Delete logs of ended replies after ``--reply-log-retention``, in small batches: statements stay short."""
        while True:
            try:
                async with self._database.acquire() as connection:
                    pruned = await reply_lines.prune(connection, self._settings.reply_log_retention, PRUNE_BATCH)
            except ServiceUnavailable:
                pruned = 0
            except Exception:
                log.exception("Pruning the log failed; retrying.")
                pruned = 0
            await asyncio.sleep(PRUNE_PAUSE if pruned else INTERVAL)
