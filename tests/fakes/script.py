"""What the script of an answer consists of: heads, bytes, lines, gates, ends."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .lines import encode, ndjson
from .moment import Moment
from .runner import Runner
from .sockets import reset

REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


@dataclass(eq=False)
class Request:
    """One request as it came.

    In the end either ``answered`` or ``closed`` happens; neither if the fake itself cuts its connections.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    sent: int = 0
    """Bytes of the answer that the kernel has taken so far, its head included."""
    answered: Moment[None] = field(default_factory=lambda: Moment("the script was played to its end"))
    closed: Moment[None] = field(default_factory=lambda: Moment("the client closed before the answer's end"))

    @property
    def json(self) -> Any:
        return json.loads(self.body)


# What a script consists of.


class Died(Exception):
    """The death that was planned for this answer is due."""


class Answer:
    """The answer being given to one request; steps write it.

    :param runner: what is known about the model, and what it has been asked.
    :param kill: lets the whole Ollama die, and listen again after so many seconds if a number is given.
    """

    def __init__(
        self,
        request: Request,
        writer: asyncio.StreamWriter,
        runner: Runner,
        kill: Callable[[float | None], None],
        death: "Death | None" = None,
    ) -> None:
        self.request = request
        self.runner = runner
        self.kill = kill
        self.death = death
        self.chunked = False
        self.keep_alive = False
        self.ended = False
        self.runner_gone = asyncio.Event()
        self._lines = 0
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send exactly these bytes, in one write."""
        await asyncio.sleep(0)  # before, not after: nothing may come between the last write and "answered"
        self._writer.write(data)
        await self._writer.drain()
        self.request.sent += len(data)

    async def body(self, data: bytes) -> None:
        """Send a piece of the body in one write: one chunk if the head announced chunks.

        :raises Died: so many lines have been sent that the planned death is due.
        """
        await self.send(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        self._lines += data.count(b"\n")
        if self.death and self._lines >= self.death.after:
            raise Died

    async def end(self) -> None:
        """End the answer cleanly, once."""
        if self.ended:
            return
        if self.chunked:
            await self.send(b"0\r\n\r\n")
        if not self.keep_alive:
            self._writer.close()
        self.ended = True

    def close(self) -> None:
        self._writer.close()
        self.ended = True

    def reset(self) -> None:
        reset(self._writer)
        self.ended = True


class Step:
    """One step of a script. A test may define its own."""

    ends = False
    """Whether nothing may follow."""

    async def play(self, answer: Answer) -> None:
        raise NotImplementedError


@dataclass(eq=False)
class Head(Step):
    """Status line and headers, in one write.

    Unchunked, the answer ends with the connection, or where a ``Content-Length`` says.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/x-ndjson"})
    chunked: bool = True

    async def play(self, answer: Answer) -> None:
        headers = dict(self.headers) | ({"Transfer-Encoding": "chunked"} if self.chunked else {})
        answer.chunked = self.chunked
        answer.keep_alive = self.chunked or "Content-Length" in headers
        if not answer.keep_alive:
            headers["Connection"] = "close"
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        await answer.send(f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Status')}\r\n{fields}\r\n".encode())


@dataclass(eq=False)
class Send(Step):
    """Raw bytes in one write, past all framing. A script of nothing else ends with the connection."""

    data: bytes

    async def play(self, answer: Answer) -> None:
        await answer.send(self.data)


@dataclass(eq=False)
class Body(Step):
    """A piece of the body in one write, cut wherever the test likes."""

    data: bytes

    async def play(self, answer: Answer) -> None:
        await answer.body(self.data)


class Lines(Step):
    """Whole lines, one write each, as Ollama does it."""

    def __init__(self, *lines: bytes) -> None:
        self.lines = lines

    async def play(self, answer: Answer) -> None:
        for one in self.lines:
            await answer.body(ndjson(one))


@dataclass(eq=False)
class Whole(Step):
    """A whole answer with ``Content-Length``, in one write: an error before the first line, say."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"
    ends = True

    async def play(self, answer: Answer) -> None:
        answer.keep_alive = True
        await answer.send(
            f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Status')}\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n\r\n".encode()
            + self.body
        )


def failure(status: int, error: str) -> Whole:
    """How Ollama refuses: a real status with ``{"error": ...}``."""
    return Whole(status, encode({"error": error}))


@dataclass(eq=False)
class Death:
    """A planned death: after so many lines of an answer, what happens then. After 0 lines: instead of the answer."""

    after: int
    how: Step


class Gate(Step):
    """Holds the answer until the test opens it; ``reached`` happens when the script is there."""

    def __init__(self, name: str = "gate") -> None:
        self.reached: Moment[None] = Moment(f"a script reached {name}")
        self._opened: Moment[None] = Moment(f"{name} was opened")

    def open(self) -> None:
        self._opened.happen(None)

    async def play(self, answer: Answer) -> None:
        self.reached.happen(None)
        await self._opened.within(None)


@dataclass(eq=False)
class Pause(Step):
    """Silence of so many seconds, where time itself is what the test is about."""

    seconds: float

    async def play(self, answer: Answer) -> None:
        await asyncio.sleep(self.seconds)


class End(Step):
    """The clean end of the answer. A script that runs out ends so too."""

    ends = True

    async def play(self, answer: Answer) -> None:
        await answer.end()


class Close(Step):
    """The connection closes, whatever was announced."""

    ends = True

    async def play(self, answer: Answer) -> None:
        answer.close()


class Reset(Step):
    """The connection breaks: RST."""

    ends = True

    async def play(self, answer: Answer) -> None:
        answer.reset()
