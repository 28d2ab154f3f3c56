"""Send attempts, each on a connection of its own, many at the same time."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import h11

from tests.hostile.answers import answers
from tests.hostile.grammar.attempts import LARGE, Attempt, Call
from tests.hostile.grammar.judgement import Verdict

CONCURRENCY = 24
"""Concurrent connections."""

LARGE_AT_ONCE = 3
"""Concurrent attempts that are large: their bodies fit into the memory that one sender may use."""

PATIENCE = 120.0
"""Timeout of an attempt, in seconds."""

PIECE = 262_144
"""Bytes of a read."""


async def send_all(urls: Sequence[str], attempts: Iterable[Attempt], trust: ssl.SSLContext, verdict: Verdict) -> None:
    """Send attempts and let ``verdict`` judge the answers.

    :param urls: of the servers.
    """
    waiting = iter(attempts)
    large = asyncio.Semaphore(LARGE_AT_ONCE)

    async def work() -> None:
        for attempt in waiting:
            url = urlsplit(urls[attempt.server])
            tls = trust if url.scheme == "https" else None
            try:
                async with large if attempt.size > LARGE else contextlib.nullcontext(), asyncio.timeout(PATIENCE):
                    data = await _send(str(url.hostname), int(url.port or 0), tls, attempt)
            except TimeoutError:
                verdict.complain(attempt, "the server hangs")
            else:
                verdict.judge(attempt, data)

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


async def _send(host: str, port: int, tls: ssl.SSLContext | None, attempt: Attempt) -> bytes:
    """Send one attempt; return the received bytes."""
    reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=PIECE)
    connection = _Connection(reader, writer, attempt)
    try:
        with contextlib.suppress(ConnectionError):
            if attempt.cut is not None:
                writer.write(b"".join(call.request.data for call in attempt.calls)[: attempt.cut])
                await writer.drain()
                return b""
            await connection.converse()
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return bytes(connection.received)


class _Connection:
    """The client's side of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, attempt: Attempt) -> None:
        self.received = bytearray()
        self._reader = reader
        self._writer = writer
        self._attempt = attempt
        self._reading: asyncio.Task[None] | None = None

    async def converse(self) -> None:
        """Send all requests, and read until the server closes the connection."""
        if self._attempt.together:
            await self._write(b"".join(call.request.data for call in self._attempt.calls))
        else:
            for number, call in enumerate(self._attempt.calls):
                await self._ask(call)
                if number + 1 < len(self._attempt.calls) and not await self._answered(number + 1):
                    return
        while await self._read():
            if self._attempt.calls[-1].is_endless and b"\n\n" in self.received:
                self._attempt.cut = len(self.received)  # this client leaves
                return

    async def _ask(self, call: Call) -> None:
        data = call.request.data
        if call.expects:
            before = len(self.received)
            await self._write(call.request.head)
            if not await self._read() or not self.received[before:].startswith(b"HTTP/1.1 100"):
                return
            data = data[len(call.request.head) :]
        await self._write(data)

    async def _write(self, data: bytes) -> None:
        """Write, and read meanwhile: a server that waits for its client to read would not read itself."""
        self._writer.write(data)
        await self._writer.drain()

    async def _answered(self, count: int) -> bool:
        """Read up to the end of so many answers; return False if the connection ends before."""
        methods = [call.request.method for call in self._attempt.calls]
        while True:
            try:
                found = answers(bytes(self.received), methods)
            except h11.RemoteProtocolError:
                return False
            if len(found) >= count and found[count - 1].whole:
                return True
            if not await self._read():
                return False

    async def _read(self) -> bool:
        data = await self._reader.read(PIECE)
        self.received += data
        return bool(data)
