"""How exchanges of StreamingClient end before their time: cancelled, closed, failed in a callback, out of time."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator

import pytest
from tornado.httpclient import HTTPRequest

from relay.ollama.http_client import StreamingClient
from relay.ollama.response_parser import RemoteProtocolError
from relay.ollama.transfer import Transfer
from tests.fakes.peer import Peer

from .conftest import NewClient

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
MEGABYTES = bytes(8_000_000)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Peer() as peer:
        yield peer


async def turns(count: int) -> None:
    """Give the event loop so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


# Cancelled.


@pytest.mark.parametrize("count", range(6))
async def test_a_request_cancelled_while_it_connects_ends_at_once(
    http: StreamingClient, peer: Peer, count: int
) -> None:
    request = HTTPRequest(peer.url(host="localhost"), method="POST", body=b"x" * 10)
    fetch = http.fetch(request)
    await turns(count)
    http.cancel(request)
    assert fetch.done()
    with pytest.raises(RemoteProtocolError):
        await fetch
    assert (await answered(http, peer)) == b"words"


async def answered(http: StreamingClient, peer: Peer) -> bytes:
    """Ask, be answered ``words``, and say what arrived; connections that were begun before have ended."""
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


async def test_a_request_cancelled_while_its_body_is_sent_ends_at_once(http: StreamingClient, peer: Peer) -> None:
    request = HTTPRequest(peer.url(), method="POST", body=MEGABYTES)
    fetch = http.fetch(request)
    connection = await peer.accept()
    assert (await connection.read()).startswith(b"POST / HTTP/1.1\r\n")
    again = http.fetch(HTTPRequest(peer.url("/again"), method="POST", body=MEGABYTES))
    http.cancel(request)  # the next, which is begun but not connected yet, gets the number of this one's descriptor
    with pytest.raises(RemoteProtocolError):
        await fetch
    await connection.left()
    connection = await peer.accept()
    assert (await connection.request()).endswith(MEGABYTES)
    connection.say(OK + b"Content-Length: 5\r\n\r\nwords")
    assert (await again).body == b"words"


async def test_a_request_cancelled_in_mid_stream_closes_its_connection_and_hears_no_more(
    http: StreamingClient, peer: Peer
) -> None:
    taken = asyncio.Queue[bytes]()
    request = HTTPRequest(peer.url(), streaming_callback=taken.put_nowait)
    fetch = http.fetch(request)
    connection = await peer.accept()
    connection.say(CHUNKED + b"1\r\na\r\n")
    assert await taken.get() == b"a"
    http.cancel(request)
    http.cancel(request)
    connection.say(b"1\r\nb\r\n")
    with pytest.raises(RemoteProtocolError):
        await fetch
    await connection.left()
    assert taken.empty()


@pytest.mark.parametrize("callback", ["header_callback", "streaming_callback"])
async def test_a_callback_may_cancel_its_own_request(http: StreamingClient, peer: Peer, callback: str) -> None:
    request = HTTPRequest(peer.url(), streaming_callback=lambda _: None)
    setattr(request, callback, lambda _: http.cancel(request))
    fetch = http.fetch(request)
    connection = await peer.accept()
    connection.say(CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="cancelled"):
        await fetch
    await connection.left()


async def test_a_callback_may_close_the_client(http: StreamingClient, peer: Peer) -> None:
    fetch = http.fetch(HTTPRequest(peer.url(), streaming_callback=lambda _: http.close()))
    other = http.fetch(peer.url("/other"))
    for _ in range(2):
        (await peer.accept()).say(CHUNKED + b"1\r\na\r\n")
    for ended in (fetch, other):
        with pytest.raises(RemoteProtocolError):
            await ended


@pytest.mark.parametrize("callback", ["header_callback", "streaming_callback"])
async def test_what_a_callback_raises_is_what_the_fetch_fails_with(
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


# Waiting for a turn.


async def test_requests_beyond_the_limit_wait_and_one_that_is_cancelled_leaves_nothing(
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
    assert gone() is None, "a request that nobody waits for is kept until there is a turn"
    connection.say(OK + b"Content-Length: 0\r\n\r\n")
    await first
    connection = await peer.accept()
    assert (await connection.request()).startswith(b"GET /last ")
    connection.say(OK + b"Content-Length: 0\r\n\r\n")
    await last


async def test_a_request_is_fetched_once_at_a_time(http: StreamingClient, peer: Peer) -> None:
    request = HTTPRequest(peer.url())
    for _ in range(2):
        fetch = http.fetch(request)
        with pytest.raises(ValueError, match="once"):
            http.fetch(request)
        (await peer.accept()).say(OK + b"Content-Length: 5\r\n\r\nwords")
        assert (await fetch).body == b"words"


async def test_closing_the_client_ends_all_requests_those_that_wait_too(new_client: NewClient, peer: Peer) -> None:
    http = new_client(max_clients=2)
    fetches = [http.fetch(HTTPRequest(peer.url(), method="POST", body=MEGABYTES)) for _ in range(5)]
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


# Out of time, and answers before their time.


async def test_an_answer_that_takes_too_long_is_a_timeout(http: StreamingClient, peer: Peer) -> None:
    fetch = http.fetch(HTTPRequest(peer.url(), request_timeout=0.2, streaming_callback=lambda _: None))
    connection = await peer.accept()
    connection.say(CHUNKED + b"1\r\na\r\n")
    with pytest.raises(TimeoutError):
        await fetch
    await connection.left()


async def test_an_early_refusal_is_heard_though_the_body_cannot_be_sent(
    http: StreamingClient, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = asyncio.Queue[str]()
    request = HTTPRequest(peer.url(), method="POST", body=MEGABYTES, header_callback=lines.put_nowait)
    fetch = http.fetch(request, raise_error=False)
    connection = await peer.accept()
    await connection.read()
    connection.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\n")
    assert await lines.get() == "HTTP/1.1 413\r\n"
    connection.say(b"large")
    connection.close()  # with bytes unread: the client is sent a reset
    response = await fetch
    assert (response.code, response.body) == (413, b"large")


async def test_a_large_body_arrives_whole(http: StreamingClient, peer: Peer) -> None:
    fetch = http.fetch(HTTPRequest(peer.url(), method="POST", body=MEGABYTES))
    connection = await peer.accept()
    assert (await connection.request()).endswith(b"\r\n\r\n" + MEGABYTES)
    connection.say(OK + b"Content-Length: 0\r\n\r\n")
    assert (await fetch).code == 200


# Nothing stays behind.


async def test_what_has_ended_is_freed_without_the_collector(
    http: StreamingClient, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Transfer]] = []
    begin = Transfer.start

    def note_and_begin(exchange: Transfer) -> None:
        made.append(weakref.ref(exchange))
        begin(exchange)

    monkeypatch.setattr(Transfer, "start", note_and_begin)
    gc.collect()
    gc.disable()
    try:
        for answer in (OK + b"Content-Length: 5\r\n\r\nwords", CHUNKED + b"5\r\nwords\r\n0\r\n\r\n", OK + b"\r\nwords"):
            fetch = http.fetch(peer.url())
            connection = await peer.accept()
            await connection.request()
            connection.say(answer)
            connection.close()
            assert (await fetch).body == b"words"
        request = HTTPRequest(peer.url())
        fetch = http.fetch(request)
        await peer.accept()
        http.cancel(request)
        with pytest.raises(RemoteProtocolError):
            await fetch
        await turns(3)
        assert [exchange() for exchange in made] == [None] * 4
    finally:
        gc.enable()
