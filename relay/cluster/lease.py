"""The lease that marks this process as alive, and the removal of dead processes.

The protocol, with a diagram of each failure, is described in docs/architecture.md.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable

import asyncpg

from db import processes
from db.connection.reasons import UNAVAILABLE_ERRORS
from db.pool import Database
from errors import ServiceUnavailable
from logging_setup import describe

log = logging.getLogger("chatterd.relay")

RETRY_INTERVAL = 0.25
"""Seconds between two attempts to register again after the session was lost."""

UNEXPECTED_ERROR_PAUSE = 5.0
"""Seconds until the next attempt after an error other than an unavailable database."""

REAP_INTERVAL = 0.2
"""Seconds between two searches for dead processes, independent of the number of viewers that ask for one."""

UNREGISTER_TIMEOUT = 1.0
"""Seconds at most to unregister."""

LEASE = "lease"
"""The name of the lease among the users of the database."""

KEEPALIVE = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
"""PostgreSQL detects within seconds that a whole machine is gone, and releases the locks of its sessions."""


class ProcessLease:
    """Holds this process's advisory lock in a dedicated session, and listens for notifications in it.

    :ivar owner: random id of this process, a positive bigint. It changes when the process was declared dead.
    :ivar registered: whether this process can own replies: it has a row in ``processes`` as far as it knows.
    :ivar connected: whether the session exists now.
    """

    def __init__(self, database: Database) -> None:
        self.owner = secrets.randbits(63)
        self.registered = False
        self.connected = False
        self._database = database
        self._connection: asyncpg.Connection | None = None
        self._session_lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._next_reap = 0.0

    async def start(self, on_notification: Callable[[str], None], on_lost: Callable[[], None]) -> None:
        """Register this process. If the database is unavailable, return and retry in the background.

        :param on_notification: called with the payload of each notification received.
        :param on_lost: called when this process was declared dead although it is alive: other processes own its
            replies now.
        """
        self._on_notification = on_notification
        self._on_lost = on_lost
        self._database.availability.expect(LEASE)
        await self._register()
        self._task = asyncio.create_task(self._keep_registered())

    async def _keep_registered(self) -> None:
        while True:
            if self.connected:
                await self._session_lost.wait()
                self.connected = False
                # A crash of PostgreSQL ends the sessions of all processes; let them register again first.
                self._next_reap = asyncio.get_running_loop().time() + processes.RECOVERY_GRACE
            else:
                await asyncio.sleep(RETRY_INTERVAL)
            try:
                await self._register()
            except Exception:
                log.exception("This process could not be registered; retrying.")
                await asyncio.sleep(UNEXPECTED_ERROR_PAUSE)

    async def _register(self) -> None:
        self._session_lost.clear()
        try:
            connection = await self._database.open_dedicated(LEASE, **KEEPALIVE)
        except ServiceUnavailable:
            return
        try:
            await self._register_in(connection)
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:
            self._database.availability.failed(LEASE, error)
        else:
            self._database.availability.restored(LEASE)
        finally:
            if self._connection is not connection:
                connection.terminate()

    async def _register_in(self, connection: asyncpg.Connection) -> None:
        owner = self.owner
        connection.add_termination_listener(lambda _: self._session_lost.set())
        await connection.add_listener(processes.CHANNEL, lambda *received: self._on_notification(received[-1]))
        if not self.registered:
            await processes.register(connection, owner)
        elif not await processes.register_again(connection, owner):
            self.rejoin_with_new_id()
        if owner == self.owner:  # not declared dead in the meantime
            self._connection = connection
            self.registered = self.connected = True

    def rejoin_with_new_id(self) -> None:
        """Give up the lease after this process was declared dead, and register under a new process id."""
        log.warning("This process was declared dead although it is alive; other processes continue its replies.")
        self.owner = secrets.randbits(63)
        self.registered = self.connected = False
        if self._connection:
            self._connection.terminate()
        self._session_lost.set()
        self._on_lost()

    async def reap_dead(self) -> bool:
        """Delete the rows of dead processes; searches at most once per :data:`REAP_INTERVAL`.

        :returns: whether a dead process was found.
        :raises ServiceUnavailable: the database is unavailable.
        """
        now = asyncio.get_running_loop().time()
        if not self.connected or now < self._next_reap:
            return False
        self._next_reap = now + REAP_INTERVAL
        async with self._database.acquire() as connection:
            dead = await processes.delete_dead(connection, self.owner)
        for owner in dead:
            log.info("Process %x is dead.", owner)
        return bool(dead)

    async def stop(self) -> None:
        """Unregister this process."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=UNREGISTER_TIMEOUT)
        if self._connection and self.connected:
            try:
                async with asyncio.timeout(UNREGISTER_TIMEOUT):
                    await processes.unregister(self._connection, self.owner)
            except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:
                log.info("This process could not be unregistered: %s", describe(error))
            self._connection.terminate()
