"""What a server in a thread and an event loop of its own needs: a start, and an end that waits for both."""

import asyncio
import threading
from types import TracebackType
from typing import Self

from .moment import PATIENCE
from .sockets import stop_accepting


class LoopThread:
    """Runs :meth:`_serve` while its ``with`` block runs: a subclass sets ``_ready`` there, and ends once ``_leaving``
    is set.

    :param name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.SelectorEventLoop()
        self._leaving = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._leaving.set)
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        raise AssertionError("a subclass serves")


class ForwardingThread(LoopThread):
    """A proxy on a free port: runs :meth:`_forward` in a task for each connection.

    :ivar url: its address, once the ``with`` block has begun.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

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

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        raise AssertionError("a subclass forwards")
