"""A connection of the scripted Ollama: when it has gone, and the requests on it."""

import asyncio
from collections.abc import Callable

from .script import Request


class Connection(asyncio.StreamReaderProtocol):
    """Knows when the client has gone, also while nobody reads."""

    def __init__(self, connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]) -> None:
        super().__init__(asyncio.StreamReader(), connected)
        self.gone = asyncio.Event()

    def eof_received(self) -> bool | None:
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read one request; None if the client closed the connection instead, or in the middle of it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        method, path, _ = first.split(" ")
        fields = (one.partition(":") for one in rest)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError:
        return None
    return Request(method, path, headers, body)
