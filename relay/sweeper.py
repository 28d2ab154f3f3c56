"""What each process does every few seconds, whoever asks or not: a net under the notifier."""

import asyncio
import logging
import random

from db import reply_lines
from errors import ServiceUnavailable
from relay.failover import Failover
from relay.generation.generation import RelayContext
from relay.generation.registry import GenerationRegistry

log = logging.getLogger("chatterd.relay")

INTERVAL = 3.0
"""Seconds between two sweeps, give or take a fifth so that the processes do not sweep in step."""

WATCH_INTERVAL = 0.3
"""Seconds between two looks for dead processes while somebody waits for one."""

STOP_TIMEOUT = 1.0
"""Seconds at most for statements under way to be given up."""

PRUNE_BATCH = 5_000
"""Lines deleted in one statement."""

PRUNE_PAUSE = 0.1
"""Seconds between two such statements."""


class Sweeper:
    """Adopts orphans, looks after this process's replies, prunes the log, gives up on a database that stays away."""

    def __init__(self, relay: RelayContext, registry: GenerationRegistry, failover: Failover) -> None:
        self._registry = registry
        self._failover = failover
        self._journal = relay.journal
        self._notifier = relay.notifier
        self._database = relay.database
        self._settings = relay.settings
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Sweep once, which adopts what a predecessor left behind, and go on doing so."""
        await self._sweep()
        loops = (self._keep_sweeping, self._keep_watching, self._keep_pruning)
        self._tasks = [asyncio.create_task(loop()) for loop in loops]

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
            await self._sweep()

    async def _keep_watching(self) -> None:
        """While viewers here wait for other processes' replies, look more often whether those processes live."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            if self._notifier.has_waiters:
                try:
                    await self._failover.adopt_from_dead(owned=True)
                except ServiceUnavailable:
                    continue  # the viewers notice too, and how long to be patient is theirs to decide
                except Exception:
                    log.exception("Looking for dead processes failed; trying again.")

    async def _sweep(self) -> None:
        since = self._journal.unavailable_since
        if since is not None and asyncio.get_running_loop().time() - since > self._settings.db_retry_timeout:
            self._registry.fail_all("The reply could not be saved: the database cannot be reached.")
        try:
            await self._failover.adopt_from_dead(owned=False)
            await self._failover.reconcile_owned()
        except ServiceUnavailable as error:
            log.info("The sweep is put off: %s", error)
        except Exception:
            log.exception("The sweep failed; the next one tries again.")

    async def _keep_pruning(self) -> None:
        """Delete what is over age, a batch at a time; a large backlog keeps nobody waiting."""
        while True:
            try:
                async with self._database.acquire() as connection:
                    pruned = await reply_lines.prune(connection, self._settings.reply_log_retention, PRUNE_BATCH)
            except ServiceUnavailable:
                pruned = 0
            except Exception:
                log.exception("Pruning the log failed; trying again.")
                pruned = 0
            await asyncio.sleep(PRUNE_PAUSE if pruned else INTERVAL)

    async def stop(self) -> None:
        """Sweep no more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT)
