"""Callers that want the same value at the same time share one read."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from relay.stream.shared_reads import SharedReads


class Source:
    """Values that are read when the test lets them."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.reads: SharedReads[str, str] = SharedReads(self._read)
        self._results: dict[str, asyncio.Future[str]] = {}

    async def _read(self, key: str) -> str:
        self.started.append(key)
        self._results[key] = asyncio.get_running_loop().create_future()
        return await self._results[key]

    async def call(self, *keys: str) -> list["asyncio.Task[str]"]:
        tasks = [asyncio.create_task(self.reads.get(key)) for key in keys]
        for _ in range(5):
            await asyncio.sleep(0)
        return tasks

    def finish(self, key: str, result: str | Exception) -> None:
        if isinstance(result, Exception):
            self._results[key].set_exception(result)
        else:
            self._results[key].set_result(result)


def play(act: Callable[[Source], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await act(Source())

    asyncio.run(run())


def test_each_key_is_read_once_at_a_time() -> None:
    async def act(source: Source) -> None:
        callers = await source.call("a", "a", "b", "a")
        assert source.started == ["a", "b"]
        source.finish("a", "first")
        source.finish("b", "other")
        assert await asyncio.gather(*callers) == ["first", "first", "other", "first"]
        assert not source.reads.is_running("a")
        [again] = await source.call("a")
        assert source.started == ["a", "b", "a"], "a finished read is not reused"
        source.finish("a", "second")
        assert await again == "second"

    play(act)


def test_a_read_goes_on_without_the_caller_that_began_it() -> None:
    async def act(source: Source) -> None:
        first, second = await source.call("a", "a")
        first.cancel()
        await asyncio.wait([first])
        source.finish("a", "value")
        assert await second == "value"

    play(act)


def test_all_callers_receive_the_error_and_the_next_one_tries_again() -> None:
    async def act(source: Source) -> None:
        callers = await source.call("a", "a")
        source.finish("a", ValueError("no"))
        assert [str(error) for error in await asyncio.gather(*callers, return_exceptions=True)] == ["no", "no"]
        [again] = await source.call("a")
        source.finish("a", "value")
        assert await again == "value"

    play(act)


@pytest.mark.filterwarnings("error")
def test_an_error_that_no_caller_is_left_to_receive_is_not_reported() -> None:
    async def act(source: Source) -> None:
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        [caller] = await source.call("a")
        caller.cancel()
        await asyncio.wait([caller])
        source.finish("a", ValueError("no"))
        await source.call()
        assert not source.reads.is_running("a") and errors == []

    play(act)
