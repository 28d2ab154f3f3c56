"""Calls to Ollama that are abandoned, time out, or fail in a callback."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable

import pytest

from errors import UpstreamDisconnected, UpstreamSilent, UpstreamUnreachable
from relay.ollama import client as client_module
from relay.ollama.client import CHAT, OllamaClient, StreamingCall
from relay.outgoing import RequestBody
from tests.fakes.peer import Connection, Peer

pytestmark = pytest.mark.anyio

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Peer() as peer:
        yield peer


@pytest.fixture
async def client(peer: Peer) -> AsyncIterator[OllamaClient]:
    client = OllamaClient(peer.url(""), 10, 1.0)
    yield client
    client.close()


async def test_a_cancelled_short_request_closes_its_connection_and_logs_nothing(
    client: OllamaClient, peer: Peer
) -> None:
    fetch = asyncio.create_task(client.get("/api/version"))
    connection = await peer.accept()
    await connection.request()
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    await connection.left()


async def test_a_short_request_times_out_in_the_queue_too(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_SHORT_REQUESTS", 2)
    monkeypatch.setattr(client_module, "SHORT_REQUEST_TIMEOUT", 0.1)
    client = OllamaClient(peer.url(""), 10, 1.0)
    fetches = [asyncio.create_task(client.get("/api/version")) for _ in range(10)]
    ended = await asyncio.gather(*fetches, return_exceptions=True)
    assert {type(error) for error in ended} == {UpstreamSilent}
    assert len(peer.arrived) < 10, "the timeout began only when a request left the queue"
    client.close()


@pytest.mark.expects_log("Processing the response")
async def test_a_chat_fails_if_its_callback_raises_and_the_exception_is_logged(
    client: OllamaClient, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    call = client.stream(CHAT, RequestBody(b"{}"), fail, "")
    connection = await peer.accept()
    connection.say(CHUNKED + b"1\r\na\r\n")
    await asyncio.wait([call.done])
    assert isinstance(call.done.exception(), UpstreamDisconnected)
    assert "ZeroDivisionError" in caplog.text
    await connection.left()


@pytest.mark.parametrize(
    "end",
    [
        lambda call, connection: call.cancel(),
        lambda call, connection: connection.reset(),
        lambda call, connection: connection.say(b"0\r\n\r\n"),
    ],
    ids=["cancelled", "reset", "complete"],
)
async def test_a_call_that_has_ended_leaves_no_reference_cycle(
    client: OllamaClient, peer: Peer, end: Callable[[StreamingCall, Connection], None]
) -> None:
    gc.collect()
    gc.disable()
    try:
        received = asyncio.Queue[bytes]()
        call = client.stream(CHAT, RequestBody(b"{}"), received.put_nowait, "")
        connection = await peer.accept()
        connection.say(CHUNKED + b"1\r\na\r\n")
        assert await received.get() == b"a"
        end(call, connection)
        await asyncio.wait([call.done])
        gone = weakref.ref(call)
        del call
        for _ in range(3):
            await asyncio.sleep(0)
        assert gone() is None
    finally:
        gc.enable()


class _Body(bytes):
    """A body that the collector can find."""


async def test_a_failed_request_leaves_no_reference_cycle_with_its_body() -> None:
    client = OllamaClient("http://127.0.0.1:1", 10, 1.0)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(UpstreamUnreachable):
            await client.post(CHAT, _Body(b"{}"), 1.0, "")
        assert not [one for one in gc.get_objects() if isinstance(one, _Body)]
    finally:
        gc.enable()
    client.close()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://127.0.0.1:1", "Ollama cannot be reached. Check that it is running."),
        ("http://127.0.0.1:99999", "Ollama cannot be reached. Check that it is running."),
    ],
)
async def test_an_unreachable_ollama_is_reported_without_its_address(url: str, sentence: str) -> None:
    client = OllamaClient(url, 10, 1.0)
    call = client.stream(CHAT, RequestBody(b"{}"), lambda _: None, "")
    await asyncio.wait([call.done])
    assert isinstance(call.done.exception(), UpstreamUnreachable) and str(call.done.exception()) == sentence
    assert not call.headers.done() and call.status == 0
    with pytest.raises(UpstreamUnreachable, match=sentence):
        await client.get("/api/version")
    client.close()


@pytest.mark.parametrize(
    ("credentials", "encoded"),
    [
        ("user:password", b"dXNlcjpwYXNzd29yZA=="),
        ("us%40er:p%3Aass%2F", b"dXNAZXI6cDphc3Mv"),
        ("user", b"dXNlcjo="),
        ("%C3%BC:%0D%0A", b"w7w6DQo="),
    ],
)
async def test_user_and_password_are_sent_as_basic_authorization(peer: Peer, credentials: str, encoded: bytes) -> None:
    client = OllamaClient(peer.url("").replace("://", f"://{credentials}@"), 10, 1.0)
    assert client.url == peer.url("")
    call = client.stream(CHAT, RequestBody(b"{}"), lambda _: None, "")
    fetch = asyncio.create_task(client.get("/api/tags"))
    for _ in range(2):
        request = await (await peer.accept()).request()
        assert b"\r\nAuthorization: Basic " + encoded + b"\r\n" in request
        assert request.count(b"Authorization") == 1
    call.cancel()
    fetch.cancel()
    client.close()


async def test_https_to_a_server_without_tls_is_said_to_be_that(peer: Peer) -> None:
    client = OllamaClient(peer.url("").replace("http://", "https://"), 10, 1.0)
    probing = asyncio.create_task(client.state())
    connection = await peer.accept()
    await connection.read()
    connection.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    state = await probing
    assert state.name == "unreachable" and "must begin with http://" in state.problem
    client.close()


async def test_a_server_that_is_silent_is_not_called_unreachable(peer: Peer) -> None:
    client = OllamaClient(peer.url(""), 10, 1.0)
    assert (await client.state(0.05)).name == "silent"
    with pytest.raises(UpstreamSilent, match=r"has not responded within 0\.05 seconds"):
        await client.get("/api/tags", 0.05)
    client.close()
