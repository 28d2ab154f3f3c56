"""Which processes live: this one says so for as long as it has a session in the database, and buries the dead."""

import asyncio
import logging
import secrets
from collections.abc import Callable

import asyncpg

from db import presence
from db.pool import AWAY, Database
from errors import Unavailable
from relay.doorbell import Doorbell

log = logging.getLogger("chatterd.relay")

RETRY_INTERVAL = 0.25
"""Seconds between two attempts to announce this process again after its session was lost."""

PAUSE_AFTER_SURPRISE = 5.0
"""Seconds until the next attempt after an error that is more than the database's absence."""

BURY_INTERVAL = 0.2
"""Seconds between two looks for dead processes, however many viewers ask."""

LEAVE_SECONDS = 1.0
"""Seconds at most to take the announcement back."""

KEEPALIVE = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
"""How PostgreSQL notices within seconds that a whole machine is gone, and frees what its sessions held."""


class Presence:
    """Holds this process's advisory lock, in a connection of its own, and listens there.

    :ivar owner: this process's random id, a positive bigint. Another one once it was declared dead.
    :ivar known: whether replies can be this process's: it was announced, and not declared dead as far as it knows.
    :ivar announced: whether it has its session now.
    :ivar on_lost: called when this process was declared dead though it lives: its replies are others' now.
    :param doorbell: hears what the others ring.
    """

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self.owner = secrets.randbits(63)
        self.announced = False
        self._database = database
        self._doorbell = doorbell
        self.on_lost: Callable[[], None] = lambda: None
        self.known = False
        self._connection: asyncpg.Connection | None = None
        self._cut = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._next_burial = 0.0

    async def start(self) -> None:
        """Announce this process. If the database is away, return all the same and go on trying."""
        await self._announce()
        self._task = asyncio.create_task(self._stay())

    async def _stay(self) -> None:
        while True:
            if self.announced:
                await self._cut.wait()
                self.announced = False
                log.info("The presence session was cut; announcing this process again.")
                # What cut it, a crash in PostgreSQL perhaps, may have cut everybody's.
                self._next_burial = asyncio.get_running_loop().time() + presence.GRACE
            else:
                await asyncio.sleep(RETRY_INTERVAL)
            try:
                await self._announce()
            except Exception:
                log.exception("This process could not be announced; trying on.")
                await asyncio.sleep(PAUSE_AFTER_SURPRISE)

    async def _announce(self) -> None:
        self._cut.clear()
        try:
            connection = await self._database.dedicated(**KEEPALIVE)
        except Unavailable as error:
            log.info("This process cannot be announced: %s", error)
            return
        try:
            await self._announce_in(connection)
        except AWAY as error:
            log.info("This process cannot be announced: %s", error)
        finally:
            if self._connection is not connection:
                connection.terminate()

    async def _announce_in(self, connection: asyncpg.Connection) -> None:
        owner = self.owner
        connection.add_termination_listener(lambda _: self._cut.set())
        await connection.add_listener(presence.CHANNEL, lambda *notice: self._doorbell.hear(notice[-1]))
        if not self.known:
            await presence.announce(connection, owner)
        elif not await presence.announce_again(connection, owner):
            self.renew()
        if owner == self.owner:  # not declared dead in the meantime
            self._connection = connection
            self.known = self.announced = True

    def renew(self) -> None:
        """Go on under another id after this process was declared dead: its replies are others'."""
        log.warning("This process was declared dead, though it lives; its replies go on elsewhere.")
        self.owner = secrets.randbits(63)
        self.known = self.announced = False
        if self._connection:
            self._connection.terminate()
        self._cut.set()
        self.on_lost()

    async def bury(self) -> bool:
        """Declare dead who is; looks once in :data:`BURY_INTERVAL` at most.

        :returns: whether somebody was found dead now.
        :raises Unavailable: the database is away.
        """
        now = asyncio.get_running_loop().time()
        if not self.announced or now < self._next_burial:
            return False
        self._next_burial = now + BURY_INTERVAL
        async with self._database.acquire() as connection:
            dead = await presence.bury(connection, self.owner)
        for owner in dead:
            log.info("Process %x is dead.", owner)
        return bool(dead)

    async def stop(self) -> None:
        """Say that this process is gone."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=LEAVE_SECONDS)
        if self._connection and self.announced:
            try:
                async with asyncio.timeout(LEAVE_SECONDS):
                    await presence.leave(self._connection, self.owner)
            except AWAY as error:
                log.info("Presence could not be taken back: %s", error)
            self._connection.terminate()
