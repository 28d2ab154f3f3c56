"""The event loop's pulse: how late it comes to what is due, because this process or its machine has too much to do."""

import asyncio
from time import monotonic

from relay.metrics import Histogram

PROBE_INTERVAL = 0.1
"""Seconds between two looks at the clock; what holds the loop up for longer is noticed, though not in full."""


class LoopLagMonitor:
    """Feels it for as long as the process runs.

    :param lag: is given each beat's lateness, in seconds.
    """

    def __init__(self, lag: Histogram) -> None:
        self._lag = lag
        self._worst = 0.0

    async def run(self) -> None:
        """Look at the clock again and again."""
        while True:
            due = monotonic() + PROBE_INTERVAL
            await asyncio.sleep(PROBE_INTERVAL)
            late = max(0.0, monotonic() - due)
            self._lag.observe(late)
            self._worst = max(self._worst, late)

    def take_worst(self) -> float:
        """The worst lateness since this was last asked, in seconds."""
        worst, self._worst = self._worst, 0.0
        return worst
