"""Viewers that come back: cut off at any byte of a raw socket, each resumes as a browser does, in any process."""

import random
import socket
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from tests.database import rows

TIMEOUT = 60.0
"""Seconds without a byte, heartbeats included, after which a stream hangs."""

PATIENCE = 120.0
"""Seconds after which a reply that has not been seen to its end never will be."""

RETRY = 0.02
"""Seconds before a viewer that was refused tries again."""


class Viewer:
    """One viewer of one reply over any number of connections; it keeps the bytes of whole events, not the comments.

    :param path: the reply's path.
    :ivar shown: those bytes.
    :ivar next_id: the number of the first line that was not shown.
    :ivar ended: the server said that there is nothing more: 204.
    :ivar pauses: seconds between two reads that brought something.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.shown = bytearray()
        self.next_id = 0
        self.ended = False
        self.pauses: list[float] = []
        self._heard = time.monotonic()

    def read(self, url: str, limit: int | None = None) -> bool:
        """Read from one process up to the stream's end, or up to ``limit`` bytes of it and then cut the connection.

        :returns: False if nobody listens there, or not now: 503.
        """
        address = urlsplit(url)
        try:
            with socket.create_connection((address.hostname, address.port), TIMEOUT) as connection:
                return self._read(connection, limit)
        except ConnectionError:
            return False

    def follow(self, urls: Sequence[str] | Callable[[], str], choice: random.Random, cut: int | None = None) -> None:
        """Read to the reply's end, each time from another process.

        :param cut: after how many bytes at most each connection is cut.
        :raises TimeoutError: the end did not come.
        """
        deadline = time.monotonic() + PATIENCE
        while not self.ended:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.path} was not shown to its end; {self.next_id} lines were")
            url = urls() if callable(urls) else choice.choice(urls)
            if not self.read(url, cut and choice.randint(0, cut)):
                time.sleep(RETRY)

    def _read(self, connection: socket.socket, limit: int | None) -> bool:
        resume = f"Last-Event-ID: {self.next_id - 1}\r\n" if self.next_id else ""
        connection.sendall(f"GET {self.path} HTTP/1.0\r\n{resume}\r\n".encode())
        held = b""
        while b"\r\n\r\n" not in held:
            if not (chunk := connection.recv(65536)):
                return False
            held += chunk
        head, _, held = held.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if status == 503:
            return False
        assert status in (200, 204), head + held
        self.ended = status == 204
        taken = len(held)
        while not self.ended:
            held = self._keep(held if limit is None else held[: len(held) - max(0, taken - limit)])
            if limit is not None and taken >= limit:
                break
            if not (chunk := connection.recv(65536 if limit is None else min(65536, limit - taken))):
                break
            held += chunk
            taken += len(chunk)
        return True

    def _keep(self, held: bytes) -> bytes:
        *whole, rest = held.split(b"\n\n")
        for event in whole:
            if event.startswith(b":"):
                continue
            assert event.startswith(b"id: %d\n" % self.next_id), f"line {self.next_id} was due, but came {event!r}"
            self.shown += event + b"\n\n"
            self.next_id += 1
            now = time.monotonic()
            self.pauses.append(now - self._heard)
            self._heard = now
        return rest


def log_of(url: str, path: str) -> list[str]:
    """A reply's lines in the log; none may be missing between the first and the last."""
    query = "SELECT seq, line FROM reply_lines WHERE reply = $1::text::uuid ORDER BY seq"
    found = rows(url, query, path.removeprefix("/llmchat/"))
    assert [row["seq"] for row in found] == list(range(len(found))), f"the log of {path} has holes"
    return [row["line"] for row in found]


def framed(lines: Sequence[str], first: int = 0) -> bytes:
    """The bytes that show these lines, the contract in one expression."""
    return b"".join(
        b"id: %d\n%bdata: %b\n\n" % (number, b"event: error\n" if line.startswith('{"error"') else b"", line.encode())
        for number, line in enumerate(lines, first)
    )
