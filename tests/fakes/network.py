"""A network between a browser and a server that can strand connections, as one does that a laptop leaves: they stand,
nothing comes through any more, and nobody says so. New ones work."""

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

from .loop_thread import ForwardingThread
from .moment import PATIENCE


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    stranded: bool = False

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if not self.stranded:
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            pass
        if not self.stranded:
            writer.close()


class Network(ForwardingThread):
    """Passes on what comes to :attr:`url` while its ``with`` block runs.

    :param url: the server.
    """

    def __init__(self, url: str) -> None:
        super().__init__("network")
        self._server = urlsplit(url)
        self._connections: list[_Connection] = []

    def strand(self) -> int:
        """Let nothing through what is connected now; returns how many connections that are."""
        return asyncio.run_coroutine_threadsafe(self._strand(), self._loop).result(PATIENCE)

    # In its thread.

    async def _strand(self) -> int:
        standing = [one for one in self._connections if not one.stranded and not one.client.is_closing()]
        for connection in standing:
            connection.stranded = True
        return len(standing)

    async def _forward(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection(self._server.hostname, self._server.port)
        connection = _Connection(client, server)
        self._connections.append(connection)
        try:
            await asyncio.gather(connection.pump(reader, server), connection.pump(answers, client))
        finally:
            client.transport.abort()
            server.transport.abort()
