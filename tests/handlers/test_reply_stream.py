"""Streams of replies over real connections whose clients pause, disconnect or do not read."""

import asyncio
import random
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import uvloop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from auth.origins import AllowedOrigins
from auth.principal import Access
from db.pool import Database
from handlers.reply_stream import ReplyStreamHandler
from relay.cluster.notifications import Notifier
from relay.factory import create_relay
from relay.generation.reply_buffer import ReplyBuffer
from relay.metrics import Metrics
from relay.ollama.client import OllamaClient
from relay.ollama.upstreams import Upstreams
from relay.stream import sse
from relay.stream.cursor import Cursor, CursorContext
from relay.stream.log_reader import LogReader
from settings import Settings
from web.responses.streaming import WRITE_LIMIT
from web.services import Services, create_services

HEARTBEAT = 0.05
BUFFER = 4_096
"""Size of each socket's send and receive buffer; the kernel uses a multiple of it."""

TIMEOUT = 30.0
"""Seconds after which an awaited condition has failed."""


class Handler(ReplyStreamHandler):
    """Streams the reply of the test."""

    access = Access.AUTHENTICATED

    async def get(self) -> None:
        server: ReplyServer = self.settings["server"]
        server.viewers.append(self)
        await self.stream(server.cursor())


class ReplyServer:
    """A reply, a server that streams it, and clients of that server."""

    def __init__(self, services: Services, notifier: Notifier) -> None:
        self.reply = ReplyBuffer(uuid4(), "", "fake", owner=1)
        self.viewers: list[Handler] = []
        self.views: list[View] = []
        self.lines: list[bytes] = []
        self.url = ("127.0.0.1", 0)
        self.client_ssl: ssl.SSLContext | None = None
        self.services = services
        self._notifier = notifier

    def cursor(self) -> Cursor:
        services = self.services
        context = CursorContext(
            services.replies, LogReader(services.database, 3_600), self._notifier, services.settings
        )
        return Cursor(context, "", self.reply.id, 0, self.reply)

    def commit(self, *lines: bytes) -> None:
        """Commit lines in one batch."""
        for line in lines:
            self.reply.append(line)
        self.lines += lines
        self.reply.commit_all(asyncio.get_running_loop().time())

    def end(self, *lines: bytes) -> None:
        """Commit the last lines and end the reply in one iteration of the event loop, as Generation does."""
        self.commit(*lines)
        self.reply.end()

    @property
    def stream(self) -> bytes:
        """All events as they are sent."""
        return b"".join(sse.event(number, line) for number, line in enumerate(self.lines))

    async def view(self, version: str = "1.1", headers: str = "") -> "View":
        """Open a connection and wait until its handler has subscribed to the reply."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, self.url)
        server_name = "localhost" if self.client_ssl else None
        reader, writer = await asyncio.open_connection(
            sock=connection, limit=BUFFER, ssl=self.client_ssl, server_hostname=server_name
        )
        writer.write(f"GET /reply HTTP/{version}\r\nHost: localhost\r\n{headers}\r\n".encode())
        subscribers = len(self.reply._subscribers)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        await until(lambda: len(self.reply._subscribers) > subscribers)
        self.views.append(View(reader, writer, head))
        return self.views[-1]


class View:
    """A client of a stream.

    :ivar head: the response's head.
    :ivar comments: number of comments, after :meth:`events`.
    :ivar reads: cleared while the client does not read, so that the socket's buffers fill up.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> None:
        self.head = head
        self.comments = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self._reader = reader
        self._writer = writer
        self._chunked = "transfer-encoding: chunked" in head.lower()
        self._body = asyncio.create_task(self._read())

    async def events(self) -> bytes:
        """Read to the end of the body, which must be complete; return the events without comments."""
        self.reads.set()
        lines = (await self._body).split(b"\n")
        without_comments = [line for line in lines if not line.startswith(b":")]
        self.comments = len(lines) - len(without_comments)
        return b"\n".join(without_comments)

    async def _read(self) -> bytes:
        body = bytearray()
        while piece := await self._piece():
            body += piece
        self._writer.close()
        return bytes(body)

    async def _piece(self) -> bytes:
        await self.reads.wait()
        if not self._chunked:
            return await self._reader.read(BUFFER)
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        piece = await self._reader.readexactly(size)
        assert await self._reader.readexactly(2) == b"\r\n"
        return piece

    async def reset(self) -> None:
        """Reset the connection."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        self._writer.transport.abort()
        self._body.cancel()
        await asyncio.gather(self._body, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serve(url: str, certificate: Path | None, changed: dict[str, float]) -> AsyncIterator[ReplyServer]:
    settings = replace(Settings(database_url=url, heartbeat_interval=HEARTBEAT), **changed)  # type: ignore[arg-type]
    database = Database(url, settings.pool_size, settings.acquire_timeout)
    await database.open()
    async with AsyncExitStack() as parts:
        parts.push_async_callback(database.close)
        ollama = OllamaClient("http://127.0.0.1:9", settings.max_replies, settings.connect_timeout)
        parts.callback(ollama.close)
        metrics = Metrics()
        relay = await create_relay(parts, database, Upstreams(ollama), settings, metrics)
        server = ReplyServer(
            create_services(settings, database, Upstreams(ollama), relay, metrics, None, AllowedOrigins()),
            Notifier(database),
        )
        server_ssl = None
        if certificate:
            server_ssl = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            server_ssl.load_cert_chain(certificate)
            server.client_ssl = ssl.create_default_context(cafile=str(certificate))
        application = Application([("/reply", Handler)], services=server.services, server=server)
        http_server = HTTPServer(application, ssl_options=server_ssl)
        [listening] = bind_sockets(0, "127.0.0.1")
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)  # inherited by accepted connections
        server.url = listening.getsockname()
        http_server.add_socket(listening)
        try:
            yield server
        finally:
            for view in server.views:
                await view.close()
            await relay.replies.drain(0)
            http_server.stop()
            await http_server.close_all_connections()


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost and its key in one file."""
    folder = tmp_path_factory.mktemp("tls")
    key, signed, both = (folder / name for name in ("key", "signed", "both.pem"))
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", signed], check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + signed.read_bytes())
    return both


