"""TCP connections on which a test sends exact bytes and parses the responses."""

import ctypes
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import ujson

from tests.database import eventually

SO_ATTACH_FILTER = 26
"""Linux asm-generic/socket.h; Python's module socket lacks it."""


def head(path: str = "/llmchat", *more: str, method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", "Content-Type: application/json", *more]
    return "".join(one + "\r\n" for one in [*lines, ""]).encode()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        assert self.headers["content-type"] == "application/json; charset=utf-8"
        [(name, sentence)] = ujson.loads(self.body).items()
        assert name == "error"
        return str(sentence)


def _queued(local: int, remote: int) -> str:
    """Return the sizes of a connection's send and receive queues, in bytes."""
    for one in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, _, queues, *_ = one.split()
        if (int(here.split(":")[1], 16), int(there.split(":")[1], 16)) == (local, remote):
            sending, reading = (int(size, 16) for size in queues.split(":"))
            return f"{sending}:{reading}"
    return "no such connection"


class Raw:
    """A connection on which a test sends exact bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def wait_until_read(self) -> None:
        """Wait until the server has read everything that was sent (from Linux's ``/proc/net/tcp``)."""
        ours, theirs = self._connection.getsockname()[1], self._connection.getpeername()[1]
        eventually("the server has read all", lambda: _queued(ours, theirs) == _queued(theirs, ours) == "0:0")

    def drip(self, piece: bytes, pause: float = 0.1) -> None:
        """Send the same bytes repeatedly, with pauses, until the server responds.

        A response is lost if the server closes the connection between a pause and a piece (RFC 9112, section 9.6), so
        the pauses are long.

        :raises TimeoutError: there is no response.
        """
        for _ in range(1_000):
            if select.select([self._connection], [], [], pause)[0]:
                return
            self._connection.sendall(piece)
        raise TimeoutError("no response")

    def answer(self) -> Answer:
        version, status, *_ = self._file.readline().split()
        assert version == b"HTTP/1.1"
        headers = {}
        while (field := self._file.readline().strip()) != b"":
            name, _, value = field.decode().partition(":")
            headers[name.lower()] = value.strip()
        return Answer(int(status), headers, self._body(headers))

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(self._file.readline(), 16):
                pieces.append(self._file.read(size))
                self._file.readline()
            self._file.readline()
            return b"".join(pieces)
        if "content-length" in headers:
            return self._file.read(int(headers["content-length"]))
        return b"" if headers.get("connection") != "close" else self._file.read()

    def rest(self) -> bytes:
        """Read until the server closes the connection."""
        return self._file.read()

    def hang_up(self) -> None:
        """Close the connection."""
        self._file.close()
        self._connection.close()

    def close_file(self) -> None:
        self._file.close()


@contextmanager
def raw(url: str) -> Iterator[Raw]:
    host = urlsplit(url)
    with socket.create_connection((str(host.hostname), int(host.port or 0)), timeout=30) as connection:
        it = Raw(connection)
        try:
            yield it
        finally:
            it.close_file()


def drop_all_packets(connection: socket.socket) -> None:
    """Let the kernel drop what arrives, unacknowledged, with a packet filter that accepts nothing (Linux socket(7))."""
    accept_nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K, 0 bytes
    program = struct.pack("HP", 1, ctypes.addressof(accept_nothing))
    try:
        connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    except PermissionError:
        pytest.skip("needs root, who may attach a packet filter")
