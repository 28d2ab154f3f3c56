"""A scripted Ollama on a real socket: the test names the exact bytes of each answer and where it pauses.

It runs in its own thread with its own loop, so that a test may block or run a loop itself::

    with ScriptedOllama() as ollama:
        gate = Gate()
        ollama.script(Head(), Lines(line("Hel")), gate, Lines(line("lo"), last_line()))
        ...                                  # the program under test asks ollama.url
        gate.reached.wait()                  # or, in a coroutine: await gate.reached
        request = ollama.arrival(0).wait()   # or: await ollama.arrival(0)
        assert request.json["model"] == "fake"
        gate.open()

Nothing here sleeps in order to synchronise; what a test may wait for is a :class:`Moment`.
"""

import asyncio
import collections
import contextlib
import itertools
import json
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which a test that waits has failed."""

CREATED_AT = "2026-08-01T12:00:00.123456789Z"
NANOSECONDS_PER_TOKEN = 11_000_000
REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 500: "Internal Server Error"}


# What Ollama's lines look like.


def line(content: str = "", *, message: Mapping[str, Any] | None = None, **more: Any) -> bytes:
    """One line of ``/api/chat``, without its end.

    :param message: further fields of the message: ``thinking``, ``tool_calls``.
    :param more: further fields of the line, or other values for ``model``, ``created_at`` and ``done``.
    """
    said = {"role": "assistant", "content": content, **(message or {})}
    return _json({"model": "fake", "created_at": CREATED_AT, "message": said, "done": False} | more)


def last_line(content: str = "", *, message: Mapping[str, Any] | None = None, **more: Any) -> bytes:
    """The line that ends an answer, with Ollama's numbers (times in nanoseconds)."""
    return line(content, message=message, **{**_ending(prompt_tokens=10, tokens=5), **more})


def ndjson(*lines: bytes) -> bytes:
    """The lines as they stand in a body, each with its end."""
    return b"".join(one + b"\n" for one in lines)


