"""How the database and Ollama are, and which processes live: asked now and then while somebody watches."""

import asyncio
from dataclasses import dataclass
from time import monotonic

from db import processes
from db.pool import Database
from db.processes import Process
from errors import ServiceUnavailable, UpstreamUnreachable
from relay.cluster.lease import ProcessLease
from relay.generation.journal import Journal
from relay.ollama.client import OllamaClient

LOOK_TIMEOUT = 3.0
"""Seconds for the database to answer; Ollama gets as long."""

FRESH_FOR = 1.0
"""Seconds for which what was seen is as good as a look."""

STALE_AFTER = 15.0
"""Seconds after which what was seen is not known any more."""

OK, UNREACHABLE, UNKNOWN = "ok", "unreachable", "unknown"


@dataclass(slots=True)
class State:
    """How something is.

    :ivar name: ``ok``, ``unreachable``, ``unknown``, or ``answered <status>``.
    :ivar since: when it came to be so, by the event loop's clock.
    :ivar took: seconds that the last answer took; None if there was none.
    """

    name: str = UNKNOWN
    since: float = 0.0
    took: float | None = None

    def become(self, name: str, now: float, took: float | None = None) -> None:
        """Be so from now on, or still."""
        if name != self.name:
            self.name, self.since = name, now
        self.took = took


class HealthMonitor:
    """What was seen at the last look.

    :ivar processes: as the database knows them; None if that is not known.
    """

    def __init__(self, database: Database, ollama: OllamaClient, journal: Journal, lease: ProcessLease) -> None:
        self.database = State()
        self.ollama = State()
        self.processes: list[Process] | None = None
        self._database = database
        self._ollama = ollama
        self._journal = journal
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._looked = -STALE_AFTER
        self._look = asyncio.Lock()

    @property
    def well(self) -> bool:
        """Whether both answered."""
        return self.database.name == OK and self.ollama.name == OK

    async def look(self) -> None:
        """Ask both."""
        await asyncio.gather(self._look_at_database(), self._look_at_ollama())
        self._looked = self._loop.time()

    async def look_again(self) -> None:
        """Ask both unless that was done just now: for those who come by, however many they are."""
        async with self._look:
            if self._loop.time() - self._looked > FRESH_FOR:
                await self.look()
        self.notice()

    async def _look_at_database(self) -> None:
        name, took, found = UNREACHABLE, None, None
        if self._lease.connected:  # else it is known to be away, and the log says so already
            started = monotonic()
            try:
                async with asyncio.timeout(LOOK_TIMEOUT), self._database.acquire() as connection:
                    found = await processes.list_processes(connection)
                name, took = OK, monotonic() - started
            except (ServiceUnavailable, TimeoutError):
                pass
        self.database.become(name, self._loop.time(), took)
        self.processes = found

    async def _look_at_ollama(self) -> None:
        started = monotonic()
        try:
            name = await self._ollama.state()
            took = monotonic() - started
        except UpstreamUnreachable:
            name, took = UNREACHABLE, None
        self.ollama.become(name, self._loop.time(), took)

    def notice(self) -> None:
        """Without asking anybody: the database is away if this process's own sessions say so, and what was seen long
        ago is not known any more."""
        now = self._loop.time()
        away_since = self._journal.unavailable_since
        if away_since is not None or not self._lease.connected:
            self.database.become(UNREACHABLE, now if away_since is None else away_since)
            self.processes = None
        elif now - self._looked > STALE_AFTER:
            self.database.become(UNKNOWN, now)
            self.processes = None
        if now - self._looked > STALE_AFTER:
            self.ollama.become(UNKNOWN, now)
