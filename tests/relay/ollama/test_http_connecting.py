"""Hosts that are there, hosts that are not, and hosts that cannot be."""

import asyncio
import socket
from collections.abc import Iterator

import psutil
import pytest
from tornado.httpclient import HTTPRequest

from relay.ollama.http_client import StreamingClient
from relay.ollama.response_parser import RemoteProtocolError
from tests.fakes.peer import Peer

pytestmark = pytest.mark.anyio

EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A URL where nobody ever answers to a SYN: the queue of a socket that accepts nothing is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        for one in waiting:
            one.close()


@pytest.mark.parametrize(
    ("listening", "name"),
    [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "localhost"), ("127.0.0.1", "LOCALHOST"), ("[::1]", "[::1]")],
)
async def test_a_host_is_reached_and_told_its_name(http: StreamingClient, listening: str, name: str) -> None:
    async with Peer(listening) as peer:
        fetch = http.fetch(peer.url(host=name))
        connection = await peer.accept()
        assert f"\r\nHost: {name.lower()}:{peer.port}\r\n".encode() in await connection.request()
        connection.say(EMPTY)
        assert (await fetch).code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_a_port_where_nobody_listens_is_an_error_at_once(http: StreamingClient, host: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://{host}:{unused.getsockname()[1]}/"
        with pytest.raises(ConnectionRefusedError):
            await http.fetch(HTTPRequest(url, connect_timeout=0, request_timeout=0))


@pytest.mark.parametrize(
    "url",
    [
        "http://name.invalid/",
        "https://name.invalid/",
        f"http://{'x' * 64}.example/",
        f"https://{'x' * 64}.example/",
        "http://two..dots/",
        "http://*/",
        "http://a b/",
        "http:///path",
        "http://:80/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:port/",
        "http://[::1/",
        "http://[nonsense]/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\u00fc",
        "ftp://127.0.0.1/",
        "127.0.0.1",
        "",
    ],
)
async def test_what_nobody_can_be_asked_by_is_an_error_at_once(http: StreamingClient, url: str) -> None:
    with pytest.raises(OSError) as raised:
        await http.fetch(HTTPRequest(url, connect_timeout=0, request_timeout=0))
    assert not isinstance(raised.value, TimeoutError)


async def test_a_host_that_is_silent_is_given_up(http: StreamingClient, black_hole: str) -> None:
    with pytest.raises(TimeoutError):
        await http.fetch(HTTPRequest(black_hole, connect_timeout=0.05))
    before = psutil.Process().num_fds()
    request = HTTPRequest(black_hole, connect_timeout=0)
    fetch = http.fetch(request)
    async with asyncio.timeout(10):
        while psutil.Process().num_fds() == before:
            await asyncio.sleep(0)
        http.cancel(request)
        with pytest.raises(RemoteProtocolError):
            await fetch
        while psutil.Process().num_fds() != before:
            await asyncio.sleep(0)
