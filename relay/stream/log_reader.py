"""Reads pages of replies' logs for all cursors of a process, which share what they read."""

from uuid import UUID
from weakref import WeakValueDictionary

from db import reply_lines
from db.pool import Database
from db.reply_lines import LogPage
from relay.generation.reply_buffer import MAX_LINES_PER_READ
from relay.stream.shared_reads import SharedReads

PAGE_BYTES = 65_536
"""Bytes of a log read at once; a larger line is read alone."""

Place = tuple[str, UUID, int]
"""Tenant, reply and number of the first line."""


class LogReader:
    """Reads pages of logs. A page is in memory once, however many cursors read it at the same time.

    :param retention: see :func:`db.reply_lines.read_page`.
    """

    def __init__(self, database: Database, retention: float) -> None:
        self._database = database
        self._retention = retention
        self._reads: SharedReads[Place, LogPage | None] = SharedReads(self._read)
        self._large: WeakValueDictionary[Place, LogPage] = WeakValueDictionary()

    async def read(self, tenant: str, reply: UUID, first: int) -> LogPage | None:
        """Read lines of a reply and its state.

        :param first: number of the first line.
        :returns: None if the tenant has no such reply. The cursor keeps the page as long as it uses its lines.
        :raises ServiceUnavailable: the database is unavailable.
        """
        place = (tenant, reply, first)
        if page := self._large.get(place):
            return page
        if self._reads.is_running(place):
            page = await self._reads.get(place)
            if page is not None and page.lines:
                return page
            # Its snapshot may be older than the notification that this cursor waits for next.
        return await self._reads.get(place)

    async def _read(self, place: Place) -> LogPage | None:
        async with self._database.acquire() as connection:
            page = await reply_lines.read_page(connection, *place, self._retention, MAX_LINES_PER_READ, PAGE_BYTES)
        if page is not None and len(page.lines) == 1 and len(page.lines[0]) > PAGE_BYTES:
            self._large[place] = page
        return page
