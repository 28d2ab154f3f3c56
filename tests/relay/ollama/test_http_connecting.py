"""How StreamingClient connects, and how it fails to."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from tornado.httpclient import HTTPRequest

from relay.ollama.http_client import StreamingClient
from relay.ollama.response_parser import RemoteProtocolError
from relay.ollama.transfer import Transfer
from tests.fakes.peer import Peer

pytestmark = pytest.mark.anyio

EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(params=[{"use_uvloop": True}, {"loop_factory": asyncio.SelectorEventLoop}], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each test on both loops, with `make test`, too: connecting is where they differ most."""
    return "asyncio", request.param


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A URL that never completes a TCP handshake: the listening socket's queue is full."""
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
async def test_the_request_is_sent_to_the_host_and_names_it(http: StreamingClient, listening: str, name: str) -> None:
    async with Peer(listening) as peer:
        fetch = http.fetch(peer.url(host=name))
        connection = await peer.accept()
        assert f"\r\nHost: {name.lower()}:{peer.port}\r\n".encode() in await connection.request()
        connection.say(EMPTY)
        assert (await fetch).code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_a_port_without_a_listener_fails_at_once(http: StreamingClient, host: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://{host}:{unused.getsockname()[1]}/"
        with pytest.raises(OSError) as raised:
            await http.fetch(HTTPRequest(url, connect_timeout=0, request_timeout=0))
        assert not isinstance(raised.value, TimeoutError)


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
async def test_an_invalid_url_or_unknown_host_fails_at_once(http: StreamingClient, url: str) -> None:
    with pytest.raises(OSError) as raised:
        await http.fetch(HTTPRequest(url, connect_timeout=0, request_timeout=0))
    assert not isinstance(raised.value, TimeoutError)


async def test_connecting_to_a_silent_host_times_out_and_can_be_cancelled(
    http: StreamingClient, black_hole: str
) -> None:
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


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": asyncio.SelectorEventLoop})], ids=["asyncio"])
async def test_the_second_address_of_a_host_is_used_if_the_first_one_refuses(
    http: StreamingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo  # uvloop resolves names in C, where no test can replace it
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *args: resolve("127.0.0.2", *args) + resolve("127.0.0.1", *args)
    )
    async with Peer() as peer:
        fetch = http.fetch(peer.url(host="both.example"))
        (await peer.accept()).say(EMPTY)
        assert (await fetch).code == 200


async def test_small_packets_are_not_delayed(http: StreamingClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.BaseTransport] = []
    connection_made = Transfer.connection_made

    def record(transfer: Transfer, transport: asyncio.Transport) -> None:
        made.append(transport)
        connection_made(transfer, transport)

    monkeypatch.setattr(Transfer, "connection_made", record)
    async with Peer() as peer:
        fetch = http.fetch(peer.url())
        connection = await peer.accept()
        await connection.request()
        assert made[0].get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.say(EMPTY)
        assert (await fetch).code == 200
