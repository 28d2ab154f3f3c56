"""How this process is doing: sampled every two seconds, the last minutes kept, told to any number of watchers."""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import msgspec

from db.processes import Process
from relay.cluster.lease import ProcessLease
from relay.generation.registry import GenerationRegistry
from relay.metrics import Metrics
from relay.reporting import process_stats
from relay.reporting.health import HealthMonitor, State
from relay.reporting.loop_lag import LoopLagMonitor
from relay.reporting.problems import ProcessCondition, find_problems
from relay.reporting.snapshot import Measured, Snapshot, between, snapshot
from relay.service import ReplyService
from settings import Settings

log = logging.getLogger("chatterd.relay")

INTERVAL = 2.0
"""Seconds between two samples."""

KEPT = 300
"""Samples kept: ten minutes of them."""

MINUTE = 30
"""Samples in a minute."""

LOOK_INTERVAL = 3.0
"""Seconds between two looks at the database and Ollama, while somebody watches."""

LOOK_AGAIN_INTERVAL = 1.0
"""Seconds until the next look while one of them is away."""

LAG_SAMPLES = 5
"""Samples for which a late event loop is told."""

END_SECONDS = 1.0
"""Seconds at most for watchers to be sent away."""


class StatusSampler:
    """Takes samples. A watcher has seen the first so many of them, and asks for the rest.

    :ivar key: tells this process's samples from another's.
    :ivar count: samples so far.
    :ivar watchers: how many watch now.
    :ivar ended: no sample will follow.
    """

    def __init__(
        self,
        metrics: Metrics,
        settings: Settings,
        health: HealthMonitor,
        lease: ProcessLease,
        registry: GenerationRegistry,
        replies: ReplyService,
    ) -> None:
        self.key = secrets.token_hex(4)
        self.count = 0
        self.ended = False
        self._metrics = metrics
        self._settings = settings
        self._lease = lease
        self._registry = registry
        self._replies = replies
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._pulse = LoopLagMonitor(self._metrics.loop_lag)
        self._health = health
        self._kept: deque[bytes] = deque(maxlen=KEPT)
        self._snapshots: deque[Snapshot] = deque([self._snapshot()], maxlen=KEPT + 1)
        self._lags: deque[float] = deque(maxlen=LAG_SAMPLES)
        self._newest = b""
        self._sampled = asyncio.Event()
        self._watched = asyncio.Event()
        self._left = asyncio.Event()
        self.watchers = 0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to take samples."""
        loops = (self._pulse.run, self._keep_sampling, self._keep_looking)
        self._tasks = [asyncio.create_task(loop()) for loop in loops]

    async def end(self) -> None:
        """Take no more samples, and send the watchers away: they find another process, or this one again."""
        self.ended = True
        self._sampled.set()
        for task in self._tasks:
            task.cancel()
        if self.watchers:
            self._left.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await self._left.wait()

    # For watchers.

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block somebody watches, for whom the database and Ollama are looked at."""
        self.watchers += 1
        self._watched.set()
        try:
            yield
        finally:
            self.watchers -= 1
            if not self.watchers:
                self._watched.clear()
                self._left.set()

    def kept(self, seen: int) -> tuple[int, bytes]:
        """The metrics that are still kept of all samples but the first ``seen`` and the newest.

        :returns: the number of samples up to the last of these, and a JSON array.
        """
        missing = max(0, min(self.count - 1 - seen, len(self._kept) - 1))
        end = len(self._kept) - 1
        return self.count - 1, b"[%b]" % b",".join(list(self._kept)[end - missing : end] if missing else ())

    @property
    def newest(self) -> bytes:
        """The newest sample, with all that is known, as a JSON object."""
        return self._newest

    async def wait(self, seen: int) -> None:
        """Wait for a sample after the first ``seen``, or the end."""
        while self.count <= seen and not self.ended:
            await self._sampled.wait()

    # What goes on by itself.

    async def _keep_sampling(self) -> None:
        due = self._loop.time()
        while True:
            try:
                self._sample()
            except Exception:
                log.exception("A sample could not be taken; the next one may.")
            due = max(due + INTERVAL, self._loop.time())
            await asyncio.sleep(due - self._loop.time())

    async def _keep_looking(self) -> None:
        while True:
            await self._watched.wait()
            try:
                await self._health.look()
            except Exception:
                log.exception("How the database and Ollama are could not be seen; trying on.")
            await asyncio.sleep(LOOK_INTERVAL if self._health.well else LOOK_AGAIN_INTERVAL)

    def _sample(self) -> None:
        before = self._snapshots[-1]
        self._snapshots.append(self._snapshot())
        self._lags.append(self._pulse.take_worst())
        self._health.notice()
        sample: dict[str, Any] = {
            "time": round(time.time(), 1),
            "replies": len(self._registry),
            "viewers": self._metrics.viewers,
            "loop_lag": round(self._lags[-1], 6),
            "memory": process_stats.memory_bytes(),
            **between(before, self._snapshots[-1]),
        }
        self._kept.append(msgspec.json.encode(sample))
        self._newest = msgspec.json.encode({"sample": sample, **self._surroundings()})
        self.count += 1
        self._sampled.set()
        self._sampled = asyncio.Event()

    def _snapshot(self) -> Snapshot:
        return snapshot(self._metrics, self._loop.time(), process_stats.cpu_seconds(), self._registry.lines)

    def _since(self, samples: int) -> Measured:
        return between(self._snapshots[max(0, len(self._snapshots) - 1 - samples)], self._snapshots[-1])

    def _surroundings(self) -> dict[str, Any]:
        minute, metrics, health = self._since(MINUTE), self._metrics, self._health
        return {
            "process": short(self._lease.owner),
            "uptime": round(self._loop.time() - self._began, 1),
            "interval": INTERVAL,
            "minute": minute,
            "all": self._since(KEPT),
            "totals": {
                "lines": self._snapshots[-1].lines,
                "begun": metrics.replies_begun,
                "adopted": metrics.replies_adopted,
                "moved": metrics.replies_moved,
                "ended": metrics.replies_ended,
                "viewers_dropped": metrics.viewers_dropped,
            },
            "database": self._as_json(health.database),
            "ollama": self._as_json(health.ollama),
            "processes": health.processes and [_as_row(one) for one in health.processes],
            "troubles": [asdict(trouble) for trouble in find_problems(self._condition(minute))],
        }

    def _condition(self, minute: Measured) -> ProcessCondition:
        now, health = self._loop.time(), self._health
        return ProcessCondition(
            draining=self._replies.draining,
            streaming=len(self._registry),
            max_replies=self._settings.max_replies,
            database=health.database.name,
            database_seconds=now - health.database.since,
            ollama=health.ollama.name,
            ollama_seconds=now - health.ollama.since,
            lag=max(self._lags),
            minute=minute,
        )

    def _as_json(self, state: State) -> dict[str, Any]:
        return {"state": state.name, "seconds": round(self._loop.time() - state.since, 1), "took": state.took}


def _as_row(process: Process) -> dict[str, Any]:
    id = None if process.owner is None else short(process.owner)
    return {"id": id, "age": process.age, "replies": process.replies}


def short(owner: int) -> str:
    """A process's id, as far as a person needs it to tell processes apart."""
    return f"{owner:016x}"[:6]
