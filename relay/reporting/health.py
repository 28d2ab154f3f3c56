"""The states of the database, of Ollama and of the other processes, checked on demand."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from db import processes
from db.connection.reasons import Reason
from db.pool import Database
from db.processes import Process
from errors import ServiceUnavailable
from relay.cluster.lease import ProcessLease
from relay.generation.journal import Journal
from relay.ollama import foreign_server
from relay.ollama.foreign_server import OllamaState
from relay.ollama.upstreams import Upstreams

DATABASE_TIMEOUT = 3.0
"""Seconds for the database to respond."""

OLLAMA_TIMEOUT = 3.0
"""Seconds for Ollama to respond; then it is reported as silent."""

MAX_AGE = 1.0
"""Seconds for which :meth:`HealthMonitor.check_if_outdated` uses the result of the previous check."""

UNKNOWN_AFTER = 15.0
"""Seconds after a check from which on the states are unknown."""

OK, UNREACHABLE, UNKNOWN = "ok", "unreachable", "unknown"


@dataclass(slots=True)
class ComponentState:
    """The state of the database or of Ollama.

    :ivar name: ``ok``, ``unreachable``, ``unknown``, or another one of :mod:`relay.ollama.foreign_server`.
    :ivar problem: see :class:`relay.ollama.foreign_server.OllamaState`.
    :ivar since: when this state began, by ``time.monotonic``.
    :ivar response_time: of the last check, in seconds; None without response.
    :ivar reason: why it is unreachable, in words; empty if unknown.
    """

    name: str = UNKNOWN
    since: float = 0.0
    response_time: float | None = None
    reason: str = ""
    problem: str = ""

    def update(
        self, name: str, now: float, response_time: float | None = None, reason: str = "", problem: str = ""
    ) -> None:
        """Set the state; ``since`` is kept if it is the same state as before."""
        self.reason = reason
        if name != self.name:
            self.name, self.since = name, now
        self.response_time = response_time
        self.problem = problem


class HealthMonitor:
    """Holds the states found by the last check.

    :ivar processes: all registered processes; None if unknown.
    """

    def __init__(self, database: Database, upstreams: Upstreams, journal: Journal, lease: ProcessLease) -> None:
        self.database = ComponentState()
        self.ollama = ComponentState()
        self.processes: list[Process] | None = None
        self._database = database
        self._upstreams = upstreams
        self._journal = journal
        self._lease = lease
        self._checked_at = -UNKNOWN_AFTER
        self._check_lock = asyncio.Lock()
        self._ping: asyncio.Future[tuple[Reason | None, OllamaState]] | None = None

    @property
    def healthy(self) -> bool:
        """Whether the database and Ollama, or its stand-in, responded."""
        return self.database.name == OK and self.ollama.name in (OK, foreign_server.STAND_IN)

    async def check(self) -> None:
        """Check the database and Ollama."""
        await asyncio.gather(self._check_database(), self._check_ollama())
        self._checked_at = monotonic()

    async def check_if_outdated(self) -> None:
        """Check unless there was a check in the last second, however many callers there are."""
        async with self._check_lock:
            if monotonic() - self._checked_at > MAX_AGE:
                await self.check()
        self.update_without_check()

    def update_without_check(self) -> None:
        """Update the states from what this process knows: its own sessions are lost, or the last check is too old."""
        now = monotonic()
        outdated = now - self._checked_at > UNKNOWN_AFTER
        if reason := self._unavailable_reason():
            self.database.update(UNREACHABLE, self._database.availability.since or now, reason=reason.value)
            self.processes = None
        elif outdated:
            self.database.update(UNKNOWN, now)
            self.processes = None
        if outdated:
            self.ollama.update(UNKNOWN, now)

    async def _check_database(self) -> None:
        response_time, found = None, None
        if self._lease.connected:  # else it is unreachable, which is logged already
            started = monotonic()
            with suppress(ServiceUnavailable, TimeoutError):
                async with asyncio.timeout(DATABASE_TIMEOUT), self._database.acquire() as connection:
                    found = await processes.list_processes(connection)
                response_time = monotonic() - started
        reason = self._unavailable_reason()
        if found is None or reason:
            self.database.update(UNREACHABLE, monotonic(), reason=reason.value if reason else "")
            self.processes = None
        else:
            self.database.update(OK, monotonic(), response_time)
            self.processes = found

    async def _check_ollama(self) -> None:
        started = monotonic()
        state = await self._upstreams.state(OLLAMA_TIMEOUT)
        now = monotonic()
        responded = state.name not in (foreign_server.UNREACHABLE, foreign_server.SILENT, foreign_server.STAND_IN)
        self.ollama.update(state.name, now, now - started if responded else None, problem=state.problem)

    def _unavailable_reason(self) -> Reason | None:
        """Return why no prompt can be answered, from what this process knows; None if one can."""
        reason = self._database.availability.reason
        if reason is None and not self._lease.connected:
            return Reason.CONNECTION_LOST
        return reason

    async def ping(self, seconds: float) -> tuple[Reason | None, OllamaState]:
        """Execute a statement and send Ollama a request now. Callers at the same time share them: anyone may ask.

        :param seconds: how long to wait for Ollama's response.
        :returns: why no prompt can be answered, None if one can; and Ollama's state.
        """
        if self._ping is None or self._ping.done():
            self._ping = asyncio.gather(self._ping_database(), self._upstreams.state(seconds))
        return await asyncio.shield(self._ping)

    async def _ping_database(self) -> Reason | None:
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT):
                await self._database.ping()
        except ServiceUnavailable:
            return self._unavailable_reason() or Reason.UNREACHABLE
        except TimeoutError:
            return self._unavailable_reason() or Reason.NO_RESPONSE
        return self._unavailable_reason()
