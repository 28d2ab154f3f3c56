"""How requests of StreamingClient end: cancelled, closed, failed in a callback, timed out; and many at once."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.httpclient import HTTPError, HTTPRequest

from relay.ollama import http_client, transfer
from relay.ollama.http_client import StreamingClient
from relay.ollama.response_parser import RemoteProtocolError
from tests.fakes.peer import Connection, Peer

from .conftest import NewClient

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LARGE_BODY = bytes(33_000_000)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Peer() as peer:
        yield peer


async def iterate(count: int) -> None:
    """Let the event loop make this many iterations."""
    for _ in range(count):
        await asyncio.sleep(0)


# Cancelled.


@pytest.mark.parametrize("count", range(6))
async def test_a_request_cancelled_while_connecting_ends_at_once(http: StreamingClient, peer: Peer, count: int) -> None:
    request = HTTPRequest(peer.url(host="localhost"), method="POST", body=b"x" * 10)
    fetch = http.fetch(request)
    await iterate(count)
    http.cancel(request)
    assert fetch.done()
    with pytest.raises(RemoteProtocolError):
        await fetch
    assert (await fetch_last(http, peer)) == b"words"


async def fetch_last(http: StreamingClient, peer: Peer) -> bytes:
    """Fetch a body, and check that all connections made before are closed."""
    fetch = http.fetch(peer.url("/last"))
    while True:
        connection = await peer.accept()
        try:
            request = await connection.request()
        except (asyncio.IncompleteReadError, ConnectionError):
            continue
        if b"/last" not in request:
            await connection.left()
            continue
        connection.say(OK + b"Content-Length: 5\r\n\r\nwords")
        return (await fetch).body


async def test_a_request_cancelled_while_sending_ends_at_once(http: StreamingClient, peer: Peer) -> None:
    request = HTTPRequest(peer.url(), method="POST", body=LARGE_BODY)
    fetch = http.fetch(request)
    connection = await peer.accept()
    assert (await connection.read()).startswith(b"POST / HTTP/1.1\r\n")
    again = http.fetch(HTTPRequest(peer.url("/again"), method="POST", body=LARGE_BODY))
    http.cancel(request)  # the next one may get this one's file descriptor
    with pytest.raises(RemoteProtocolError):
        await fetch
    await connection.left()
    connection = await peer.accept()
    assert (await connection.request()).endswith(LARGE_BODY)
    connection.say(OK + b"Content-Length: 5\r\n\r\nwords")
    assert (await again).body == b"words"


async def test_a_request_cancelled_while_receiving_closes_its_connection_and_receives_no_more(
    http: StreamingClient, peer: Peer
) -> None:
    received = asyncio.Queue[bytes]()
    request = HTTPRequest(peer.url(), streaming_callback=received.put_nowait)
    fetch = http.fetch(request)
    connection = await peer.accept()
    connection.say(CHUNKED + b"1\r\na\r\n")
    assert await received.get() == b"a"
    http.cancel(request)
    http.cancel(request)
    connection.say(b"1\r\nb\r\n")
    with pytest.raises(RemoteProtocolError):
        await fetch
    await connection.left()
    assert received.empty()


@pytest.mark.parametrize("callback", ["header_callback", "streaming_callback"])
async def test_a_callback_that_cancels_its_own_request_is_not_called_again(
    http: StreamingClient, peer: Peer, callback: str
) -> None:
    calls: list[object] = []

    def cancel(value: object) -> None:
        calls.append(value)
        http.cancel(request)

    request = HTTPRequest(peer.url(), streaming_callback=calls.append)
    setattr(request, callback, cancel)
    fetch = http.fetch(request)
    connection = await peer.accept()
    connection.say(CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="cancelled"):
        await fetch
    await connection.left()
    assert len(calls) == 1


async def test_a_callback_can_close_the_client(http: StreamingClient, peer: Peer) -> None:
    fetch = http.fetch(HTTPRequest(peer.url(), streaming_callback=lambda _: http.close()))
    other = http.fetch(peer.url("/other"))
    for _ in range(2):
        (await peer.accept()).say(CHUNKED + b"1\r\na\r\n")
    for ended in (fetch, other):
        with pytest.raises(RemoteProtocolError):
            await ended


@pytest.mark.parametrize("callback", ["header_callback", "streaming_callback"])
async def test_the_fetch_fails_with_what_a_callback_raises_and_others_go_on(
    http: StreamingClient, peer: Peer, callback: str
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    request = HTTPRequest(peer.url(), streaming_callback=lambda _: None)
    setattr(request, callback, fail)
    fetch = http.fetch(request)
    others = [http.fetch(peer.url()) for _ in range(3)]
    connections = [await peer.accept() for _ in range(4)]
    for connection in connections:
        connection.say(OK + b"Content-Length: 5\r\n\r\nwords")
    with pytest.raises(ZeroDivisionError):
        await fetch
    assert [(await other).body for other in others] == [b"words"] * 3


# The queue.


async def test_requests_beyond_the_limit_are_queued_and_cancelled_ones_are_freed(
    new_client: NewClient, peer: Peer
) -> None:
    http = new_client(max_clients=1)
    first = http.fetch(peer.url("/first"))
    cancelled = [HTTPRequest(peer.url("/cancelled"), method="POST", body=b"") for _ in range(100)]
    fetches = [http.fetch(request) for request in cancelled]
    last = http.fetch(peer.url("/last"))
    connection = await peer.accept()
    for request in cancelled:
        http.cancel(request)
    gone = weakref.ref(cancelled.pop())
    for fetch in fetches:
        with pytest.raises(RemoteProtocolError):
            await fetch
    del request, fetch, fetches, cancelled
    gc.collect()
    assert gone() is None, "a cancelled request stays in the queue"
    connection.say(OK + b"Content-Length: 0\r\n\r\n")
    await first
    connection = await peer.accept()
    assert (await connection.request()).startswith(b"GET /last ")
    connection.say(OK + b"Content-Length: 0\r\n\r\n")
    await last


async def test_a_request_can_be_fetched_only_once_at_a_time(http: StreamingClient, peer: Peer) -> None:
    request = HTTPRequest(peer.url())
    for _ in range(2):
        fetch = http.fetch(request)
        with pytest.raises(ValueError, match="once"):
            http.fetch(request)
        (await peer.accept()).say(OK + b"Content-Length: 5\r\n\r\nwords")
        assert (await fetch).body == b"words"


async def test_closing_the_client_ends_active_and_queued_requests(new_client: NewClient, peer: Peer) -> None:
    http = new_client(max_clients=2)
    fetches = [http.fetch(HTTPRequest(peer.url(), method="POST", body=LARGE_BODY)) for _ in range(5)]
    connections = [await peer.accept(), await peer.accept()]
    http.close()
    http.close()
    for fetch in fetches:
        with pytest.raises(RemoteProtocolError):
            await fetch
    for connection in connections:
        await connection.left()
    with pytest.raises(RuntimeError):
        http.fetch(peer.url())
    assert len(peer.arrived) == 2


# Timeouts, and responses before the request is sent completely.


async def test_a_response_that_takes_too_long_times_out(http: StreamingClient, peer: Peer) -> None:
    fetch = http.fetch(HTTPRequest(peer.url(), request_timeout=0.2, streaming_callback=lambda _: None))
    connection = await peer.accept()
    connection.say(CHUNKED + b"1\r\na\r\n")
    with pytest.raises(TimeoutError):
        await fetch
    await connection.left()


async def test_an_error_response_is_received_though_the_server_closes_before_it_has_read_the_request(
    http: StreamingClient, peer: Peer
) -> None:
    lines = asyncio.Queue[str]()
    request = HTTPRequest(peer.url(), method="POST", body=LARGE_BODY, header_callback=lines.put_nowait)
    fetch = http.fetch(request, raise_error=False)
    connection = await peer.accept()
    await connection.read()
    connection.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\n")
    assert await lines.get() == "HTTP/1.1 413\r\n"
    connection.say(b"large")
    connection.close()  # with unread bytes: the server's kernel sends a reset
    response = await fetch
    assert (response.code, response.body) == (413, b"large")


async def test_a_large_body_is_sent_completely(http: StreamingClient, peer: Peer) -> None:
    fetch = http.fetch(HTTPRequest(peer.url(), method="POST", body=LARGE_BODY))
    connection = await peer.accept()
    assert (await connection.request()).endswith(b"\r\n\r\n" + LARGE_BODY)
    connection.say(OK + b"Content-Length: 0\r\n\r\n")
    assert (await fetch).code == 200


@pytest.mark.parametrize("response", [OK + b"\r\nwords", OK + b"Content-Length: 5\r\n\r\nwords"])
async def test_a_response_before_the_request_is_sent_ends_the_request_if_the_server_shuts_down_its_side(
    http: StreamingClient, response: bytes
) -> None:
    closed = asyncio.get_running_loop().create_future()

    async def respond_and_shut_down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(response)
        writer.write_eof()
        with suppress(ConnectionError):
            while await reader.read(65_536):
                pass
        writer.close()
        closed.set_result(None)

    server = await asyncio.start_server(respond_and_shut_down, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    fetch = http.fetch(HTTPRequest(f"http://127.0.0.1:{port}/", method="POST", body=LARGE_BODY))
    async with asyncio.timeout(30):
        assert (await fetch).body == b"words"
        await closed
    server.close()
    await server.wait_closed()


# Many at once.


async def test_concurrent_responses_are_not_mixed_up(new_client: NewClient, peer: Peer) -> None:
    http = new_client(max_clients=50)
    received: list[asyncio.Queue[bytes]] = [asyncio.Queue() for _ in range(50)]
    fetches, connections = [], []
    for queue in received:
        fetches.append(http.fetch(HTTPRequest(peer.url(), streaming_callback=queue.put_nowait)))
        connections.append(await peer.accept())
        connections[-1].say(CHUNKED)
    for turn in range(3):
        for number, connection in enumerate(connections):
            connection.say(b"3\r\n%d%02d\r\n" % (turn, number))
        for number, queue in enumerate(received):
            assert await queue.get() == b"%d%02d" % (turn, number)
    for connection in connections:
        connection.say(b"0\r\n\r\n")
    assert [response.code for response in await asyncio.gather(*fetches)] == [200] * 50


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["begin", "send", "end", "cancel", "iterate", "wait"]))))
def test_any_interleaving_gives_each_response_its_own_bytes_once(steps: list[tuple[int, str]]) -> None:
    asyncio.run(play(steps))


class Stream:
    """A streaming request, and what was sent and received in its response."""

    def __init__(self, http: StreamingClient, peer: Peer) -> None:
        self.http = http
        self.sent = b""
        self.received = b""
        self.request = HTTPRequest(peer.url(), streaming_callback=self.receive, request_timeout=0)
        self.fetch = http.fetch(self.request)
        self.ended = False

    def receive(self, piece: bytes) -> None:
        self.received += piece

    async def do(self, step: str, connection: Connection, byte: bytes) -> None:
        if step == "send" and not self.ended:
            self.sent += byte
            connection.say(b"1\r\n%b\r\n" % byte)
        elif step == "wait" and not self.ended:
            async with asyncio.timeout(10):
                while self.received != self.sent:
                    await asyncio.sleep(0)
        elif step == "end" and not self.ended:
            self.ended = True
            connection.say(b"0\r\n\r\n")
            assert (await self.fetch).code == 200
            assert self.received == self.sent
        elif step == "cancel" and not self.ended:
            self.ended = True
            self.http.cancel(self.request)
            with pytest.raises(RemoteProtocolError):
                await self.fetch
            await connection.left()
            assert self.sent.startswith(self.received)


async def play(steps: list[tuple[int, str]]) -> None:
    """Run the steps on up to four concurrent streams. In the end, complete those that are left."""
    http = StreamingClient(force_instance=True)
    streams: dict[int, tuple[Stream, Connection]] = {}
    async with Peer() as peer:
        for place, step in steps:
            if step == "iterate":
                await asyncio.sleep(0)
            elif step == "begin" and (place not in streams or streams[place][0].ended):
                stream = Stream(http, peer)
                streams[place] = stream, await peer.accept()
                streams[place][1].say(CHUNKED)
            elif place in streams:
                await streams[place][0].do(step, streams[place][1], b"%d" % place)
        for stream, connection in streams.values():
            await stream.do("end", connection, b"")
    http.close()


# Memory.


Made = list["weakref.ref[Any]"]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """References to the transfers and parsers that are made. The garbage collector does not run."""
    made: Made = []

    def record(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def make(*arguments: object) -> object:
            one = original(*arguments)
            made.append(weakref.ref(one))
            return one

        monkeypatch.setattr(module, name, make)

    record(http_client, "Transfer")
    record(transfer, "ResponseParser")
    gc.collect()
    gc.disable()
    yield made
    gc.enable()


async def freed(made: Made) -> bool:
    """Whether all of them are freed within a second. (A thread that resolved a name may keep one for a moment.)"""
    for _ in range(1000):
        if not any(one() for one in made):
            return bool(made)
        await asyncio.sleep(0.001)
    return False


async def test_a_complete_response_leaves_no_reference_cycle(http: StreamingClient, peer: Peer, made: Made) -> None:
    for answer in (OK + b"Content-Length: 5\r\n\r\nwords", CHUNKED + b"5\r\nwords\r\n0\r\n\r\n", OK + b"\r\nwords"):
        fetch = http.fetch(peer.url())
        connection = await peer.accept()
        await connection.request()
        connection.say(answer)
        connection.close()
        assert (await fetch).body == b"words"
    del fetch
    assert await freed(made)


@pytest.mark.parametrize("count", range(8))
async def test_a_cancelled_request_leaves_no_reference_cycle(
    http: StreamingClient, peer: Peer, made: Made, count: int
) -> None:
    request = HTTPRequest(peer.url(), method="POST", body=b"x" * 10)
    fetch = http.fetch(request)
    await iterate(count)
    http.cancel(request)
    with pytest.raises(RemoteProtocolError):
        await fetch
    del fetch, request
    assert await freed(made)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://127.0.0.1:99999/", "http://name.invalid/"])
async def test_a_request_that_cannot_be_sent_leaves_no_reference_cycle(
    http: StreamingClient, made: Made, url: str
) -> None:
    with pytest.raises(OSError):
        await http.fetch(url)
    assert await freed(made)


def fail(_: bytes) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("response", "options", "error"),
    [
        (CHUNKED + b"1\r\na\r\n", {"streaming_callback": fail}, ZeroDivisionError),
        (CHUNKED + b"1\r\na\r\n", {"request_timeout": 0.05}, TimeoutError),
        (b"no HTTP", {}, RemoteProtocolError),
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", {}, HTTPError),
    ],
)
async def test_a_failed_request_leaves_no_reference_cycle(
    http: StreamingClient,
    peer: Peer,
    made: Made,
    response: bytes,
    options: dict[str, Any],
    error: type[Exception],
) -> None:
    fetch = http.fetch(HTTPRequest(peer.url(), **options))
    (await peer.accept()).say(response)
    with pytest.raises(error):
        await fetch
    del fetch
    assert await freed(made)
