"""A proxy in front of chatterd that cuts the first responses to each request after a number of events.

Requests are the same if method, path and body are: a client that follows a reply, or repeats a POST, is cut that often
in all. HTTP/1.1, one request per connection; the proxy runs in a thread and a loop of its own.
"""

import asyncio
import re
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

from .loop_thread import ForwardingThread
from .sockets import reset

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


class EventCutter(ForwardingThread):
    """Forwards what comes to :attr:`url` while its ``with`` block runs.

    :param url: the server.
    :param events: number of events after which a response is cut, within the next one: by FIN, then RST, and so on.
    :param cuts: number of responses that are cut, of each request.
    :ivar requests: the requests so far, preflight requests included.
    """

    def __init__(self, url: str, events: int, cuts: int) -> None:
        super().__init__("event cutter")
        self._server = urlsplit(url)
        self._events = events
        self._cuts = cuts
        self._cut: Counter[tuple[str, str, bytes]] = Counter()
        self.requests: list[Received] = []

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
