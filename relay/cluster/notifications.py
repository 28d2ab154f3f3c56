"""Notifications between processes (PostgreSQL's NOTIFY), and the viewers here that wait for them.

A payload is ``<kind> <reply id>``. Kinds: ``watch`` (another process has a viewer that waits for this reply), ``lines``
(the reply has more lines, or has ended), ``stop`` (the reply is to be stopped), ``orphan`` (no process generates the
reply any more), ``supersede`` (a prompt waits for the reply's end, which may be stopped if it has no viewers),
``viewers`` (processes with viewers of the reply are to answer with ``watch``). Payloads carry ids only, never text:
NOTIFY is limited to 8,000 bytes.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

from db import processes
from db.pool import Database
from errors import ServiceUnavailable

WATCH_DURATION = 15.0
"""Seconds for which a ``watch`` counts. A process whose viewers still wait repeats it after a third of that."""

NOTIFY_INTERVAL = 0.05
"""Seconds between two notifications of new lines: NOTIFY takes a lock on the whole database at commit."""


class Notifier:
    """Keeps track of viewers that wait, here and in other processes, for replies generated elsewhere and here."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._watched_until: dict[UUID, float] = {}
        self._awaited_until: dict[UUID, float] = {}
        self._watch_sent_until: dict[UUID, float] = {}
        self._waiters: dict[UUID, set[asyncio.Future[None]]] = {}
        self._pending: set[UUID] = set()
        self._next_notification = 0.0

    def mark_watched(self, id: UUID) -> None:
        """Notify other processes of new lines of a reply for the next :data:`WATCH_DURATION` seconds."""
        self._watched_until[id] = self._loop.time() + WATCH_DURATION

    def watched_since(self, id: UUID, time: float) -> bool:
        """Return whether a ``watch`` for a reply has arrived since ``time``, by the event loop's clock."""
        return self._watched_until.get(id, 0.0) >= time + WATCH_DURATION

    def mark_awaited(self, id: UUID) -> None:
        """Notify other processes of a reply's end if it ends within the next :data:`WATCH_DURATION` seconds."""
        now = self._loop.time()
        self._awaited_until = {other: until for other, until in self._awaited_until.items() if until > now}
        self._awaited_until[id] = now + WATCH_DURATION

    @contextmanager
    def subscribe(self, id: UUID) -> Iterator["asyncio.Future[None]"]:
        """Subscribe to a reply within the block; the future is done when the reply may have more lines.

        Read the log inside the block, then call :meth:`wait`: a notification that arrives in between is not missed.
        """
        notified = self._loop.create_future()
        self._waiters.setdefault(id, set()).add(notified)
        try:
            yield notified
        finally:
            self._waiters[id].discard(notified)
            if not self._waiters[id]:
                del self._waiters[id]

    async def wait(self, id: UUID, notified: "asyncio.Future[None]", seconds: float) -> None:
        """Tell the owner of a reply that it is watched here, and wait for a notification.

        :param seconds: return after this time in any case: a notification can be lost.
        """
        await self._send_watch(id)
        await asyncio.wait([notified], timeout=seconds)

    async def _send_watch(self, id: UUID) -> None:
        now = self._loop.time()
        if now < self._watch_sent_until.get(id, 0.0):
            return
        self._watch_sent_until = {other: until for other, until in self._watch_sent_until.items() if until > now}
        self._watch_sent_until[id] = now + WATCH_DURATION / 3
        try:
            async with self._database.acquire() as connection:
                await processes.notify(connection, f"watch {id}")
        except ServiceUnavailable:
            self._watch_sent_until.pop(id, None)

    def wake(self, id: UUID) -> None:
        """Wake the viewers here that wait for a reply."""
        for waiter in self._waiters.get(id, ()):
            if not waiter.done():
                waiter.set_result(None)

    def wake_all(self) -> None:
        """Wake all viewers that wait here."""
        for id in list(self._waiters):
            self.wake(id)

    @property
    def has_waiters(self) -> bool:
        """Whether any viewer here waits for a reply of another process."""
        return bool(self._waiters)

    def end_notifications(self, id: UUID) -> list[str]:
        """Return the payloads to send with the commit of a reply's end."""
        until = max(self._watched_until.pop(id, 0.0), self._awaited_until.pop(id, 0.0))
        return [f"lines {id}"] if until > self._loop.time() else []

    def due_notifications(self, ids: Iterable[UUID]) -> tuple[list[str], float | None]:
        """Return the payloads to send with a batch that writes lines of the given replies.

        :returns: the payloads, and, if some were postponed (see :data:`NOTIFY_INTERVAL`), the event loop's time at
            which to ask again.
        """
        if not self._watched_until:
            return [], None
        now = self._loop.time()
        self._watched_until = {id: until for id, until in self._watched_until.items() if until > now}
        self._pending.update(id for id in ids if id in self._watched_until)
        if not self._pending:
            return [], None
        if now < self._next_notification:
            return [], self._next_notification
        self._next_notification = now + NOTIFY_INTERVAL
        payloads = [f"lines {id}" for id in self._pending]
        self._pending.clear()
        return payloads, None


class NotificationRouter:
    """Passes received notifications to the component that handles them.

    :param on_stop: called with the id of a reply that is to be stopped.
    :param on_orphan: called with the id of a reply that no process generates any more.
    :param on_supersede: called with the id of a reply for whose end a prompt waits.
    :param on_viewers: called with the id of a reply of which another process asks whether it has viewers here.
    """

    def __init__(
        self,
        notifier: Notifier,
        on_stop: Callable[[UUID], object],
        on_orphan: Callable[[UUID], object],
        on_supersede: Callable[[UUID], object],
        on_viewers: Callable[[UUID], object],
    ) -> None:
        self._notifier = notifier
        self._on_stop = on_stop
        self._on_orphan = on_orphan
        self._on_supersede = on_supersede
        self._on_viewers = on_viewers

    def dispatch(self, payload: str) -> None:
        """Handle one notification."""
        kind, _, text = payload.partition(" ")
        id = UUID(text)
        if kind == "watch":
            self._notifier.mark_watched(id)
        elif kind == "lines":
            self._notifier.wake(id)
        elif kind == "stop":
            self._on_stop(id)
        elif kind == "orphan":
            self._on_orphan(id)
            self._notifier.wake(id)
        elif kind == "supersede":
            self._on_supersede(id)
        elif kind == "viewers":
            self._on_viewers(id)
