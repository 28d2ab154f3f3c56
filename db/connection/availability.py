"""Whether the database does what this process needs, with one line in the log when that ends and when it returns."""

import asyncio
import logging
from time import monotonic

from db.connection.reasons import Reason, reason_of
from logging_setup import describe

log = logging.getLogger("chatterd.db")

REPEAT_INTERVAL = 5.0
"""Seconds after which another reason for the same outage is logged."""


class Availability:
    """Collects what the users of the database find: the pool, the lease and the journal, each by its name.

    The database is available while none of them reports a failure.
    """

    def __init__(self) -> None:
        self._failures: dict[str, Reason] = {}
        self._since: float | None = None
        self._logged: Reason | None = None
        self._logged_at = 0.0
        self._available = asyncio.Event()
        self._available.set()

    @property
    def reason(self) -> Reason | None:
        """Why the database is unavailable, as reported last; None while it is available."""
        told = [reason for reason in self._failures.values() if reason is not Reason.CONNECTING]
        return told[-1] if told else next(iter(self._failures.values()), None)

    @property
    def since(self) -> float | None:
        """When the database became unavailable, by ``time.monotonic``; None while it is available."""
        return self._since

    def failure(self, name: str) -> Reason | None:
        """Return what a user reported last, unless it has recovered since."""
        return self._failures.get(name)

    def expect(self, name: str) -> None:
        """Count the database as unavailable, without a word in the log, until this user has reported."""
        self._failures[name] = Reason.CONNECTING
        self._available.clear()

    def failed(self, name: str, error: BaseException, reason: Reason | None = None) -> None:
        """Report that the database failed a user.

        :param reason: instead of the reason that ``error`` tells.
        """
        reason = reason or reason_of(error)
        self._failures.pop(name, None)
        self._failures[name] = reason
        self._available.clear()
        now = monotonic()
        if self._since is None:
            self._since = now
            self._log(now, reason, "The database is unavailable (%s): %s", error)
        elif reason is not self._logged and now - self._logged_at > REPEAT_INTERVAL:
            self._log(now, reason, "The database is still unavailable (%s): %s", error)

    def _log(self, now: float, reason: Reason, message: str, error: BaseException) -> None:
        self._logged, self._logged_at = reason, now
        log.warning(message, reason.value, describe(error))

    def restored(self, name: str) -> None:
        """Report that the database works for a user."""
        if self._failures.pop(name, None) is None or self._failures:
            return
        if self._since is not None:
            log.info("The database is available again after %.1f s.", monotonic() - self._since)
        self._since = self._logged = None
        self._available.set()

    async def wait(self) -> None:
        """Wait until the database is available."""
        await self._available.wait()
