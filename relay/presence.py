"""Which processes live: this one says so for as long as it has a session in the database."""

import asyncio
import logging
import secrets

import asyncpg

from db import presence
from db.pool import AWAY, Database

log = logging.getLogger("chatterd.relay")

RETRY_INTERVAL = 1.0
"""Seconds between two attempts to announce this process again after its session was lost."""


class Presence:
    """Holds this process's advisory lock, in a connection of its own.

    :ivar owner: this process's random id, a positive bigint.
    """

    def __init__(self, database: Database) -> None:
        self.owner = secrets.randbits(63)
        self._database = database
        self._connection: asyncpg.Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()

    async def start(self) -> None:
        """Announce this process. If the database is away, return all the same and go on trying."""
        await self._announce()
        self._task = asyncio.create_task(self._stay())

    async def _stay(self) -> None:
        while True:
            if self._connection is None:
                await asyncio.sleep(RETRY_INTERVAL)
                await self._announce()
            else:
                await self._lost.wait()
                log.warning("The presence session was lost; announcing this process again.")
                self._connection = None

    async def _announce(self) -> None:
        self._lost.clear()
        try:
            connection = await self._database.dedicated()
            connection.add_termination_listener(lambda _: self._lost.set())
            await presence.announce(connection, self.owner)
        except AWAY as error:
            log.info("Presence is not announced: %s", error)
        else:
            self._connection = connection

    async def stop(self) -> None:
        """Give the session up."""
        if self._task:
            self._task.cancel()
        if self._connection:
            self._connection.terminate()