def run(
    url: str,
    act: Callable[[ReplyServer], Coroutine[Any, Any, None]],
    certificate: Path | None = None,
    **changed: float,
) -> None:
    async def with_timeout() -> None:
        async with serve(url, certificate, changed) as server, asyncio.timeout(6 * TIMEOUT):
            await act(server)

    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(with_timeout())


def in_one_iteration_with_the_heartbeat(act: Callable[[], None]) -> None:
    """Call ``act`` in the iteration of the event loop in which every viewer's heartbeat is due, just after it.

    Both are due in one iteration if the loop was blocked.
    """
    loop = asyncio.get_running_loop()
    loop.call_later(1.2 * HEARTBEAT, act)
    loop.call_soon(time.sleep, 2 * HEARTBEAT)


VERSIONS = pytest.mark.parametrize("version", ["1.0", "1.1"])


@VERSIONS
def test_the_last_event_is_sent_if_a_heartbeat_is_due_in_the_same_iteration(url: str, version: str) -> None:
    async def act(server: ReplyServer) -> None:
        view = await server.view(version)
        server.commit(b"first")
        in_one_iteration_with_the_heartbeat(lambda: server.end(b"last"))
        assert await view.events() == server.stream

    run(url, act)


@VERSIONS
def test_events_keep_their_order_if_a_heartbeat_is_due_in_the_same_iteration(url: str, version: str) -> None:
    async def act(server: ReplyServer) -> None:
        def commit() -> None:
            server.commit(b"small")
            server.commit(b"large" * WRITE_LIMIT)
            server.end(b"last")

        view = await server.view(version)
        in_one_iteration_with_the_heartbeat(commit)
        assert await view.events() == server.stream

    run(url, act)


def all_written(server: ReplyServer) -> bool:
    """Return whether the sockets have accepted all data."""
    return not any(viewer._client.stream.writing() for viewer in server.viewers)


async def fill(server: ReplyServer, choice: random.Random) -> None:
    """Commit lines until no socket accepts more, each of them full somewhere inside an event."""
    while not all(viewer._client.stream.writing() for viewer in server.viewers):
        server.commit(*(b"x" * choice.randint(1, 900) for _ in range(5)))
        await asyncio.sleep(0)


@VERSIONS
def test_a_viewer_that_pauses_receives_everything_in_order(url: str, version: str) -> None:
    async def act(server: ReplyServer) -> None:
        choice = random.Random(1)
        views = [await server.view(version) for _ in range(3)]
        for _ in range(3):
            for view in views:
                view.reads.clear()
            await fill(server, choice)
            server.commit(b"pending")
            await asyncio.sleep(2 * HEARTBEAT)  # a comment is pending, too
            server.commit(b"pending, too")
            for view in views:
                view.reads.set()
            await until(lambda: all_written(server))
            for number in range(100):
                server.commit(b"fast %d" % number)
                await asyncio.sleep(0)
        server.end(b"last")
        assert [await view.events() for view in views] == [server.stream] * 3

    run(url, act)


