"""Responds with a JSON document around an array of any size, of which each client costs no more than a part."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from tornado.iostream import StreamClosedError

from errors import ChatterdError, ServiceUnavailable
from relay.memory_budget import Reservation
from web.responses.large_json import LargeJSON
from web.responses.streaming import StreamingHandler, slices_of

PART_BYTES = 65_536
"""Bytes of items read from the database at once. Larger items are read alone, within the memory for them."""

WAIT_TIMEOUT = 30.0
"""Seconds until a response that waits for the memory of a large item fails."""

STALL = 0.25
"""Seconds without progress after which a client gives up the memory of a large item that another one waits for."""


class Entry(NamedTuple):
    """An item of the array that is not read yet: its key in the table, and its bytes."""

    key: int
    size: int


Read = Callable[[Sequence[int]], Awaitable[list[Any]]]
"""Reads the items with these keys, in their order; those that do not exist any more are missing. It does not keep a
connection to the database."""


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


def fit_one_part(entries: Sequence[Entry]) -> bool:
    """Return whether the items are so small that all can be read and sent at once."""
    return sum(entry.size for entry in entries) <= PART_BYTES


class JSONArrayHandler(StreamingHandler):
    """A handler that responds with an array of items from the database: ``head``, the items separated by commas, and
    ``tail``."""

    def write_small_array(self, head: bytes, items: Iterable[Any], tail: bytes) -> None:
        """Respond with items that :func:`fit_one_part`."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(head + b",".join(map(msgspec.json.encode, items)) + tail)

    async def write_array(self, head: bytes, entries: Sequence[Entry], tail: bytes, read: Read) -> None:
        """Respond with items of any size.

        A part is read when the client has taken the one before. If something fails after the first one was sent, the
        connection is closed without an end.
        """
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
            await self._write(self._pending + b",".join(map(msgspec.json.encode, items)))
            self._pending = b","

    async def end(self, tail: bytes) -> None:
        await self._write((b"" if self._pending == b"," else self._pending) + tail)

    async def _write(self, data: bytes) -> None:
        self.begun = True
        await self._handler.write_slices(slices_of(data))

    async def _write_large(self, entry: Entry) -> None:
        """Write one item. It is held while the client takes it, or as long as no other response needs the memory."""
        number = checksum = 0
        while True:
            with await self._reserve(entry.size):
                item = await self._load(entry)
                if number and (item is None or item.checksum != checksum):
                    raise ChatterdError("A message was changed while it was read.")
                if item is None:
                    return
                checksum = item.checksum
                if not number:
                    await self._write(self._pending)
                    self._pending = b","
                number, written = await self._write_from(item, number)
                del item
            if written is None:
                return
            await self._handler.wait_until_taken(written)

    async def _reserve(self, size: int) -> Reservation:
        try:
            async with asyncio.timeout(WAIT_TIMEOUT):
                return await self._handler.services.large_items.reserve(size)
        except TimeoutError as error:
            raise ServiceUnavailable("Too many large responses are being read. Try again in a moment.") from error

    async def _load(self, entry: Entry) -> LargeJSON | None:
        # What asyncpg has received, the text (4 bytes a character if one is beyond U+FFFF, PEP 393) and its UTF-8 are
        # in memory at the same time.
        async with self._handler.services.large_loads:
            items = await self._read([entry.key])
            return LargeJSON(items.pop()) if items else None

    async def _write_from(self, item: LargeJSON, number: int) -> tuple[int, "asyncio.Future[None] | None"]:
        """Write the slices of an item from a number on, until its memory is needed by a response that makes progress.

        :returns: the number of the next slice, and the future of the last one; None at the end of the item.
        """
        handler = self._handler
        for data in item.slices(number):
            await handler.services.write_scheduler.wait()
            written = handler.send(data)
            number += 1
            if not written.done() and not await self._taken(written):
                return number, written
        return number, None

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
