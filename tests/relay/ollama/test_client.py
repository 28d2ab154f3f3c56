"""Calls to Ollama that end in ways of their own: nobody waits any more, or what they bring cannot be taken."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable

import pytest

from errors import UpstreamDisconnected, UpstreamUnreachable
from relay.ollama import client as ollama_module
from relay.ollama.client import OllamaClient, StreamingCall
from tests.fakes.peer import Connection, Peer

pytestmark = pytest.mark.anyio

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Peer() as peer:
        yield peer


@pytest.fixture
async def asked(peer: Peer) -> AsyncIterator[OllamaClient]:
    asked = OllamaClient(peer.url(""), 10, 1.0)
    yield asked
    asked.close()


async def test_a_probe_that_nobody_waits_for_any_more_is_closed_and_not_worth_a_word(
    asked: OllamaClient, peer: Peer
) -> None:
    probe = asyncio.create_task(asked.get("/api/version"))
    connection = await peer.accept()
    await connection.request()
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    await connection.left()


async def test_a_probe_ends_in_time_though_others_take_its_turn(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_module, "PROBES", 2)
    monkeypatch.setattr(ollama_module, "PROBE_TIMEOUT", 0.1)
    asked = OllamaClient(peer.url(""), 10, 1.0)
    probes = [asyncio.create_task(asked.get("/api/version")) for _ in range(10)]
    ended = await asyncio.gather(*probes, return_exceptions=True)
    assert {type(error) for error in ended} == {UpstreamUnreachable}
    assert len(peer.arrived) <= 4, "each of the ten had a turn: they ended one after the other"
    asked.close()


@pytest.mark.expects_log("could not be taken")
async def test_a_chat_whose_bytes_cannot_be_taken_ends_and_the_log_says_why(
    asked: OllamaClient, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    call = asked.chat(b"{}", fail)
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
    ids=["cancelled", "broken", "whole"],
)
async def test_a_call_that_has_ended_is_freed_without_the_collector(
    asked: OllamaClient, peer: Peer, end: Callable[[StreamingCall, Connection], None]
) -> None:
    gc.collect()
    gc.disable()
    try:
        taken = asyncio.Queue[bytes]()
        call = asked.chat(b"{}", taken.put_nowait)
        connection = await peer.accept()
        connection.say(CHUNKED + b"1\r\na\r\n")
        assert await taken.get() == b"a"
        end(call, connection)
        await asyncio.wait([call.done])
        gone = weakref.ref(call)
        del call
        for _ in range(3):
            await asyncio.sleep(0)
        assert gone() is None
    finally:
        gc.enable()
