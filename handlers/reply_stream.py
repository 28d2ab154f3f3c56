"""Streams a reply's lines as server-sent events: one viewer per response."""

import asyncio
from typing import cast

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from errors import ServiceUnavailable
from relay.metrics import Metrics
from relay.stream import sse
from relay.stream.cursor import Cursor, CursorInvalidated, LineReader
from web.responses.sse_writer import ClientWriter
from web.responses.streaming import WRITE_LIMIT, StreamingHandler
from web.validation import parse_whole_number, query_argument


class ViewerSlot:
    """Counts a viewer within a block. (A class: a generator as context manager takes half a kB per viewer.)

    :param limit: viewers at most.
    """

    __slots__ = ("_limit", "_metrics")

    def __init__(self, metrics: Metrics, limit: int) -> None:
        self._metrics = metrics
        self._limit = limit

    def __enter__(self) -> None:
        """Count the viewer.

        :raises ServiceUnavailable: there are as many as the limit allows.
        """
        if self._metrics.viewers >= self._limit:
            raise ServiceUnavailable("The server is streaming to as many clients as it can. Try again in a moment.")
        self._metrics.viewers += 1

    def __exit__(self, *_error: object) -> None:
        """Release the slot."""
        self._metrics.viewers -= 1


class ReplyStreamHandler(StreamingHandler):
    """A handler that can stream a reply. Its client may disconnect or stop reading at any time; the reply goes on."""

    def viewer_slot(self) -> ViewerSlot:
        """Return a context manager within which the reply may be streamed."""
        return ViewerSlot(self.services.metrics, self.services.settings.max_viewers)

    def first_line(self) -> int | None:
        """Return the number of the first line after ``Last-Event-ID``; None without this header or its query argument.

        :raises BadRequest: it is not a whole number.
        """
        last = self.request.headers.get("Last-Event-ID") or query_argument(self.request, "lastEventId")
        return parse_whole_number("Last-Event-ID", last) + 1 if last else None

    async def show(self, cursor: Cursor) -> None:
        """Stream the rest of a reply; 204 if there is none, which makes an EventSource stop reconnecting (WHATWG HTML,
        section 9.2.3)."""
        if cursor.exhausted:
            self.set_status(204)
        else:
            with self.viewer_slot():
                await self.stream(cursor)

    async def stream(self, reader: LineReader) -> None:
        """Stream the lines that the reader returns, until the reply ends or the client leaves."""
        viewers = self.services.replies.viewers
        viewers.add(reader.id)
        try:
            await self._stream(reader)
        finally:
            viewers.remove(reader.id)
            reader.leave()

    async def _stream(self, reader: LineReader) -> None:
        self.start_stream("text/event-stream; charset=utf-8")
        self.log_fields["reply"] = reply = str(reader.id)
        self.set_header("Content-Location", f"/llmchat/{reply}")
        self.cancel_on_disconnect()
        self._chunked = self.request.version == "HTTP/1.1"
        try:
            await self.flush()
            self._client = ClientWriter(cast(HTTP1Connection, self.request.connection).stream)
            await self._write_lines(reader)
            await self.finish_stream()
        except (asyncio.CancelledError, StreamClosedError):
            self.log_fields["abort_reason"] = "handed over" if self.services.replies.leaving else "client left"
        except (TimeoutError, CursorInvalidated, ServiceUnavailable) as error:
            self.services.metrics.viewers_dropped += 1
            self.abort_stream("client too slow" if isinstance(error, TimeoutError) else "handed over")

    async def _write_lines(self, reader: LineReader) -> None:
        while True:
            found = await reader.next(self.services.settings.heartbeat_interval, self._try_write)
            if found is None:
                return
            number, lines = found
            if not lines:
                await self._write(sse.HEARTBEAT)
            while lines:
                events, count = sse.events(number, lines, WRITE_LIMIT)
                if count:
                    await self._write(events)
                else:
                    count = 1
                    await self.write_slices(sse.event_slices(number, lines[0], WRITE_LIMIT))
                number += count
                lines = lines[count:]

    def _try_write(self, first: int, lines: list[bytes]) -> bool:
        """Write lines at once if the client has taken everything before and they are few."""
        if not self._client.ready:
            return False
        events, count = sse.events(first, lines, WRITE_LIMIT)
        if count < len(lines):
            return False
        if self._chunked:
            events = b"%x\r\n%b\r\n" % (len(events), events)
        self._client.write(events)
        return True

    async def _write(self, events: bytes) -> None:
        """Write events of at most :data:`WRITE_LIMIT` bytes.

        :raises TimeoutError: the client took nothing for ``--client-write-timeout`` seconds.
        """
        await self.write_slices((events,))
