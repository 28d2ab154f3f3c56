"""Whether the database does what this process needs, with one line in the log when that ends and when it returns."""

import asyncio
import logging
from time import monotonic

from db.connection.reasons import Reason, reason_of
from logging_setup import describe

log = logging.getLogger("chatterd.db")

GRACE = 1.0
"""Seconds for which a lost connection is not logged: the attempt to open another one tells what is wrong, if any."""

REPEAT_INTERVAL = 5.0
"""Seconds after which another reason for the same outage is logged, or the same one again after the outage has passed
for a moment: what is checked meanwhile may not be what fails."""


class Availability:
    """Collects what the users of the database find: the pool, the lease and the journal, each by its name.

    The database is available while none of them reports a failure.
    """

    def __init__(self) -> None:
        self._failures: dict[str, Reason] = {}
        self._since: float | None = None
        self._description = ""
        self._logged: Reason | None = None
        self._logged_at = 0.0
        self._quiet: Reason | None = None
        self._quiet_until = 0.0
        self._log_timer: asyncio.TimerHandle | None = None
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
        self._description = describe(error)
        now = monotonic()
        if self._since is None:
            self._since = now
        if reason is self._quiet and now < self._quiet_until:
            return
        if self._logged is None:
            if reason is not Reason.CONNECTION_LOST:
                self._log("The database is unavailable (%s): %s")
            elif self._log_timer is None:
                delayed = "The database is unavailable (%s): %s"
                self._log_timer = asyncio.get_running_loop().call_later(GRACE, self._log, delayed)
        elif reason is not self._logged and now - self._logged_at > REPEAT_INTERVAL:
            self._log("The database is still unavailable (%s): %s")

    def _log(self, message: str) -> None:
        self._cancel_timer()
        if self.reason:
            self._logged, self._logged_at = self.reason, monotonic()
            log.warning(message, self.reason.value, self._description)

    def _cancel_timer(self) -> None:
        if self._log_timer:
            self._log_timer.cancel()
            self._log_timer = None

    def restored(self, name: str) -> None:
        """Report that the database works for a user."""
        last = self._failures.pop(name, None)
        if last is None or self._failures:
            return
        if self._since is not None:
            seconds = monotonic() - self._since
            if self._logged:
                log.info("The database is available again after %.1f s.", seconds)
                self._quiet, self._quiet_until = self._logged, monotonic() + REPEAT_INTERVAL
            elif last is not self._quiet or monotonic() >= self._quiet_until:
                log.info("The database was unavailable for %.1f s (%s): %s", seconds, last.value, self._description)
        self._cancel_timer()
        self._since = self._logged = None
        self._available.set()

    async def wait(self) -> None:
        """Wait until the database is available."""
        await self._available.wait()

    def close(self) -> None:
        """Log nothing any more."""
        self._cancel_timer()
