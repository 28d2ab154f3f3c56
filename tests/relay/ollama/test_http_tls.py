"""StreamingClient over TLS. A server whose certificate is not trusted receives no request."""

import asyncio
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme
from tornado.httpclient import HTTPRequest

from relay.ollama import transfer
from relay.ollama.http_client import StreamingClient
from relay.ollama.response_parser import RemoteProtocolError
from tests.fakes.peer import Connection, Peer

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_side(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture(autouse=True)
def _trusting(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    monkeypatch.setattr(transfer, "default_ssl_context", lambda: context)


@pytest.fixture
async def peer(authority: trustme.CA) -> AsyncIterator[Peer]:
    async with Peer(tls=server_side(authority, "127.0.0.1", "localhost")) as peer:
        yield peer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_response_is_streamed_and_its_end_closes_the_connection(
    http: StreamingClient, peer: Peer, host: str
) -> None:
    taken = asyncio.Queue[bytes]()
    body = bytes(3_000_000)
    request = HTTPRequest(
        peer.url("/a", host), method="POST", body=body, streaming_callback=taken.put_nowait, request_timeout=0
    )
    fetch = http.fetch(request)
    connection = await peer.accept()
    asked = await connection.request()
    assert asked.startswith(f"POST /a HTTP/1.1\r\nHost: {host}:{peer.port}\r\n".encode())
    assert asked.endswith(b"\r\n\r\n" + body)
    connection.say(CHUNKED + b"1\r\na\r\n")
    assert await taken.get() == b"a"
    connection.say(b"1\r\nb\r\n0\r\n\r\n")
    assert (await fetch).code == 200 and await taken.get() == b"b"
    await connection.left()


@pytest.mark.parametrize(
    ("answer", "body"),
    [(OK + b"\r\nwords", b"words"), (OK + b"Content-Length: 6\r\n\r\nwords", None), (CHUNKED + b"5\r\nwo", None)],
)
async def test_the_connections_end_completes_only_a_response_without_a_length(
    http: StreamingClient, peer: Peer, answer: bytes, body: bytes | None
) -> None:
    fetch = http.fetch(peer.url())
    connection = await peer.accept()
    await connection.request()
    connection.say(answer)
    connection.close()
    if body is None:
        with pytest.raises(RemoteProtocolError):
            await fetch
    else:
        assert (await fetch).body == body


async def streaming(http: StreamingClient, peer: Peer) -> tuple[HTTPRequest, "asyncio.Future[object]", Connection]:
    """A request whose response has arrived in part."""
    taken = asyncio.Queue[bytes]()
    request = HTTPRequest(peer.url(), streaming_callback=taken.put_nowait, request_timeout=0)
    fetch = http.fetch(request)
    connection = await peer.accept()
    connection.say(CHUNKED + b"1\r\na\r\n")
    assert await taken.get() == b"a"
    return request, fetch, connection  # type: ignore[return-value]


async def test_a_connection_that_is_reset_is_a_protocol_error(http: StreamingClient, peer: Peer) -> None:
    _, fetch, connection = await streaming(http, peer)
    connection.reset()
    with pytest.raises(RemoteProtocolError):
        await fetch


async def test_a_cancelled_request_closes_its_connection_at_once(http: StreamingClient, peer: Peer) -> None:
    request, fetch, connection = await streaming(http, peer)
    http.cancel(request)
    with pytest.raises(RemoteProtocolError):
        await fetch
    await connection.left()


async def test_closing_the_client_closes_its_connections(http: StreamingClient, peer: Peer) -> None:
    _, fetch, connection = await streaming(http, peer)
    http.close()
    with pytest.raises(RemoteProtocolError):
        await fetch
    await connection.left()


@pytest.mark.parametrize("count", range(8))
async def test_a_request_cancelled_while_connecting_ends_at_once(http: StreamingClient, peer: Peer, count: int) -> None:
    request = HTTPRequest(peer.url())
    fetch = http.fetch(request)
    for _ in range(count):
        await asyncio.sleep(0)
    http.cancel(request)
    with pytest.raises(RemoteProtocolError):
        await fetch


async def test_the_fetch_fails_with_what_a_callback_raises(http: StreamingClient, peer: Peer) -> None:
    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    fetch = http.fetch(HTTPRequest(peer.url(), streaming_callback=fail))
    connection = await peer.accept()
    connection.say(CHUNKED + b"1\r\na\r\n")
    with pytest.raises(ZeroDivisionError):
        await fetch
    await connection.left()


@pytest.mark.parametrize("wrong", ["another name", "another authority"])
async def test_a_server_with_a_wrong_certificate_receives_no_request(
    http: StreamingClient, authority: trustme.CA, wrong: str
) -> None:
    tls = (
        server_side(authority, "elsewhere.example")
        if wrong == "another name"
        else server_side(trustme.CA(), "127.0.0.1")
    )
    async with Peer(tls=tls) as peer:
        with pytest.raises(ssl.SSLCertVerificationError):
            await http.fetch(HTTPRequest(peer.url(), connect_timeout=0, request_timeout=0))
        assert not peer.arrived


async def test_a_server_without_tls_is_an_error(http: StreamingClient) -> None:
    async with Peer() as peer:
        fetch = http.fetch(HTTPRequest(peer.url().replace("http:", "https:"), connect_timeout=0, request_timeout=0))
        (await peer.accept()).say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(ssl.SSLError):
            await fetch


async def test_a_handshake_that_is_never_completed_times_out(http: StreamingClient) -> None:
    async with Peer() as peer:
        fetch = http.fetch(HTTPRequest(peer.url().replace("http:", "https:"), connect_timeout=0.1))
        connection = await peer.accept()
        with pytest.raises(TimeoutError):
            await fetch
        await connection.left()
