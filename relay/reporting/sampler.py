"""Samples the metrics every two seconds and keeps ten minutes of samples, for any number of watchers."""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import msgspec

from relay.generation.registry import GenerationRegistry
from relay.metrics import Metrics
from relay.reporting import process_stats
from relay.reporting.health import HealthMonitor
from relay.reporting.loop_lag import LoopLagMonitor
from relay.reporting.snapshot import Measurements, Snapshot, measure_between, take_snapshot
from relay.reporting.status_document import StatusDocument

log = logging.getLogger("chatterd.relay")

INTERVAL = 2.0
"""Seconds between two samples."""

MAX_SAMPLES = 300
"""Samples kept: ten minutes."""

SAMPLES_PER_MINUTE = 30

CHECK_INTERVAL = 3.0
"""Seconds between two checks of the database and Ollama while there are watchers."""

RECHECK_INTERVAL = 1.0
"""Seconds until the next check while one of them is not healthy."""

LAG_SAMPLES = 5
"""Samples for which an event loop lag is reported."""

STOP_TIMEOUT = 1.0
"""Seconds at most for the watchers to leave."""


class StatusSampler:
    """Takes samples. Watchers count them: they wait for samples after those that they have seen.

    :ivar key: random id of this sampler; a watcher that reconnects to another process starts anew.
    :ivar count: number of samples taken.
    :ivar watchers: number of watchers.
    :ivar ended: no more samples will be taken.
    """

    def __init__(
        self, metrics: Metrics, health: HealthMonitor, registry: GenerationRegistry, document: StatusDocument
    ) -> None:
        self.key = secrets.token_hex(4)
        self.count = 0
        self.watchers = 0
        self.ended = False
        self._metrics = metrics
        self._health = health
        self._registry = registry
        self._document = document
        self._lag_monitor = LoopLagMonitor(metrics.loop_lag)
        self._samples: deque[bytes] = deque(maxlen=MAX_SAMPLES)
        self._snapshots: deque[Snapshot] = deque([self._take_snapshot()], maxlen=MAX_SAMPLES + 1)
        self._lags: deque[float] = deque(maxlen=LAG_SAMPLES)
        self._newest = b""
        self._sampled = asyncio.Event()
        self._has_watchers = asyncio.Event()
        self._last_watcher_left = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start taking samples."""
        loops = (self._lag_monitor.run, self._sample_periodically, self._check_while_watched)
        self._tasks = [asyncio.create_task(loop()) for loop in loops]

    async def end(self) -> None:
        """Stop taking samples and end the watchers' streams; they reconnect, to another process or a successor."""
        self.ended = True
        self._sampled.set()
        for task in self._tasks:
            task.cancel()
        if self.watchers:
            self._last_watcher_left.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT):
                    await self._last_watcher_left.wait()

    # For watchers.

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count a watcher within the block; the database and Ollama are checked while there are any."""
        self.watchers += 1
        self._has_watchers.set()
        try:
            yield
        finally:
            self.watchers -= 1
            if not self.watchers:
                self._has_watchers.clear()
                self._last_watcher_left.set()

    def kept(self, seen: int) -> tuple[int, list[bytes]]:
        """Return the samples kept, without the first ``seen`` samples and the newest one.

        :returns: the number of samples up to the last of these, and each of them in JSON.
        """
        missed = max(0, min(self.count - 1 - seen, len(self._samples) - 1))
        end = len(self._samples) - 1
        return self.count - 1, list(self._samples)[end - missed : end] if missed else []

    @property
    def newest(self) -> bytes:
        """The newest sample and the state of the process, see :class:`StatusDocument`."""
        return self._newest

    async def wait(self, seen: int) -> None:
        """Wait for a sample after the first ``seen``, or the end."""
        while self.count <= seen and not self.ended:
            await self._sampled.wait()

    # Background tasks.

    async def _sample_periodically(self) -> None:
        due = monotonic()
        while True:
            try:
                self._sample()
            except Exception:
                log.exception("A sample failed; the next one is taken as planned.")
            due = max(due + INTERVAL, monotonic())
            await asyncio.sleep(due - monotonic())

    def _sample(self) -> None:
        self._snapshots.append(self._take_snapshot())
        self._lags.append(self._lag_monitor.take_maximum())
        self._health.update_without_check()
        sample: dict[str, Any] = {
            "time": round(time.time(), 1),
            "replies": len(self._registry),
            "viewers": self._metrics.viewers,
            "loop_lag": round(self._lags[-1], 6),
            "memory": process_stats.memory_bytes(),
            **self._measure(1),
        }
        self._samples.append(msgspec.json.encode(sample))
        self._newest = self._document.build(
            sample, INTERVAL, self._measure(SAMPLES_PER_MINUTE), self._measure(MAX_SAMPLES), max(self._lags)
        )
        self.count += 1
        self._sampled.set()
        self._sampled = asyncio.Event()

    def _take_snapshot(self) -> Snapshot:
        return take_snapshot(self._metrics, monotonic(), process_stats.cpu_seconds(), self._registry.lines)

    def _measure(self, intervals: int) -> Measurements:
        """Measure the last intervals between samples, or as many as there are."""
        return measure_between(self._snapshots[max(0, len(self._snapshots) - 1 - intervals)], self._snapshots[-1])

    async def _check_while_watched(self) -> None:
        while True:
            await self._has_watchers.wait()
            try:
                await self._health.check()
            except Exception:
                log.exception("The check of the database and Ollama failed; retrying.")
            await asyncio.sleep(CHECK_INTERVAL if self._health.healthy else RECHECK_INTERVAL)
