"""A viewer: one HTTP response that shows a reply's lines as server-sent events."""

import asyncio
from typing import cast

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError

from errors import ServiceUnavailable
from handlers.base import BaseHandler
from handlers.outbox import Outlet
from relay.metrics import Metrics
from relay.stream import sse
from relay.stream.cursor import Cursor, CursorInvalidated

WRITE_LIMIT = 32_768
"""Bytes handed to a socket at once, and so what a viewer that does not read costs."""

SENT = HTTPHeaders()
"""In the place of headers that have been sent: thousands of viewers may wait for long, and each kept 2 kB of them."""


class Place:
    """One of the viewers that may be there at once. (A generator as context manager would be half a kB of each.)"""

    __slots__ = ("_metrics", "_most")

    def __init__(self, metrics: Metrics, most: int) -> None:
        self._metrics = metrics
        self._most = most

    def __enter__(self) -> None:
        """Take the place.

        :raises Unavailable: all are taken.
        """
        if self._metrics.viewers >= self._most:
            raise ServiceUnavailable("The server is showing as many replies as it can. Try again in a moment.")
        self._metrics.viewers += 1

    def __exit__(self, *_error: object) -> None:
        """Give it back."""
        self._metrics.viewers -= 1


class ViewerHandler(BaseHandler):
    """A handler that can show a reply. Its connection may close or stand still at any time; the reply goes on."""

    def initialize(self) -> None:
        """Remember the connection's end (called by Tornado)."""
        super().initialize()
        self._showing: asyncio.Task[None] | None = None
        self._outbox = self.services.outbox
        self._metrics = self.services.metrics

    def on_connection_close(self) -> None:
        """End the viewer whose client has gone (called by Tornado)."""
        super().on_connection_close()
        if self._showing:
            self._showing.cancel()

    def place(self) -> "Place":
        """Within the block of this a reply may be shown."""
        return Place(self._metrics, self.services.settings.max_viewers)

    async def show(self, cursor: Cursor) -> None:
        """Show the lines from the cursor on, as they come, until the reply's end or the client's."""
        self.start_stream("text/event-stream; charset=utf-8")
        self.log_fields["reply"] = reply = str(cursor.id)
        self.set_header("Content-Location", f"/llmchat/{reply}")
        self._showing = asyncio.current_task()
        self._chunked = self.request.version == "HTTP/1.1"
        self.ui.clear()  # Tornado's, for templates; thousands of viewers may wait for long
        try:
            await self.flush()
            self._headers = SENT
            self._outlet = Outlet(cast(HTTP1Connection, self.request.connection).stream)
            await self._follow(cursor)
            self.finish()
        except (asyncio.CancelledError, StreamClosedError):
            self.log_fields["end"] = "sent elsewhere" if self.services.replies.leaving else "client left"
        except (TimeoutError, CursorInvalidated, ServiceUnavailable) as error:
            self._metrics.viewers_dropped += 1
            self.break_off("client too slow" if isinstance(error, TimeoutError) else "sent elsewhere")

    async def _follow(self, cursor: Cursor) -> None:
        while True:
            read = await cursor.next(self.services.settings.heartbeat_interval, self._show_now)
            self._outbox.send()
            if read is None:
                return
            number, lines = read
            if not lines:
                await self._send(sse.HEARTBEAT)
            while lines:
                framed, count = sse.events(number, lines, WRITE_LIMIT)
                number += count
                lines = lines[count:]
                await self._send(framed)

    def _show_now(self, first: int, lines: list[bytes]) -> bool:
        if self._outlet.rest and not self._outlet.free:
            return False
        framed, count = sse.events(first, lines, WRITE_LIMIT)
        if count < len(lines) or len(framed) > WRITE_LIMIT:
            return False
        if self._chunked:
            framed = b"%x\r\n%b\r\n" % (len(framed), framed)
        self._outbox.put(self._outlet, framed)
        return True

    async def _send(self, framed: bytes) -> None:
        for start in range(0, len(framed), WRITE_LIMIT):
            if len(framed) > WRITE_LIMIT // 2:
                await self.services.turns.wait()
            self.write(framed[start : start + WRITE_LIMIT])
            taken = self.flush()
            if not taken.done():
                await asyncio.wait_for(taken, self.services.settings.client_write_timeout)