def _ending(prompt_tokens: int, tokens: int) -> dict[str, Any]:
    return {
        "done": True,
        "done_reason": "stop",
        "total_duration": (prompt_tokens + tokens + 1) * NANOSECONDS_PER_TOKEN,
        "load_duration": NANOSECONDS_PER_TOKEN,
        "prompt_eval_count": prompt_tokens,
        "prompt_eval_duration": prompt_tokens * NANOSECONDS_PER_TOKEN,
        "eval_count": tokens,
        "eval_duration": tokens * NANOSECONDS_PER_TOKEN,
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# What a test can wait for and look at.


class Moment(Generic[T]):
    """Something that happens once, to wait for from any thread: ``wait()`` blocks, ``await`` does not."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._future: Future[T] = Future()

    def __await__(self) -> Generator[Any, None, T]:
        return self.within(PATIENCE).__await__()

    @property
    def happened(self) -> bool:
        return self._future.done()

    def happen(self, value: T) -> None:
        """Let it happen; only the first time counts."""
        if not self._future.done():
            self._future.set_result(value)

    def wait(self, timeout: float = PATIENCE) -> T:
        """Block until it happens.

        :raises TimeoutError: it did not, within ``timeout`` seconds.
        """
        try:
            return self._future.result(timeout)
        except TimeoutError:
            raise TimeoutError(f"not within {timeout} s: {self._what}") from None

    async def within(self, timeout: float | None) -> T:
        """As ``wait``, for a coroutine; ``None`` waits without limit."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and so nobody waits in it
                loop.call_soon_threadsafe(woken.set)

        self._future.add_done_callback(wake)
        try:
            await asyncio.wait_for(woken.wait(), timeout)
        except TimeoutError:
            raise TimeoutError(f"not within {timeout} s: {self._what}") from None
        return self._future.result()


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


class Answer:
    """The answer being given to one request; steps write it."""

    def __init__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.chunked = False
        self.keep_alive = False
        self.ended = False
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send exactly these bytes, in one write."""
        await asyncio.sleep(0)  # before, not after: nothing may come between the last write and "answered"
        self._writer.write(data)
        await self._writer.drain()
        self.request.sent += len(data)

    async def body(self, data: bytes) -> None:
        """Send a piece of the body in one write: one chunk if the head announced chunks."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

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
        _reset(self._writer)
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
    return Whole(status, _json({"error": error}))


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


@dataclass(eq=False)
class Words(Step):
    """A deterministic model: says ``w0 w1 w2 ...``, a word per line, five in all.

    A last ``assistant`` message is the beginning of what it says: it goes on with the next word and ends with
    the same last one, so a reply that was cut and continued reads as one that was not. With ``num_predict`` it says so
    many words more instead, without end if that is negative.

    :param pause: seconds before each word.
    :param hold: gates to wait at, each before the word of that number.
    """

    pause: float = 0.0
    hold: Mapping[int, Gate] = field(default_factory=dict)

    async def play(self, answer: Answer) -> None:
        request = answer.request.json
        said = _said(request)
        more = request.get("options", {}).get("num_predict", max(5 - said, 0))
        words = itertools.count(said) if more < 0 else range(said, said + more)
        ending = _ending(_prompt_tokens(request), max(more, 0))
        if request.get("stream", True):
            await self._stream(answer, request, words, ending)
        else:
            text = "".join([f"w{number} " for number in words])
            await Whole(200, _speak(request, text, **ending)).play(answer)

    async def _stream(
        self, answer: Answer, request: Mapping[str, Any], words: Iterable[int], ending: dict[str, Any]
    ) -> None:
        await Head().play(answer)
        for number in words:
            await self._wait(number, answer)
            await answer.body(ndjson(_speak(request, f"w{number} ")))
        await answer.body(ndjson(_speak(request, "", **ending)))
        await answer.end()

    async def _wait(self, number: int, answer: Answer) -> None:
        if self.pause:
            await asyncio.sleep(self.pause)
        if number in self.hold:
            await self.hold[number].play(answer)


def _said(request: Mapping[str, Any]) -> int:
    """How many words the request's last message has put into the model's mouth."""
    messages = request.get("messages") or [{}]
    last = messages[-1]
    return len(last["content"].split()) if last.get("role") == "assistant" else 0


def _prompt_tokens(request: Mapping[str, Any]) -> int:
    texts = [request.get("prompt", ""), *(message["content"] for message in request.get("messages", []))]
    return sum(len(text.split()) for text in texts)


def _speak(request: Mapping[str, Any], text: str, **more: Any) -> bytes:
    """A line in the shape of the API that was asked: chat has messages, generate a prompt."""
    if "messages" in request:
        return line(text, model=request["model"], **more)
    return _json({"model": request["model"], "created_at": CREATED_AT, "response": text, "done": False} | more)


# The server.


class ScriptedOllama:
    """Listens on a free port of 127.0.0.1 while its ``with`` block runs.

    A POST is answered with the next script that :meth:`script` queued, else with :attr:`default`. Probes (GET
    of ``/``, ``/api/version`` and ``/api/tags``) use up no script. An exception in its thread fails the test
    on exit.

    :param tls: the server's side of TLS, if it is to be spoken.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.default: tuple[Step, ...] = (Words(),)
        self.models: tuple[str | Mapping[str, Any], ...] = ("fake",)
        """What is listed: names, or further fields of Ollama's list with a name among them."""
        self.probed: Step | None = None
        """What all other requests are answered with, if they are not to be answered as Ollama does."""
        self.requests: list[Request] = []
        """The POSTs so far, in order."""
        self.probes: list[Request] = []
        """All other requests."""
        self.errors: list[BaseException] = []
        self._scripts: collections.deque[tuple[Step, ...]] = collections.deque()
        self._arrivals: dict[int, Moment[Request]] = {}
        self._lock = threading.Lock()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._loop = asyncio.SelectorEventLoop()  # by name: the program under test may have made uvloop the default
        self._leaving = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="scripted Ollama")
        self._server: asyncio.Server | None = None
        # Bound but never listening: keeps the port ours while nobody listens on it.
        self._reservation = _bound_socket(0)
        self.port: int = self._reservation.getsockname()[1]
        self._tls = tls
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.listen_again()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._call(self._shut_down)
        finally:
            self._loop.call_soon_threadsafe(self._leaving.set)
            self._thread.join(PATIENCE)
            self._reservation.close()
        if self.errors and error is not None:
            error.add_note(f"The scripted Ollama had failed before: {self.errors!r}")
        elif self.errors:
            raise self.errors[0]

    def script(self, *steps: Step) -> None:
        """Queue the answer to one POST; scripts are played in the order they were queued.

        :raises ValueError: there is no step, or one follows the answer's end.
        """
        if not steps or any(step.ends for step in steps[:-1]):
            raise ValueError("A script has steps, and none after the answer's end.")
        self._scripts.append(steps)

    def arrival(self, number: int) -> Moment[Request]:
        """When POST ``number`` (0 is the first), with its whole body, has arrived, perhaps already."""
        with self._lock:
            what = f"request {number} arrived at Ollama"
            return self._arrivals.setdefault(number, Moment(what))

    def forget(self) -> None:
        """Begin anew: no script is queued, the next POST is number 0, and it is answered as at the start."""
        with self._lock:
            self._scripts.clear()
            self.requests.clear()
            self.probes.clear()
            self._arrivals.clear()
            self.default = (Words(),)
            self.models = ("fake",)
            self.probed = None
        self.listen_again()

    def stop_listening(self) -> None:
        """Refuse new connections; those that stand go on."""
        self._call(self._stop_listening)

    def listen_again(self) -> None:
        """Listen, on the same port as before."""
        self._call(self._listen)

    def cut_connections(self) -> None:
        """Break all connections: RST. With ``stop_listening`` before it, this is Ollama's death."""
        self._call(self._cut_connections)

    # In its thread.

    def _run(self) -> None:
        self._loop.set_exception_handler(self._note_exception)
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._leaving.wait())

    def _note_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(context.get("exception") or RuntimeError(context["message"]))

    def _call(self, function: Callable[[], Awaitable[None]]) -> None:
        async def called() -> None:
            await function()

        asyncio.run_coroutine_threadsafe(called(), self._loop).result(PATIENCE)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await self._loop.create_server(
                self._connection, sock=_bound_socket(self.port), ssl=self._tls
            )

    async def _stop_listening(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await _stop_accepting(server)

    async def _cut_connections(self) -> None:
        tasks = list(self._connections)
        for task, writer in self._connections.items():
            _reset(writer)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _shut_down(self) -> None:
        await self._stop_listening()
        await self._cut_connections()
        await asyncio.sleep(0)  # sockets are closed by a callback

    def _connection(self) -> "_Connection":
        return _Connection(self._connected)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).close()
        if not task.cancelled() and (error := task.exception()):
            self.errors.append(error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._tls:  # asyncio's TLS never goes on writing after a limit of 0
            writer.transport.set_write_buffer_limits(0)  # so that "sent" means: the kernel has it
        with contextlib.suppress(ConnectionError):  # the client has gone; who cares is told by ``closed``
            while not writer.is_closing() and (request := await _read_request(reader)):
                await self._answer(request, writer)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        steps = self._take_script(request)
        connection = writer.transport.get_protocol()
        assert isinstance(connection, _Connection)
        playing = asyncio.ensure_future(_play(steps, Answer(request, writer)))
        leaving = asyncio.ensure_future(connection.gone.wait())
        try:
            await asyncio.wait({playing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                await playing
                request.answered.happen(None)
            else:
                request.closed.happen(None)
                writer.close()
        except ConnectionError:
            request.closed.happen(None)
            raise
        finally:
            playing.cancel()
            leaving.cancel()
            await asyncio.gather(playing, leaving, return_exceptions=True)

    def _take_script(self, request: Request) -> tuple[Step, ...]:
        if request.method != "POST":
            self.probes.append(request)
            return (self.probed or self._probed(request.path),)
        steps = self._scripts.popleft() if self._scripts else self.default
        self.requests.append(request)
        self.arrival(len(self.requests) - 1).happen(request)
        return steps

    def _probed(self, path: str) -> Whole:
        if path == "/":
            return Whole(200, b"Ollama is running", "text/plain; charset=utf-8")
        if path == "/api/version":
            return Whole(200, _json({"version": "0.0.0-fake"}))
        if path == "/api/tags":
            return Whole(200, _json({"models": [_described(model) for model in self.models]}))
        return Whole(404, b"404 page not found", "text/plain")


class _Connection(asyncio.StreamReaderProtocol):
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


async def _play(steps: Iterable[Step], answer: Answer) -> None:
    for step in steps:
        await step.play(answer)
    await answer.end()


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
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


def _described(model: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(model, str):
        return _described(model["name"]) | dict(model)
    name = model
    details = {"parent_model": "", "format": "gguf", "family": "fake", "families": ["fake"]}
    more = {"parameter_size": "1K", "quantization_level": "F16"}
    digest = "0" * 64
    return {
        "name": name,
        "model": name,
        "modified_at": CREATED_AT,
        "size": 1,
        "digest": digest,
        "details": details | more,
    }


def _bound_socket(port: int) -> socket.socket:
    """A socket bound to a port that it shares with the reservation."""
    # asyncio turns Nagle's algorithm off for a socket that names its protocol, and for no other.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


async def _stop_accepting(server: asyncio.Server) -> None:
    """Close a server, whose connections stand.

    asyncio loses what it accepts in the turn of the loop in which the server is closed: an open socket that nobody
    answers on. So it accepts nothing more first, and what it had accepted becomes a connection.
    """
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    for _ in range(4):  # what was just accepted becomes a task, then a transport, then a connection
        await asyncio.sleep(0)
    server.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
