"""Waiting that says so in the log and can be interrupted."""

import logging
import threading
import time
from collections.abc import Callable

from errors import StartupError

log = logging.getLogger("chatterd")

POLL_INTERVAL = 0.05
"""Seconds between two checks of a condition."""

FIRST_REPORT = 2.0
"""Seconds of waiting after which it is logged."""

REPORT_INTERVAL = 10.0
"""Seconds between two log lines about the same wait."""


def wait_until(
    holds: Callable[[], bool], what: str, interrupted: threading.Event, timeout: float = float("inf")
) -> bool:
    """Poll until ``holds()`` is true; return False if it is not within ``timeout`` seconds.

    :param what: what is waited for, for the log: a sentence without its full stop.
    :raises StartupError: ``interrupted`` was set.
    """
    started = time.monotonic()
    report = started + FIRST_REPORT
    while not holds():
        if (now := time.monotonic()) >= started + timeout:
            return False
        if now >= report:
            log.info("%s (for %.0f s).", what, now - started)
            report = now + REPORT_INTERVAL
        if interrupted.wait(POLL_INTERVAL):
            raise StartupError(f"interrupted. {what}")
    return True
