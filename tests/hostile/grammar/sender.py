"""Send attempts, each on a connection of its own, many at the same time."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import h11

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
    making = asyncio.Lock()
    large = asyncio.Semaphore(LARGE_AT_ONCE)

    async def make() -> Attempt | None:
        async with making:  # in a thread: a large one takes seconds, in which servers wait for the other connections
            return await asyncio.to_thread(next, waiting, None)

    async def work() -> None:
        while attempt := await make():
            url = urlsplit(urls[attempt.server])
            tls = trust if url.scheme == "https" else None
            try:
                async with large if attempt.size > LARGE else contextlib.nullcontext(), asyncio.timeout(PATIENCE):
                    data = await _send(str(url.hostname), int(url.port or 0), tls, attempt)
            except TimeoutError:
                verdict.complain(attempt, "the server hangs")
            except OSError as error:
                verdict.complain(attempt, f"no connection: {error!r}")
            else:
                if len(data) > LARGE:
                    await asyncio.to_thread(verdict.judge, attempt, data)
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
        self._taken = 0

    async def converse(self) -> None:
        """Send all requests, and read until the server closes the connection."""
        if self._attempt.together:
            await self._write(b"".join(call.request.data for call in self._attempt.calls))
        else:
            for number, call in enumerate(self._attempt.calls):
                await self._ask(call)
                if number + 1 < len(self._attempt.calls) and not await self._answered(call):
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
        self._writer.write(data)
        await self._writer.drain()

    async def _answered(self, call: Call) -> bool:
        """Read to the end of an answer; return False if the connection ends there."""
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=100_000)
        method = "HEAD" if call.method == "HEAD" else "GET"
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        if len(self.received) > self._taken:  # no bytes would mean that the connection has ended
            parser.receive_data(bytes(self.received[self._taken :]))
        while parser.their_state is not h11.DONE:
            seen = len(self.received)
            try:
                while (event := parser.next_event()) is not h11.NEED_DATA and not isinstance(event, h11.EndOfMessage):
                    pass
            except h11.RemoteProtocolError:
                return False
            if event is h11.NEED_DATA:
                if not await self._read():
                    return False
                parser.receive_data(bytes(self.received[seen:]))
            elif parser.their_state is not h11.DONE:
                return False  # the server closes the connection
        self._taken = len(self.received)
        return True

    async def _read(self) -> bool:
        data = await self._reader.read(PIECE)
        self.received += data
        return bool(data)
