"""A viewer that works like a browser's EventSource: it reconnects with Last-Event-ID when its connection breaks."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.soak.wire import Answer, Event, Events

RETRY = (0.05, 0.15)
"""The minimum and maximum delay before it reconnects, in seconds. (Browsers wait for 3 to 5 s.)"""

PATIENCE = 150.0
"""Seconds after which a reply without an end counts as endless."""


class Broken(Exception):
    """The connection broke, or the response asks for a retry."""


@dataclass
class Seen:
    """The part of a reply that a viewer was shown.

    :ivar name: the reply's prompt and its conversation's name.
    :ivar events: over all connections, as they came.
    :ivar times: when each of them came (``time.monotonic``).
    :ivar breaks: when a connection broke.
    :ivar cuts: how many of them the viewer broke itself.
    :ivar refusals: answers other than 200 and 204, each with its time.
    :ivar ended: whether it was told of the end: done, or 204 after an error.
    """

    name: str
    words: int
    path: str = ""
    events: list[Event] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    breaks: list[float] = field(default_factory=list)
    refusals: list[tuple[float, int]] = field(default_factory=list)
    began: float = 0.0
    cuts: int = 0
    ended: bool = False

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)


class Viewer:
    """Begins a reply and watches it to its end through a load balancer.

    :param cut: gives, for each connection, the number of bytes after which the viewer itself cuts it; None: never.
    :param by_post: whether the prompt's own answer is the first stream; else it is begun with respond-async.
    :param request: further fields of the request.
    """

    def __init__(
        self,
        port: int,
        name: str,
        words: int,
        chance: random.Random,
        by_post: bool = False,
        cut: Callable[[], int | None] = lambda: None,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        self.seen = Seen(name, words)
        self._port = port
        self._chance = chance
        self._by_post = by_post
        self._cut = cut
        self._request = request or {}

    async def watch(self) -> Seen:
        """Begin the reply and watch it to its end, for at most :data:`PATIENCE` seconds."""
        self.seen.began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                while not self.seen.ended:
                    await self._attempt()
        except TimeoutError:
            pass
        return self.seen

    async def _attempt(self) -> None:
        try:
            await self._ask()
        except (OSError, Broken):
            self.seen.breaks.append(time.monotonic())
        if not self.seen.ended:
            await asyncio.sleep(self._chance.uniform(*RETRY))

    async def _ask(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(self._get() if self.seen.path else self._post())
            await self._read(reader)
        finally:
            # RST or FIN: a phone that is switched off, a tab that is closed.
            if self._chance.random() < 0.5:
                writer.transport.abort()
            else:
                writer.close()

    def _get(self) -> bytes:
        last = f"Last-Event-ID: {self.seen.events[-1].id}\r\n" if self.seen.events else ""
        return f"GET {self.seen.path} HTTP/1.1\r\nHost: chat\r\n{last}Connection: close\r\n\r\n".encode()

    def _post(self) -> bytes:
        """Return the prompt's request; a retry has the same idempotency key."""
        fields = {
            "appID": self.seen.name,
            "model": "fake",
            "messages": [{"role": "user", "content": self.seen.name}],
            "options": {"num_predict": self.seen.words},
        }
        body = msgspec.json.encode({**fields, **self._request})
        prefer = "" if self._by_post else "Prefer: respond-async\r\n"
        head = (
            f"POST /llmchat HTTP/1.1\r\nHost: chat\r\nContent-Type: application/json\r\nConnection: close\r\n{prefer}"
            f"Idempotency-Key: {self.seen.name}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def _read(self, reader: asyncio.StreamReader) -> None:
        answer, events, left = Answer(), Events(), self._cut()
        while not answer.whole:
            wanted = 65_536 if left is None else min(65_536, left)
            data = await reader.read(wanted) if wanted else b""
            if not data:
                self.seen.cuts += left == 0
                raise Broken
            if left is not None:
                left -= len(data)
            body = answer.feed(data)
            if answer.status:
                self._take(answer, events.feed(body) if answer.status == 200 else [])

    def _take(self, answer: Answer, events: list[Event]) -> None:
        if answer.status not in (200, 202, 204):
            self.seen.refusals.append((time.monotonic(), answer.status))
            raise Broken
        self.seen.path = answer.headers.get("location") or answer.headers.get("content-location") or self.seen.path
        self.seen.events += events
        self.seen.times += [time.monotonic()] * len(events)
        self.seen.ended = answer.status == 204 or bool(events and events[-1].ends)
        if self.seen.ended:
            answer.whole = True
