"""A network between a browser and a server that can strand connections, as one does that a laptop leaves: they stand,
nothing comes through any more, and nobody says so. New ones work."""

import asyncio
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from .sockets import stop_accepting

PATIENCE = 60.0


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


class Network:
    """Passes on what comes to :attr:`url` while its ``with`` block runs.

    :param url: the server.
    """

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._loop = asyncio.SelectorEventLoop()
        self._leaving = asyncio.Event()
        self._ready = threading.Event()
        self._connections: list[_Connection] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._thread = threading.Thread(target=self._run, name="network")
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._leaving.set)
        self._thread.join(PATIENCE)

    def strand(self) -> int:
        """Let nothing through what is connected now; returns how many connections that are."""
        return asyncio.run_coroutine_threadsafe(self._strand(), self._loop).result(PATIENCE)

    # In its thread.

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._leaving.wait()
        await stop_accepting(server)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # sockets are closed by a callback

    async def _strand(self) -> int:
        standing = [one for one in self._connections if not one.stranded and not one.client.is_closing()]
        for connection in standing:
            connection.stranded = True
        return len(standing)

    def _connected(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self._tasks.append(self._loop.create_task(self._relay(reader, client)))

    async def _relay(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection(self._server.hostname, self._server.port)
        connection = _Connection(client, server)
        self._connections.append(connection)
        try:
            await asyncio.gather(connection.pump(reader, server), connection.pump(answers, client))
        finally:
            client.transport.abort()
            server.transport.abort()
