"""Measures the event loop's lag: the delay of timers because this process or its machine is busy."""

import asyncio
from time import monotonic

from relay.metrics import Histogram

PROBE_INTERVAL = 0.1
"""Seconds between two measurements. A longer blocking is detected, though not in full length."""


class LoopLagMonitor:
    """Measures the lag periodically.

    :param histogram: counts each measured lag, in seconds.
    """

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._maximum = 0.0

    async def run(self) -> None:
        """Measure the event loop's lag until cancelled."""
        while True:
            due = monotonic() + PROBE_INTERVAL
            await asyncio.sleep(PROBE_INTERVAL)
            lag = max(0.0, monotonic() - due)
            self._histogram.observe(lag)
            self._maximum = max(self._maximum, lag)

    def take_maximum(self) -> float:
        """Return the maximum lag since the previous call, in seconds."""
        maximum, self._maximum = self._maximum, 0.0
        return maximum
