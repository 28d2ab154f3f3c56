"""The base class of handlers whose response is written over a longer time."""

import asyncio
from collections.abc import Iterable

from web.base import BaseHandler

WRITE_LIMIT = 32_768
"""Bytes given to a socket at once, and so the memory of a client that does not read."""


class StreamingHandler(BaseHandler):
    """A handler whose client may disconnect or stop reading in the middle of the response."""

    def initialize(self) -> None:
        """Set up the handler (called by Tornado)."""
        super().initialize()
        self._writing: asyncio.Task[None] | None = None

    def cancel_on_disconnect(self) -> None:
        """Cancel the current task when the client disconnects: Tornado's futures may never be done then."""
        self._writing = asyncio.current_task()

    def on_connection_close(self) -> None:
        """End the response of a client that has disconnected (called by Tornado)."""
        super().on_connection_close()
        if self._writing:
            self._writing.cancel()

    async def write_slices(self, slices: Iterable[bytes]) -> None:
        """Write data of any size, each slice when the client has taken the one before.

        :param slices: of at most :data:`WRITE_LIMIT` bytes.
        :raises TimeoutError: the client took nothing for ``--client-write-timeout`` seconds.
        """
        for data in slices:
            if len(data) > WRITE_LIMIT // 2:
                await self.services.write_scheduler.wait()
            written = self.send(data)
            if not written.done():
                await self.wait_until_taken(written)

    def send(self, data: bytes) -> "asyncio.Future[None]":
        """Give data to the socket; return a future that is done when the client has taken it."""
        self.write(data)
        return self.flush()

    async def wait_until_taken(self, written: "asyncio.Future[None]") -> None:
        """Wait for a future of :meth:`send`.

        :raises TimeoutError: the client took nothing for ``--client-write-timeout`` seconds.
        """
        await asyncio.wait_for(written, self.services.settings.client_write_timeout)


def slices_of(data: bytes) -> Iterable[bytes]:
    """Return the data in slices of at most :data:`WRITE_LIMIT` bytes."""
    if len(data) <= WRITE_LIMIT:
        return (data,)
    return (data[start : start + WRITE_LIMIT] for start in range(0, len(data), WRITE_LIMIT))
