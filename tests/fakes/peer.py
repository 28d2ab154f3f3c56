"""The other end of TCP or TLS in the test's own loop: it says exactly the bytes that the test gives it."""

import asyncio
import socket
import ssl
from types import TracebackType
from typing import Self

from .moment import PATIENCE
from .sockets import reset, stop_accepting


class Connection:
    """One accepted connection. Whatever waits, waits for :data:`PATIENCE` seconds at most."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """Read a request's head, and as much of a body as it announces."""
        async with asyncio.timeout(PATIENCE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            _, announced, rest = head.partition(b"Content-Length: ")
            return head + await self._reader.readexactly(int(rest.split(b"\r\n")[0]) if announced else 0)

    async def read(self) -> bytes:
        """Read some bytes."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read(65_536)

    def say(self, data: bytes) -> None:
        """Send these bytes."""
        self._writer.write(data)

    async def left(self) -> None:
        """Read on until the client closes the connection, be it gently or not."""
        async with asyncio.timeout(PATIENCE):
            try:
                while await self._reader.read(65_536):
                    pass
            except ConnectionError:
                pass

    def close(self) -> None:
        """Send what is to be sent, and close."""
        self._writer.close()

    def reset(self) -> None:
        """Break the connection, unless it is closed: RST."""
        if not self._writer.is_closing():
            reset(self._writer)


class Peer:
    """Listens on a free port of one address while its ``async with`` block runs.

    :ivar arrived: connections accepted so far.
    """

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.arrived: list[Connection] = []
        self._fresh: asyncio.Queue[Connection] = asyncio.Queue()
        self._host = host
        self._tls = tls

    async def accept(self) -> Connection:
        """The next connection."""
        async with asyncio.timeout(PATIENCE):
            return await self._fresh.get()

    def url(self, path: str = "/", host: str | None = None) -> str:
        """Where it is, by its address or by another name."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{host or self._host}:{self.port}{path}"

    async def __aenter__(self) -> Self:
        address = self._host.strip("[]")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._server = await asyncio.start_server(self._connected, address, 0, family=family, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await stop_accepting(self._server)
        for connection in self.arrived:
            connection.reset()
        self.arrived.clear()
        await asyncio.sleep(0)  # sockets are closed by a callback

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.arrived.append(Connection(reader, writer))
        self._fresh.put_nowait(self.arrived[-1])
