"""Send attempts, each on its own connection, many concurrently, and check the answers."""

import asyncio
import collections
import contextlib
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11

from tests.hostile.answers import Answer, answers, complaint
from tests.hostile.mutations import RIGHT, Attempt
from tests.hostile.requests import FORGED

CONCURRENCY = 40
"""Concurrent connections."""

QUIET = 0.3
"""Seconds without a byte after which the client closes its side; only then are the answers checked."""

PATIENCE = 60.0
"""Timeout of an attempt, in seconds."""


@dataclass
class Verdict:
    """The results of many attempts.

    :ivar wrong: what must not happen, in words, with the bytes that made it happen.
    """

    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    unanswered: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)

    def judge(self, attempt: Attempt, data: bytes, closed: bool) -> None:
        """Check all bytes that an attempt's connection received.

        :param closed: whether the server closed it before the client said that nothing more will come.
        """
        try:
            found = _taken_apart(data, attempt.methods)
        except h11.RemoteProtocolError as error:
            self._complain(attempt, f"not HTTP: {error}: {data[:300]!r}")
            return
        self.statuses.update(answer.status for answer in found)
        for answer in found:
            if what := complaint(answer):
                self._complain(attempt, what)
        if attempt.forged and (len(found) > 1 or FORGED.encode() in data):
            self._complain(attempt, f"{len(found)} answers to one request")
        if attempt.name == RIGHT and attempt.ending == "wait" and attempt.last not in data:
            self._complain(attempt, f"right requests are not answered to the last: {data[:300]!r}")
        if attempt.ending == "wait" and closed and not found:
            self.unanswered[attempt.name] += 1

    def _complain(self, attempt: Attempt, what: str) -> None:
        sent = b"".join(attempt.pieces)
        more = f" ... ({len(sent)} bytes)" if len(sent) > 700 else ""
        self.wrong.append(f"attempt {attempt.number} ({attempt.name}): {what}\n    sent: {sent[:700]!r}{more}")


async def send_all(url: str, attempts: Iterable[Attempt]) -> Verdict:
    """Send attempts, :data:`CONCURRENCY` concurrently."""
    verdict = Verdict()
    host = urlsplit(url)
    waiting = iter(attempts)

    async def work() -> None:
        for attempt in waiting:
            try:
                async with asyncio.timeout(PATIENCE):
                    data, closed = await _send(str(host.hostname), int(host.port or 0), attempt)
            except TimeoutError:
                verdict.wrong.append(f"attempt {attempt.number} ({attempt.name}): the server hangs")
            else:
                verdict.judge(attempt, data, closed)

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return verdict


async def _send(host: str, port: int, attempt: Attempt) -> tuple[bytes, bool]:
    """Send one attempt; return the received bytes, and whether the server closed the connection."""
    reader, writer = await asyncio.open_connection(host, port)
    received: list[bytes] = []
    try:
        with contextlib.suppress(OSError):
            for piece in attempt.pieces:
                writer.write(piece)
                await asyncio.wait_for(writer.drain(), PATIENCE)
                await asyncio.sleep(0)
            if attempt.ending in ("close", "reset"):
                return b"", False
            if attempt.ending == "half":
                writer.write_eof()
        answered_to_the_last = attempt.name == RIGHT and attempt.ending == "wait"
        closed = await _read(reader, received, PATIENCE if answered_to_the_last else QUIET)
        if not closed:
            with contextlib.suppress(OSError):
                writer.write_eof()
            await _read(reader, received, QUIET)
        return b"".join(received), closed
    finally:
        if attempt.ending == "reset":
            _reset(writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _read(reader: asyncio.StreamReader, received: list[bytes], quiet: float) -> bool:
    """Read to the end of the connection; return False if nothing comes for ``quiet`` seconds."""
    try:
        while data := await asyncio.wait_for(reader.read(65_536), quiet):
            received.append(data)
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def _taken_apart(data: bytes, methods: list[bytes]) -> list[Answer]:
    """Return the answers. It is undecidable whether a malformed request is a HEAD, which is answered without a body."""
    try:
        return answers(data, methods)
    except h11.RemoteProtocolError:
        if b"HEAD" not in methods:
            raise
        return answers(data, [])


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
