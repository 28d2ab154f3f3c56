"""The choice of the Ollama for a request, with a stand-in that the test starts at its own pace."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from relay.ollama import upstreams as upstreams_module
from relay.ollama.client import OllamaClient
from relay.ollama.upstreams import Upstreams
from tests.fakes.ollama import ScriptedOllama, failure

pytestmark = pytest.mark.anyio

TOY = "toy"
PATIENCE = 20.0


class HeldStandIn:
    """A stand-in whose start ends when the test lets it, or fails."""

    def __init__(self) -> None:
        self.starting = asyncio.Event()
        self.may_start = asyncio.Event()
        self.stopped = asyncio.Event()
        self.running = False
        self.error: OSError | None = None

    def serves(self, model: str) -> bool:
        return model == TOY

    async def start(self) -> str:
        self.starting.set()
        await self.may_start.wait()
        if self.error:
            raise self.error
        self.running = True
        return "http://127.0.0.1:1"

    async def stop(self) -> None:
        self.running = False
        self.stopped.set()


@pytest.fixture
def stand_in() -> HeldStandIn:
    return HeldStandIn()


@pytest.fixture
async def upstreams(
    ollama: ScriptedOllama, stand_in: HeldStandIn, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Upstreams]:
    monkeypatch.setattr(upstreams_module, "PROBE_INTERVAL", 0.01)
    client = OllamaClient(ollama.url, 10, 1.0)
    upstreams = Upstreams(client, stand_in)
    yield upstreams
    await upstreams.stop()
    assert not stand_in.running
    client.close()


async def test_an_ollama_that_answers_serves_all_models(upstreams: Upstreams, stand_in: HeldStandIn) -> None:
    await upstreams.start()
    assert upstreams.acquire(TOY) is upstreams.acquire("fake") is upstreams.listing is upstreams.ollama
    assert not stand_in.starting.is_set()


async def test_the_stand_in_serves_its_model_until_ollama_answers_and_its_requests_to_their_end(
    upstreams: Upstreams, stand_in: HeldStandIn, ollama: ScriptedOllama
) -> None:
    ollama.stop_listening()
    ollama.cut_connections()
    stand_in.may_start.set()
    await upstreams.start()
    toy = upstreams.acquire(TOY)
    with upstreams.serving(TOY) as another:
        assert toy is another is upstreams.listing
    assert toy is not upstreams.ollama
    assert upstreams.acquire("fake") is upstreams.ollama
    assert (await upstreams.state(1)).name == "stand-in"
    ollama.listen_again()
    async with asyncio.timeout(PATIENCE):
        while upstreams.standing_in:
            await asyncio.sleep(0)
    assert upstreams.acquire(TOY) is upstreams.listing is upstreams.ollama
    assert (await upstreams.state(PATIENCE)).name == "ok"
    assert stand_in.running
    upstreams.release(upstreams.ollama)
    assert stand_in.running
    upstreams.release(toy)
    async with asyncio.timeout(PATIENCE):
        await stand_in.stopped.wait()


async def test_a_reply_of_the_stand_in_that_is_stopped_while_it_starts_leaves_none_behind(
    upstreams: Upstreams, stand_in: HeldStandIn, ollama: ScriptedOllama
) -> None:
    await upstreams.start()
    ollama.shown = failure(404, "model 'toy' not found")
    resuming = asyncio.create_task(upstreams.acquire_to_resume(TOY))
    async with asyncio.timeout(PATIENCE):
        await stand_in.starting.wait()
        resuming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await resuming
        stand_in.may_start.set()
        await stand_in.stopped.wait()
    assert not stand_in.running


async def test_a_reply_is_resumed_on_the_ollama_that_has_its_model(
    upstreams: Upstreams, stand_in: HeldStandIn, ollama: ScriptedOllama
) -> None:
    await upstreams.start()
    assert await upstreams.acquire_to_resume("fake") is upstreams.ollama
    assert await upstreams.acquire_to_resume(TOY) is upstreams.ollama  # the scripted Ollama has any model
    ollama.shown = failure(404, "model 'toy' not found")
    stand_in.may_start.set()
    toy = await upstreams.acquire_to_resume(TOY)
    assert toy is not upstreams.ollama
    upstreams.release(toy)
    async with asyncio.timeout(PATIENCE):
        await stand_in.stopped.wait()


@pytest.mark.expects_log("did not start", "Ollama is unreachable at")
async def test_without_its_stand_in_the_server_waits_for_ollama(
    upstreams: Upstreams, stand_in: HeldStandIn, ollama: ScriptedOllama
) -> None:
    ollama.stop_listening()
    ollama.cut_connections()
    stand_in.error = OSError("The embedded model did not start.")
    stand_in.may_start.set()
    await upstreams.start()
    assert upstreams.acquire(TOY) is upstreams.ollama
    ollama.listen_again()
