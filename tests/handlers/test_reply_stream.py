"""Viewers on real connections in the test's own loop, of replies whose every commit is the test's: order and
completeness, whatever a connection takes and when."""

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
from handlers.reply_stream import WRITE_LIMIT, ReplyStreamHandler
from relay.cluster.notifications import Notifier
from relay.factory import create_relay
from relay.generation.reply_buffer import ReplyBuffer
from relay.metrics import Metrics
from relay.ollama.client import OllamaClient
from relay.stream import sse
from relay.stream.cursor import Cursor, CursorContext
from settings import Settings
from web.services import Services, create_services

HEARTBEAT = 0.05
BUFFER = 4_096
"""Bytes that the kernel is asked to hold of a connection in each direction; it takes a few times as much."""

PATIENCE = 30.0


class Shown(ReplyStreamHandler):
    """Shows the one reply of the test."""

    access = Access.AUTHENTICATED

    async def get(self) -> None:
        stage: Stage = self.settings["stage"]
        stage.viewers.append(self)
        await self.stream(stage.cursor())


class Stage:
    """A reply, a server that shows it, and clients of that server."""

    def __init__(self, services: Services, doorbell: Notifier) -> None:
        self.reply = ReplyBuffer(uuid4(), "", "fake", owner=1)
        self.viewers: list[Shown] = []
        self.views: list[View] = []
        self.lines: list[bytes] = []
        self.url = ("127.0.0.1", 0)
        self.client_ssl: ssl.SSLContext | None = None
        self.services = services
        self._doorbell = doorbell

    def cursor(self) -> Cursor:
        services = self.services
        context = CursorContext(services.replies, services.database, self._doorbell, services.settings)
        return Cursor(context, "", self.reply.id, 0, self.reply)

    def commit(self, *lines: bytes) -> None:
        """Commit lines in one round."""
        for line in lines:
            self.reply.append(line)
        self.lines += lines
        self.reply.commit_all(asyncio.get_running_loop().time())

    def end(self, *lines: bytes) -> None:
        """End the reply in the same turn of the loop as its last lines are committed, as Generation does it."""
        self.commit(*lines)
        self.reply.end()

    @property
    def whole(self) -> bytes:
        """All events."""
        return b"".join(sse.event(number, line) for number, line in enumerate(self.lines))

    async def view(self, version: str = "1.1", headers: str = "") -> "View":
        """Open a connection and wait until its viewer watches the reply."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, self.url)
        server_name = "localhost" if self.client_ssl else None
        reader, writer = await asyncio.open_connection(
            sock=connection, limit=BUFFER, ssl=self.client_ssl, server_hostname=server_name
        )
        writer.write(f"GET /shown HTTP/{version}\r\nHost: localhost\r\n{headers}\r\n".encode())
        watching = len(self.reply._subscribers)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        await until(lambda: len(self.reply._subscribers) > watching)
        self.views.append(View(reader, writer, head))
        return self.views[-1]


class View:
    """One client's side.

    :ivar head: the answer's headers.
    :ivar comments: how many there were, when the whole is read.
    :ivar reads: set while the client reads; clear, it takes nothing, and its connection fills up.
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

    async def whole(self) -> bytes:
        """The events up to the body's proper end; the comments between them are counted."""
        self.reads.set()
        *events, rest = (await self._body).split(b"\n\n")
        assert rest == b""
        kept = [event + b"\n\n" for event in events if not event.startswith(b":")]
        self.comments = len(events) - len(kept)
        return b"".join(kept)

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
        """Break the connection: RST."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await self.close()

    async def close(self) -> None:
        """Read no more."""
        self._writer.transport.abort()
        self._body.cancel()
        await asyncio.gather(self._body, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def staged(url: str, certificate: Path | None, changed: dict[str, float]) -> AsyncIterator[Stage]:
    settings = replace(Settings(database_url=url, heartbeat_interval=HEARTBEAT), **changed)  # type: ignore[arg-type]
    database = Database(url, settings.pool_size, settings.acquire_timeout)
    await database.open()
    async with AsyncExitStack() as parts:
        parts.push_async_callback(database.close)
        ollama = OllamaClient("http://127.0.0.1:9", settings.max_replies, settings.connect_timeout)
        parts.callback(ollama.close)
        metrics = Metrics()
        relay = await create_relay(parts, database, ollama, settings, metrics)
        stage = Stage(
            create_services(settings, database, ollama, relay, metrics, None, AllowedOrigins()), Notifier(database)
        )
        server_ssl = None
        if certificate:
            server_ssl = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            server_ssl.load_cert_chain(certificate)
            stage.client_ssl = ssl.create_default_context(cafile=str(certificate))
        application = Application([("/shown", Shown)], services=stage.services, stage=stage)
        server = HTTPServer(application, ssl_options=server_ssl)
        [listening] = bind_sockets(0, "127.0.0.1")
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)  # what it takes is taken over by connections
        stage.url = listening.getsockname()
        server.add_socket(listening)
        try:
            yield stage
        finally:
            for view in stage.views:
                await view.close()
            await relay.replies.drain(0)
            server.stop()
            await server.close_all_connections()


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    key, signed, both = (folder / name for name in ("key", "signed", "both.pem"))
    making = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*making.split(), "-keyout", key, "-out", signed], check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + signed.read_bytes())
    return both


def play(
    url: str,
    act: Callable[[Stage], Coroutine[Any, Any, None]],
    certificate: Path | None = None,
    **changed: float,
) -> None:
    async def run() -> None:
        async with staged(url, certificate, changed) as stage, asyncio.timeout(6 * PATIENCE):
            await act(stage)

    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(run())


def in_one_turn_with_the_heartbeat(act: Callable[[], None]) -> None:
    """Do something in the turn of the loop in which every viewer's heartbeat is due too, just after it.

    A loop that was busy for long finds both due at once.
    """
    loop = asyncio.get_running_loop()
    loop.call_later(1.2 * HEARTBEAT, act)
    loop.call_soon(time.sleep, 2 * HEARTBEAT)


VERSIONS = pytest.mark.parametrize("version", ["1.0", "1.1"])


@VERSIONS
def test_the_last_event_is_sent_if_a_heartbeat_is_due_in_the_same_iteration(url: str, version: str) -> None:
    async def act(stage: Stage) -> None:
        view = await stage.view(version)
        stage.commit(b"first")
        in_one_turn_with_the_heartbeat(lambda: stage.end(b"last"))
        assert await view.whole() == stage.whole

    play(url, act)


@VERSIONS
def test_events_keep_their_order_if_a_heartbeat_is_due_in_the_same_iteration(url: str, version: str) -> None:
    async def act(stage: Stage) -> None:
        def commit() -> None:
            stage.commit(b"small")
            stage.commit(b"large" * WRITE_LIMIT)
            stage.end(b"last")

        view = await stage.view(version)
        in_one_turn_with_the_heartbeat(commit)
        assert await view.whole() == stage.whole

    play(url, act)


def taken(stage: Stage) -> bool:
    """Whether the connections have taken all that was written to them."""
    return not any(viewer._client.stream.writing() for viewer in stage.viewers)


async def fill(stage: Stage, choice: random.Random) -> None:
    """Commit lines until no connection takes any more, each of them full somewhere inside an event."""
    while not all(viewer._client.stream.writing() for viewer in stage.viewers):
        stage.commit(*(b"x" * choice.randint(1, 900) for _ in range(5)))
        await asyncio.sleep(0)


@VERSIONS
def test_a_viewer_that_pauses_receives_everything_in_order(url: str, version: str) -> None:
    async def act(stage: Stage) -> None:
        choice = random.Random(1)
        views = [await stage.view(version) for _ in range(3)]
        for _ in range(3):
            for view in views:
                view.reads.clear()
            await fill(stage, choice)
            stage.commit(b"waits")
            await asyncio.sleep(2 * HEARTBEAT)  # so does a comment
            stage.commit(b"waits too")
            for view in views:
                view.reads.set()
            await until(lambda: taken(stage))
            for number in range(100):
                stage.commit(b"fast %d" % number)
                await asyncio.sleep(0)
        stage.end(b"last")
        assert [await view.whole() for view in views] == [stage.whole] * 3

    play(url, act)


def test_a_viewer_over_tls_receives_everything_in_order(url: str, certificate: Path) -> None:
    async def act(stage: Stage) -> None:
        choice = random.Random(2)
        view = await stage.view()
        for _ in range(2):
            view.reads.clear()
            await fill(stage, choice)
            stage.commit(b"waits")
            await asyncio.sleep(2 * HEARTBEAT)
            view.reads.set()
            await until(lambda: taken(stage))
            stage.commit(b"fast")
        in_one_turn_with_the_heartbeat(lambda: stage.end(b"last"))
        assert await view.whole() == stage.whole

    play(url, act, certificate=certificate)


@pytest.mark.parametrize("headers", ["Connection: keep-alive\r\n", "Connection: Keep-Alive\r\nContent-Length: 0\r\n"])
def test_an_http_1_0_stream_ends_with_the_connection_even_with_keep_alive(url: str, headers: str) -> None:
    async def act(stage: Stage) -> None:
        view = await stage.view("1.0", headers)
        assert "keep-alive" not in view.head.lower()
        stage.end(b"last")
        assert await view.whole() == stage.whole

    play(url, act)


def test_a_reset_connection_does_not_disturb_other_viewers(url: str) -> None:
    async def act(stage: Stage) -> None:
        views = [await stage.view() for _ in range(6)]
        stage.commit(b"first")
        for view in views[::2]:
            await view.reset()
            stage.commit(b"sent before the loop has seen the break")
            stage.commit(b"and again")
        await until(lambda: len(stage.reply._subscribers) == 3)
        in_one_turn_with_the_heartbeat(lambda: stage.end(b"last"))
        assert [await view.whole() for view in views[1::2]] == [stage.whole] * 3

    play(url, act)


def test_a_connection_reset_in_the_iteration_of_the_replys_end_ends_its_viewer(url: str) -> None:
    async def act(stage: Stage) -> None:
        views = [await stage.view() for _ in range(4)]
        stage.commit(b"first")
        loop = asyncio.get_running_loop()
        loop.call_later(1.2 * HEARTBEAT, stage.end, b"last")
        for view in views[::2]:
            await view.reset()
        time.sleep(2 * HEARTBEAT)
        assert [await view.whole() for view in views[1::2]] == [stage.whole] * 2
        await until(lambda: all(viewer._viewer is None or viewer._viewer.done() for viewer in stage.viewers))

    play(url, act)


def test_the_write_buffer_of_a_viewer_is_bounded_for_large_lines(url: str) -> None:
    async def act(stage: Stage) -> None:
        views = [await stage.view() for _ in range(3)]
        for view in views:
            view.reads.clear()
        stage.commit(b"x" * 4_000_000)
        await until(lambda: not taken(stage))
        for viewer in stage.viewers:
            assert len(viewer._client.stream._write_buffer) < 2 * WRITE_LIMIT
        stage.end(b"last")
        assert [await view.whole() for view in views] == [stage.whole] * 3

    play(url, act)


def test_a_viewer_that_does_not_read_is_dropped_and_others_receive_everything(
    url: str,
) -> None:
    async def act(stage: Stage) -> None:
        views = [await stage.view() for _ in range(2)]
        views[0].reads.clear()
        while not stage.viewers[0]._client.stream.closed():
            stage.commit(b"x" * 500)
            await asyncio.sleep(0.001)
        stage.end(b"last")
        assert await views[1].whole() == stage.whole
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await views[0].whole()

    play(url, act, client_write_timeout=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_viewers_with_random_pauses_receive_everything_in_order(url: str, seed: int) -> None:
    async def act(stage: Stage) -> None:
        choice = random.Random(seed)
        views = [await stage.view(choice.choice(["1.0", "1.1"])) for _ in range(8)]
        for _ in range(300):
            for _ in range(choice.choice([1, 1, 1, 3])):
                size = choice.choice([5, 100, 1_000, 10_000, WRITE_LIMIT, 2 * WRITE_LIMIT])
                stage.commit(*(b"x" * choice.randint(1, size) for _ in range(choice.choice([1, 1, 2, 7]))))
            view = choice.choice(views)
            view.reads.clear() if view.reads.is_set() else view.reads.set()
            if choice.random() < 0.1:
                time.sleep(0.002)  # past the heartbeat
            await asyncio.sleep(choice.choice([0, 0, 0.001, 0.002]))
        in_one_turn = choice.choice([lambda: stage.end(b"last"), lambda: stage.end()])
        asyncio.get_running_loop().call_later(0.002, in_one_turn)
        time.sleep(0.003)
        assert [await view.whole() == stage.whole for view in views] == [True] * len(views)

    play(url, act, heartbeat_interval=0.002)
