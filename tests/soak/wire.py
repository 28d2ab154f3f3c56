"""Incremental parsers for HTTP/1.1 responses and event streams. Without I/O."""

from dataclasses import dataclass, field

import msgspec


@dataclass
class Answer:
    """A parser of an HTTP response, fed in pieces of any size.

    :ivar status: 0 until the head is whole.
    :ivar whole: whether its end has come, as opposed to the connection's.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    whole: bool = False
    _held: bytes = b""
    _left: int = 0
    _chunked: bool = False

    def feed(self, data: bytes) -> bytes:
        """Feed received bytes; return the bytes of the body among them."""
        self._held += data
        if not self.status and not self._read_head():
            return b""
        return self._read_chunks() if self._chunked else self._read_plain()

    def _read_head(self) -> bool:
        head, end, rest = self._held.partition(b"\r\n\r\n")
        if not end:
            return False
        first, *fields = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields)}
        self._held = rest
        self._chunked = self.headers.get("transfer-encoding") == "chunked"
        self._left = int(self.headers.get("content-length", "0"))
        return True

    def _read_plain(self) -> bytes:
        body, self._held = self._held, b""
        self._left -= len(body)
        self.whole = self._left <= 0
        return body

    def _read_chunks(self) -> bytes:
        body = b""
        while not self.whole:
            size, end, rest = self._held.partition(b"\r\n")
            if not end or len(rest) < int(size, 16) + 2:
                break
            length = int(size, 16)
            body += rest[:length]
            self._held = rest[length + 2 :]
            self.whole = length == 0
        return body


@dataclass(frozen=True)
class Event:
    """A server-sent event: id and data."""

    id: int
    data: bytes

    @property
    def ends(self) -> bool:
        """Return whether it is the last line of a reply."""
        return bool(msgspec.json.decode(self.data).get("done", False))

    @property
    def error(self) -> str | None:
        """Return its error, if it has one."""
        error: str | None = msgspec.json.decode(self.data).get("error")
        return error

    @property
    def text(self) -> str:
        """Return its text."""
        return str(msgspec.json.decode(self.data).get("message", {}).get("content", ""))


@dataclass
class Events:
    """A parser of event streams (WHATWG HTML, section 9.2.6), as far as chatterd's streams need it."""

    _held: bytes = b""

    def feed(self, body: bytes) -> list[Event]:
        """Feed bytes of the body; return the complete events."""
        *blocks, self._held = (self._held + body).split(b"\n\n")
        return [event for block in blocks if (event := _event(block))]


def _event(block: bytes) -> Event | None:
    fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if line and not line.startswith(b":"))
    return Event(int(fields[b"id"]), fields[b"data"]) if fields else None
