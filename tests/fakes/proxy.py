"""A proxy in front of PostgreSQL that a test can cut, silence, and let lose exactly one answer.

PostgreSQL listens on a socket in the file system; the proxy listens on TCP, in a thread and a loop of its own::

    with CuttingProxy(database_url) as proxy:
        ...                             # the program under test connects to proxy.url
        proxy.cut()                     # the database is away: connections break, new ones are refused
        proxy.restore()
        proxy.swallow()                 # connections stand and are accepted, but nothing comes through
        proxy.restore()
        lost = proxy.lose(b"words")     # the next request that holds these bytes loses its answer
        lost.wait()
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit, urlunsplit

from .moment import PATIENCE, Moment
from .sockets import bound_socket, reset, stop_accepting


class CuttingProxy:
    """Listens on a free port of 127.0.0.1 while its ``with`` block runs.

    :param database_url: names PostgreSQL by the folder of its socket (``?host=/folder``).
    :ivar url: the same database, through the proxy.
    """

    def __init__(self, database_url: str, *, away: bool = False) -> None:
        parts = urlsplit(database_url)
        self._target = Path(parse_qs(parts.query)["host"][0]) / ".s.PGSQL.5432"
        self._reservation = bound_socket(0)
        self._port: int = self._reservation.getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f"postgres@127.0.0.1:{self._port}", query="sslmode=disable"))
        self._away = away
        self._loop = asyncio.SelectorEventLoop()
        self._leaving = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="cutting proxy")
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._swallowing = False
        self._marker = b""
        self._forwarding = True
        self._lost: Moment[None] = Moment("an answer was lost")

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._away:
            self.restore()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._leaving.set)
        self._thread.join(PATIENCE)
        self._reservation.close()

    def cut(self) -> None:
        """Break all connections (RST) and refuse new ones."""
        self._call(self._cut)

    def swallow(self) -> None:
        """Let nothing through any more, in either direction, and say so to nobody: a black hole."""
        self._swallowing = True

    def restore(self) -> None:
        """Accept connections again; those that a black hole has swallowed from break."""
        self._call(self._listen)

    def lose(self, marker: bytes, *, forward: bool = True) -> Moment[None]:
        """Break the connection of the next request that holds ``marker``.

        :param forward: let PostgreSQL answer the request first, and throw the answer away; else it never sees it.
        :returns: when it is lost.
        """

        async def set_trap() -> None:
            self._marker, self._forwarding, self._lost = marker, forward, Moment(f"what held {marker!r} was lost")

        self._call(set_trap)
        return self._lost

    # In its thread.

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._leaving.wait())

    def _call(self, function: Callable[[], Awaitable[None]]) -> None:
        async def called() -> None:
            await function()

        asyncio.run_coroutine_threadsafe(called(), self._loop).result(PATIENCE)

    async def _listen(self) -> None:
        if self._swallowing:
            await self._cut()
            self._swallowing = False
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, sock=bound_socket(self._port))

    async def _cut(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await stop_accepting(server)
        while self._connections:
            tasks = list(self._connections)
            for task, writer in self._connections.items():
                reset(writer)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)  # sockets are closed by a callback

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._connections[task] = writer  # before the task runs: it may be cancelled before that
        task.add_done_callback(lambda _: self._connections.pop(task).close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await self._relay(reader, writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connecting = asyncio.ensure_future(asyncio.open_unix_connection(str(self._target)))
        try:
            postgres_reader, postgres = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            (await connecting)[1].close()
            raise
        losing = asyncio.Event()

        async def send() -> None:
            while data := await reader.read(65536):
                if self._swallowing:
                    continue
                if self._marker and self._marker in data:
                    self._marker = b""
                    losing.set()
                    if not self._forwarding:
                        return
                postgres.write(data)
                await postgres.drain()

        async def receive() -> None:
            while (data := await postgres_reader.read(65536)) and not losing.is_set():
                if self._swallowing:
                    continue
                writer.write(data)
                await writer.drain()

        ways = [asyncio.create_task(send()), asyncio.create_task(receive())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if losing.is_set():
                reset(writer)
                self._lost.happen(None)
        finally:
            for way in ways:
                way.cancel()
            postgres.close()
            await asyncio.gather(*ways, return_exceptions=True)
