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
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import uvloop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from db.pool import Database
from handlers.base import Services
from handlers.viewer import WRITE_LIMIT, ViewerHandler
from relay import sse
from relay.cursor import Cursor
from relay.doorbell import Doorbell
from relay.ollama import Ollama
from relay.replies import Replies
from relay.reply import Reply
from relay.start import start_relay
from settings import Settings

HEARTBEAT = 0.05
BUFFER = 4_096
"""Bytes that the kernel is asked to hold of a connection in each direction; it takes a few times as much."""

PATIENCE = 10.0


class Shown(ViewerHandler):
    """Shows the one reply of the test."""

    async def get(self) -> None:
        stage: Stage = self.settings["stage"]
        stage.viewers.append(self)
        await self.show(stage.cursor())


class Stage:
    """A reply, a server that shows it, and clients of that server."""

    def __init__(self, services: Services, doorbell: Doorbell) -> None:
        self.reply = Reply(uuid4(), "", "fake", owner=1)
        self.viewers: list[Shown] = []
        self.lines: list[bytes] = []
        self.url = ("127.0.0.1", 0)
        self.client_ssl: ssl.SSLContext | None = None
        self.services = services
        self._doorbell = doorbell

    def cursor(self) -> Cursor:
        services = self.services
        return Cursor(
            services.replies, services.database, self._doorbell, "", self.reply.id, 0, services.settings, self.reply
        )

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
        watching = len(self.reply._watchers)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        await until(lambda: len(self.reply._watchers) > watching)
        return View(reader, writer, head)


class View:
    """One client's side.

    :ivar reads: set while the client reads; clear, it takes nothing, and its connection fills up.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> None:
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
        self._writer.transport.abort()
        await asyncio.gather(self._body, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def staged(url: str, heartbeat: float, certificate: Path | None) -> AsyncIterator[Stage]:
    settings = Settings(database_url=url, heartbeat=heartbeat)
    database = Database(url, settings.pool_size, settings.acquire_timeout)
    await database.open()
    async with AsyncExitStack() as parts:
        parts.push_async_callback(database.close)
        ollama = Ollama("http://127.0.0.1:9", settings.max_replies, settings.connect_timeout)
        parts.callback(ollama.close)
        replies: Replies = await start_relay(parts, database, ollama, settings)
        stage = Stage(Services(settings, database, ollama, replies), Doorbell(database))
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
            await replies.drain(0)
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
    heartbeat: float = HEARTBEAT,
    certificate: Path | None = None,
) -> None:
    async def run() -> None:
        async with staged(url, heartbeat, certificate) as stage, asyncio.timeout(6 * PATIENCE):
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
def test_the_last_event_is_sent_though_the_heartbeat_is_due_in_the_same_turn(url: str, version: str) -> None:
    async def act(stage: Stage) -> None:
        view = await stage.view(version)
        stage.commit(b"first")
        in_one_turn_with_the_heartbeat(lambda: stage.end(b"last"))
        assert await view.whole() == stage.whole

    play(url, act)


@VERSIONS
def test_events_keep_their_order_though_the_heartbeat_is_due_in_the_same_turn(url: str, version: str) -> None:
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
    return not any(viewer._outlet.stream.writing() for viewer in stage.viewers)


async def fill(stage: Stage, choice: random.Random) -> None:
    """Commit lines until no connection takes any more, each of them full somewhere inside an event."""
    while not all(viewer._outlet.stream.writing() for viewer in stage.viewers):
        stage.commit(*(b"x" * choice.randint(1, 900) for _ in range(5)))
        await asyncio.sleep(0)


@VERSIONS
def test_a_viewer_that_is_slow_and_then_fast_again_sees_everything_in_order(url: str, version: str) -> None:
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
