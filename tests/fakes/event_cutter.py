"""A proxy in front of chatterd that cuts the first responses to each request after a number of events.

Requests are the same if method, path and body are: a client that follows a reply, or repeats a POST, is cut that often
in all. HTTP/1.1, one request per connection; the proxy runs in a thread and a loop of its own.
"""

import asyncio
import re
import threading
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from .moment import PATIENCE
from .sockets import reset, stop_accepting

CONNECTION_FIELDS = re.compile(rb"(?im)^(?:Connection|Upgrade|HTTP2-Settings|Keep-Alive):.*\r\n")
"""Fields of the connection itself (RFC 9110, section 7.6.1), which a proxy replaces."""


@dataclass(frozen=True)
class Received:
    """A request as it came.

    :ivar last_event_id: header ``Last-Event-ID``; None without it.
    """

    method: str
    path: str
    body: bytes
    last_event_id: str | None


class EventCutter:
    """Forwards what comes to :attr:`url` while its ``with`` block runs.

    :param url: the server.
    :param events: number of events after which a response is cut, within the next one: by FIN, then RST, and so on.
    :param cuts: number of responses that are cut, of each request.
    :ivar requests: the requests so far, preflight requests included.
    """

    def __init__(self, url: str, events: int, cuts: int) -> None:
        self._server = urlsplit(url)
        self._events = events
        self._cuts = cuts
        self._cut: Counter[tuple[str, str, bytes]] = Counter()
        self.requests: list[Received] = []
        self._loop = asyncio.SelectorEventLoop()
        self._leaving = asyncio.Event()
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="event cutter")
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

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        server = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\nContent-Length: *(\d+)", head)
            request = _parse(head, await reader.readexactly(int(length[1])) if length else b"")
            self.requests.append(request)
            answers, server = await asyncio.open_connection(self._server.hostname, self._server.port)
            head = CONNECTION_FIELDS.sub(b"", head).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            server.write(head + request.body)
            await self._pass_on(request, answers, client)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            client.close()
            if server:
                server.close()

    async def _pass_on(self, request: Received, answers: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        key = (request.method, request.path, request.body)
        cutting = request.method != "OPTIONS" and self._cut[key] < self._cuts
        events = 0
        while data := await answers.read(65_536):
            if cutting and (events := events + data.count(b"\n\n")) > self._events:
                *complete, _ = data.split(b"\n\n")
                if kept := complete[: len(complete) - (events - self._events)]:
                    client.write(b"\n\n".join([*kept, b"id: "]))
                await client.drain()
                self._cut[key] += 1
                if self._cut[key] % 2 == 0:
                    reset(client)
                return
            client.write(data)
            await client.drain()


def _parse(head: bytes, body: bytes) -> Received:
    method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
    last = re.search(rb"(?i)\r\nLast-Event-ID: *([^\r]*)", head)
    query = re.search(r"lastEventId=(\d+)", path)
    last_event_id = last[1].decode() if last else query[1] if query else None
    return Received(method, path.partition("?")[0], body, last_event_id)
