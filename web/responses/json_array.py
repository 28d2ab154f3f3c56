"""Responds with a JSON document around an array of any size, of which each client costs no more than a part."""

import asyncio
import sys
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

from tornado.iostream import StreamClosedError

from errors import ChatterdError
from web.responses.streaming import WRITE_LIMIT, StreamingHandler, slices_of

PART_BYTES = 65_536
"""Bytes of items read from the database at once. Larger items are read alone, within the memory for them."""

LOAD_FACTOR = 4
"""Memory taken while a large item is read and encoded, as a multiple of its size: what asyncpg has received, the text,
and JSON, which grows as it is written. Only the JSON is held longer."""

STALL = 0.25
"""Seconds without progress after which a client gives up the memory of a large item that another one waits for."""


class Entry(NamedTuple):
    """An item of the array that is not read yet: its key in the table, and its bytes."""

    key: int
    size: int


Read = Callable[[Sequence[int]], Awaitable[list[bytes]]]
"""Reads the items with these keys, in their order, each encoded as JSON. Those that do not exist any more are missing.
The database connection is given back before it returns."""


def parts_of(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Split entries into parts of at most :data:`PART_BYTES`; larger items are parts of their own."""
    start = size = 0
    for number, entry in enumerate(entries):
        if number > start and size + entry.size > PART_BYTES:
            yield entries[start:number]
            start, size = number, 0
        size += entry.size
    if start < len(entries):
        yield entries[start:]


class JSONArrayHandler(StreamingHandler):
    """A handler that responds with an array of items from the database."""

    async def write_array(self, head: bytes, entries: Sequence[Entry], tail: bytes, read: Read) -> None:
        """Respond with ``head``, the items separated by commas, and ``tail``.

        A part is read when the client has taken the one before. If something fails after the first one was sent, the
        connection is closed without an end.
        """
        self.set_header("Content-Type", "application/json; charset=utf-8")
        if sum(entry.size for entry in entries) <= PART_BYTES:
            items = await read([entry.key for entry in entries]) if entries else []
            self.finish(head + b",".join(items) + tail)
            return
        self.start_stream("application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")  # unlike events, it may be compressed
        self.clear_header("X-Accel-Buffering")  # and held by a proxy, which reads faster than the client
        self.cancel_on_disconnect()
        document = _Document(self, head, read)
        try:
            for part in parts_of(entries):
                await document.write_part(part)
            await document.end(tail)
            await self.finish_stream()
        except (asyncio.CancelledError, StreamClosedError):
            self.log_fields["abort_reason"] = "client left"
        except TimeoutError:
            self.abort_stream("client too slow")
        except ChatterdError as error:
            if not document.begun:
                raise
            self.abort_stream(str(error))
        except Exception:
            if not document.begun:
                raise
            self.log_exception(*sys.exc_info())
            self.abort_stream("internal error")


class _Document:
    """The JSON document of one response.

    :ivar begun: some of it was sent.
    """

    def __init__(self, handler: StreamingHandler, head: bytes, read: Read) -> None:
        self.begun = False
        self._handler = handler
        self._read = read
        self._pending = head  # what comes before the next item

    async def write_part(self, part: Sequence[Entry]) -> None:
        if part[0].size > PART_BYTES:
            await self._write_large(part[0])
        elif items := await self._read([entry.key for entry in part]):
            await self._write(self._pending + b",".join(items))
            self._pending = b","

    async def end(self, tail: bytes) -> None:
        await self._write((b"" if self._pending == b"," else self._pending) + tail)

    async def _write(self, data: bytes) -> None:
        self.begun = True
        await self._handler.write_slices(slices_of(data))

    async def _write_large(self, entry: Entry) -> None:
        """Write one item. It is held while the client takes it, or as long as no other response needs the memory."""
        budget, offset, checksum = self._handler.services.large_items, 0, None
        while True:
            async with budget.hold(entry.size * LOAD_FACTOR) as held:
                item = b"".join(await self._read([entry.key]))
                held.shrink(len(item))
                found = zlib.crc32(item)
                if checksum not in (None, found):
                    raise ChatterdError("changed while it was read")
                if not item:
                    return
                if checksum is None:
                    await self._write(self._pending)
                    self._pending = b","
                checksum = found
                written, offset = await self._write_from(item, offset)
                complete = offset >= len(item)
                del item
            await self._handler.wait_until_taken(written)
            if complete:
                return

    async def _write_from(self, item: bytes, offset: int) -> tuple["asyncio.Future[None]", int]:
        """Write slices of a large item from an offset on, until its memory is needed by a response that makes progress.

        :returns: the future of the last slice, and the offset behind it.
        """
        handler = self._handler
        while True:
            await handler.services.write_scheduler.wait()
            written = handler.send(item[offset : offset + WRITE_LIMIT])
            offset += WRITE_LIMIT
            if offset >= len(item):
                return written, offset
            if not written.done() and not await self._taken(written):
                return written, offset

    async def _taken(self, written: "asyncio.Future[None]") -> bool:
        """Wait until the client has taken a slice; return False if it is slow and another response needs the memory.

        :raises TimeoutError: the client took nothing for ``--client-write-timeout`` seconds.
        """
        handler = self._handler
        async with asyncio.timeout(handler.services.settings.client_write_timeout):
            while not written.done():
                await asyncio.wait([written], timeout=STALL)
                if not written.done() and handler.services.large_items.contended:
                    return False
        return True
