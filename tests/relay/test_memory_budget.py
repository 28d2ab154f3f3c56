"""Requests to Ollama in memory: small ones never wait, larger ones wait their turn, and each gives its bytes back."""

import asyncio

import pytest

from relay.memory_budget import MemoryBudget
from relay.outgoing import SMALL, RequestBody

pytestmark = pytest.mark.anyio

LIMIT = 10 * SMALL


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def turn() -> None:
    """Let waiting tasks run."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_what_is_small_never_waits() -> None:
    memory = MemoryBudget(LIMIT, SMALL)
    taken = [memory.try_reserve(SMALL) for _ in range(50)]
    assert all(taken) and memory.used == 50 * SMALL
    assert memory.try_reserve(SMALL + 1) is None


async def test_larger_requests_are_served_in_order_as_bytes_are_given_back() -> None:
    memory = MemoryBudget(LIMIT, SMALL)
    first = await memory.reserve(LIMIT // 2)
    second = await memory.reserve(LIMIT // 2)
    third = asyncio.create_task(memory.reserve(LIMIT // 2))
    fourth = asyncio.create_task(memory.reserve(2 * SMALL))
    await turn()
    assert not third.done() and memory.try_reserve(2 * SMALL) is None, "the fourth overtakes the third"
    second.release()
    await turn()
    assert third.done() and not fourth.done()
    first.release()
    first.release()
    await turn()
    assert fourth.done() and memory.used == LIMIT // 2 + 2 * SMALL


async def test_one_request_may_be_larger_than_all_memory() -> None:
    memory = MemoryBudget(LIMIT, SMALL)
    large = await memory.reserve(100 * LIMIT)
    small = memory.try_reserve(SMALL)
    assert small and await memory.reserve(LIMIT // 4)
    waiting = asyncio.create_task(memory.reserve(100 * LIMIT))
    await turn()
    assert not waiting.done()
    large.release()
    small.release()
    await turn()
    assert waiting.done()


async def test_without_small_values_a_larger_one_is_there_alone() -> None:
    memory = MemoryBudget(100)
    large = await memory.reserve(1_000)
    waiting = asyncio.create_task(memory.reserve(1))
    await turn()
    assert not waiting.done() and memory.contended
    large.release()
    await turn()
    assert waiting.done() and not memory.contended


@pytest.mark.parametrize("granted", [False, True])
async def test_a_request_that_gives_up_leaves_its_turn_to_the_next(granted: bool) -> None:
    memory = MemoryBudget(LIMIT, SMALL)
    everything = [await memory.reserve(LIMIT // 2) for _ in range(2)]
    first, second = (asyncio.create_task(memory.reserve(LIMIT // 2)) for _ in range(2))
    await turn()
    if granted:
        everything[0].release()
    first.cancel()
    await turn()
    assert first.cancelled() and second.done() == granted
    everything[0].release()
    await turn()
    assert second.done() and memory.used == LIMIT


async def test_a_body_is_gone_once_it_is_sent_or_discarded() -> None:
    memory, written = MemoryBudget(LIMIT, SMALL), []

    async def write(data: bytes) -> None:
        written.append(data)
        assert memory.used == 3, "it is counted until the connection has taken it"

    body = RequestBody(b"abc", memory.try_reserve(3))
    await body.send(write)
    assert written == [b"abc"] and memory.used == 0 and body.size == 3
    await body.send(write)
    assert len(written) == 1

    unsent = RequestBody(b"abc", memory.try_reserve(3))
    unsent.discard()
    unsent.discard()
    assert memory.used == 0
