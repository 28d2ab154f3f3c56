"""Viewers that reconnect: cut at any byte, each resumes with Last-Event-ID as a browser does, in any process."""

import random
import socket
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from tests.database import rows

TIMEOUT = 60.0
"""Seconds without a byte, heartbeats included, after which a stream counts as hung."""

PATIENCE = 120.0
"""Seconds within which a viewer must see a reply's end."""

RETRY = 0.02
"""Seconds before a rejected viewer tries again."""


class Viewer:
    """A viewer of one reply over any number of connections, which keeps the bytes of whole events without comments.

    :param path: the reply's path.
    :ivar shown: the bytes of whole events.
    :ivar next_id: the number of the next line.
    :ivar ended: the server answered 204: there is nothing more.
    :ivar pauses: seconds between consecutive events.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.shown = bytearray()
        self.next_id = 0
        self.ended = False
        self.pauses: list[float] = []
        self._heard = time.monotonic()

    def read(self, url: str, limit: int | None = None) -> bool:
        """Read from one process to the end of the stream, or close the connection after ``limit`` bytes.

        :returns: False if the connection is refused or the answer is 503.
        """
        address = urlsplit(url)
        try:
            with socket.create_connection((address.hostname, address.port), TIMEOUT) as connection:
                return self._read(connection, limit)
        except ConnectionError:
            return False

    def follow(self, urls: Sequence[str] | Callable[[], str], choice: random.Random, cut: int | None = None) -> None:
        """Read to the reply's end, each connection to a random process.

        :param cut: the most bytes to read from a connection before it is closed.
        :raises TimeoutError: the reply does not end in time.
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
        for event in map(without_comments, whole):
            assert event.startswith(b"id: %d\n" % self.next_id), f"line {self.next_id} was due, but came {event!r}"
            self.shown += event + b"\n\n"
            self.next_id += 1
            now = time.monotonic()
            self.pauses.append(now - self._heard)
            self._heard = now
        return rest


def without_comments(event: bytes) -> bytes:
    """Return an event without the heartbeats before it, which no blank line ends."""
    while event.startswith(b": "):
        event = event.partition(b"\n")[2]
    return event


def log_of(url: str, path: str) -> list[str]:
    """Return a reply's lines in the log; their numbers must have no gaps."""
    query = "SELECT seq, line FROM reply_lines WHERE reply = $1::text::uuid ORDER BY seq"
    found = rows(url, query, path.removeprefix("/llmchat/"))
    assert [row["seq"] for row in found] == list(range(len(found))), f"the log of {path} has gaps"
    return [row["line"] for row in found]


def framed(lines: Sequence[str], first: int = 0) -> bytes:
    """Return the event stream of these lines, as the API defines it."""
    return b"".join(
        b"id: %d\n%bdata: %b\n\n" % (number, b"event: error\n" if line.startswith('{"error"') else b"", line.encode())
        for number, line in enumerate(lines, first)
    )