def test_a_viewer_over_tls_receives_everything_in_order(url: str, certificate: Path) -> None:
    async def act(server: ReplyServer) -> None:
        choice = random.Random(2)
        view = await server.view()
        for _ in range(2):
            view.reads.clear()
            await fill(server, choice)
            server.commit(b"pending")
            await asyncio.sleep(2 * HEARTBEAT)
            view.reads.set()
            await until(lambda: all_written(server))
            server.commit(b"fast")
        in_one_iteration_with_the_heartbeat(lambda: server.end(b"last"))
        assert await view.events() == server.stream

    run(url, act, certificate=certificate)


@pytest.mark.parametrize("headers", ["Connection: keep-alive\r\n", "Connection: Keep-Alive\r\nContent-Length: 0\r\n"])
def test_an_http_1_0_stream_ends_with_the_connection_even_with_keep_alive(url: str, headers: str) -> None:
    async def act(server: ReplyServer) -> None:
        view = await server.view("1.0", headers)
        assert "keep-alive" not in view.head.lower()
        server.end(b"last")
        assert await view.events() == server.stream

    run(url, act)


def test_a_reset_connection_does_not_disturb_other_viewers(url: str) -> None:
    async def act(server: ReplyServer) -> None:
        views = [await server.view() for _ in range(6)]
        server.commit(b"first")
        for view in views[::2]:
            await view.reset()
            server.commit(b"sent before the loop has noticed the reset")
            server.commit(b"second")
        await until(lambda: len(server.reply._subscribers) == 3)
        in_one_iteration_with_the_heartbeat(lambda: server.end(b"last"))
        assert [await view.events() for view in views[1::2]] == [server.stream] * 3

    run(url, act)


def test_a_connection_reset_in_the_iteration_of_the_replys_end_ends_its_viewer(url: str) -> None:
    async def act(server: ReplyServer) -> None:
        views = [await server.view() for _ in range(4)]
        server.commit(b"first")
        loop = asyncio.get_running_loop()
        loop.call_later(1.2 * HEARTBEAT, server.end, b"last")
        for view in views[::2]:
            await view.reset()
        time.sleep(2 * HEARTBEAT)
        assert [await view.events() for view in views[1::2]] == [server.stream] * 2
        await until(lambda: all(viewer._writing is None or viewer._writing.done() for viewer in server.viewers))

    run(url, act)


def test_the_write_buffer_of_a_viewer_is_bounded_for_large_lines(url: str) -> None:
    async def act(server: ReplyServer) -> None:
        views = [await server.view() for _ in range(3)]
        for view in views:
            view.reads.clear()
        server.commit(b"x" * 4_000_000)
        await until(lambda: not all_written(server))
        for viewer in server.viewers:
            assert len(viewer._client.stream._write_buffer) < 2 * WRITE_LIMIT
        server.end(b"last")
        assert [await view.events() for view in views] == [server.stream] * 3

    run(url, act)


def test_a_viewer_that_does_not_read_is_dropped_and_others_receive_everything(
    url: str,
) -> None:
    async def act(server: ReplyServer) -> None:
        views = [await server.view() for _ in range(2)]
        views[0].reads.clear()
        while not server.viewers[0]._client.stream.closed():
            server.commit(b"x" * 500)
            await asyncio.sleep(0.001)
        server.end(b"last")
        assert await views[1].events() == server.stream
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await views[0].events()

    run(url, act, client_write_timeout=0.2)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.extended) for seed in range(1, 5))])
def test_viewers_with_random_pauses_receive_everything_in_order(url: str, seed: int) -> None:
    async def act(server: ReplyServer) -> None:
        choice = random.Random(seed)
        views = [await server.view(choice.choice(["1.0", "1.1"])) for _ in range(8)]
        for _ in range(300):
            for _ in range(choice.choice([1, 1, 1, 3])):
                size = choice.choice([5, 100, 1_000, 10_000, WRITE_LIMIT, 2 * WRITE_LIMIT])
                server.commit(*(b"x" * choice.randint(1, size) for _ in range(choice.choice([1, 1, 2, 7]))))
            view = choice.choice(views)
            view.reads.clear() if view.reads.is_set() else view.reads.set()
            if choice.random() < 0.1:
                time.sleep(0.002)  # longer than the heartbeat interval
            await asyncio.sleep(choice.choice([0, 0, 0.001, 0.002]))
        end = choice.choice([lambda: server.end(b"last"), lambda: server.end()])
        asyncio.get_running_loop().call_later(0.002, end)
        time.sleep(0.003)
        assert [await view.events() == server.stream for view in views] == [True] * len(views)

    run(url, act, heartbeat_interval=0.002)
