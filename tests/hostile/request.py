"""An HTTP/1.1 request of separate parts, written to bytes without any check. Without I/O."""

from dataclasses import dataclass, field

Field = tuple[bytes, bytes]

JSON: Field = (b"Content-Type", b"application/json")


@dataclass
class Request:
    """One request.

    :ivar framing: ``length`` and ``chunked`` announce the body rightly; with ``none`` nothing does but ``fields``.
    :ivar end: what ends each line of the head.
    """

    method: bytes
    target: bytes
    fields: list[Field] = field(default_factory=list)
    body: bytes = b""
    framing: str = "length"
    version: bytes = b" HTTP/1.1"
    host: list[Field] = field(default_factory=lambda: [(b"Host", b"x")])
    end: bytes = b"\r\n"

    @property
    def data(self) -> bytes:
        """Return the bytes of the request."""
        return self.head + (chunked(self.body) if self.framing == "chunked" else self.body)

    @property
    def head(self) -> bytes:
        """Return the request line and the fields."""
        fields = [*self.host, *self.fields]
        if self.framing == "length" and self.body:
            fields.append((b"Content-Length", b"%d" % len(self.body)))
        if self.framing == "chunked":
            fields.append((b"Transfer-Encoding", b"chunked"))
        lines = [self.method + b" " + self.target + self.version, *(name + b": " + value for name, value in fields)]
        return b"".join(line + self.end for line in [*lines, b""])

    def set(self, name: bytes, value: bytes) -> None:
        """Set a field, replacing all fields of that name."""
        self.fields = [one for one in self.fields if one[0].lower() != name.lower()]
        self.fields.append((name, value))


def chunked(body: bytes, size: int = 100) -> bytes:
    """Return the body in chunks (RFC 9112, section 7.1)."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
