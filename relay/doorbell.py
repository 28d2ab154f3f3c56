"""The doorbell between processes: who waits here for a reply that another process generates, and who waits elsewhere.

Notices are ``<word> <reply id>``: ``watch`` (somebody elsewhere waits for this reply), ``lines`` (it has more of them,
or has ended), ``stop`` (it shall end), ``orphan`` (nobody generates it any more).
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

from db import presence
from db.pool import Database
from errors import Unavailable

WATCH_SECONDS = 15.0
"""How long a ``watch`` holds; who still waits says it again after a third of that."""

RING_INTERVAL = 0.05
"""Seconds between two rings for lines: NOTIFY takes a lock on the whole database at commit."""


class Doorbell:
    """Rings at other processes, and hears them.

    :ivar on_stop: called with the id of a reply that shall end.
    :ivar on_orphan: called with the id of a reply that was given up.
    :ivar on_ring_due: called when a ring that was put off is due.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._watched: dict[UUID, float] = {}
        self._asked: dict[UUID, float] = {}
        self._waiting: dict[UUID, set[asyncio.Future[None]]] = {}
        self._to_ring: set[UUID] = set()
        self._ring_from = 0.0
        self.on_ring_due: Callable[[], None] = lambda: None
        self.on_stop: Callable[[UUID], object] = lambda id: None
        self.on_orphan: Callable[[UUID], None] = lambda id: None

    def hear(self, notice: str) -> None:
        """Act on a notice."""
        word, _, text = notice.partition(" ")
        id = UUID(text)
        if word == "watch":
            self.expect_watchers(id)
        elif word == "lines":
            self.wake(id)
        elif word == "stop":
            self.on_stop(id)
        elif word == "orphan":
            self.on_orphan(id)
            self.wake(id)

    def expect_watchers(self, id: UUID) -> None:
        """Ring for a reply of this process for a while: somebody elsewhere waits for it, or did when it was adopted."""
        self._watched[id] = self._loop.time() + WATCH_SECONDS

    @contextmanager
    def expecting(self, id: UUID) -> Iterator["asyncio.Future[None]"]:
        """Hear for a reply within the block; the future is done when it may have more to show.

        Look for lines inside the block, then :meth:`wait`: a ring in between is not missed.
        """
        rung = self._loop.create_future()
        self._waiting.setdefault(id, set()).add(rung)
        try:
            yield rung
        finally:
            self._waiting[id].discard(rung)
            if not self._waiting[id]:
                del self._waiting[id]

    async def wait(self, id: UUID, rung: "asyncio.Future[None]", seconds: float) -> None:
        """Let the process that generates a reply know that it is waited for, and wait for the ring.

        :param seconds: after these it is time to look in any case: a ring can be lost.
        """
        await self._ask(id)
        await asyncio.wait([rung], timeout=seconds)

    async def _ask(self, id: UUID) -> None:
        now = self._loop.time()
        if now < self._asked.get(id, 0.0):
            return
        self._asked = {other: until for other, until in self._asked.items() if until > now}
        self._asked[id] = now + WATCH_SECONDS / 3
        try:
            async with self._database.acquire() as connection:
                await presence.ring(connection, f"watch {id}")
        except Unavailable:
            self._asked.pop(id, None)

    def wake(self, id: UUID) -> None:
        """Wake those who wait here for a reply."""
        for waiting in self._waiting.get(id, ()):
            if not waiting.done():
                waiting.set_result(None)

    def wake_all(self) -> None:
        """Wake all who wait here."""
        for id in list(self._waiting):
            self.wake(id)

    @property
    def somebody_waits(self) -> bool:
        """Whether anybody waits here."""
        return bool(self._waiting)

    def rings_for_end(self, id: UUID) -> list[str]:
        """The notices to send with the end of a reply, to those who wait for it elsewhere."""
        return [f"lines {id}"] if self._watched.pop(id, 0.0) > self._loop.time() else []

    def due_rings(self, ids: Iterable[UUID]) -> list[str]:
        """The notices to send with a round that writes lines of these replies, to those who wait for them elsewhere.

        Rings that come too soon after the last are left to a later round; :attr:`on_ring_due` asks for one.
        """
        if not self._watched:
            return []
        now = self._loop.time()
        self._watched = {id: until for id, until in self._watched.items() if until > now}
        self._to_ring.update(id for id in ids if id in self._watched)
        if not self._to_ring:
            return []
        if now < self._ring_from:
            self._loop.call_at(self._ring_from, self.on_ring_due)
            return []
        self._ring_from = now + RING_INTERVAL
        notices = [f"lines {id}" for id in self._to_ring]
        self._to_ring.clear()
        return notices
