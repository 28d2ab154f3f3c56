"""The memory for large values: never exceeded, served in order, given back whatever happens."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from errors import ServiceUnavailable
from web.responses import memory_budget
from web.responses.memory_budget import MemoryBudget


def play(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await act()

    asyncio.run(run())


class Holder:
    """A task that holds memory until told to give it back."""

    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self.holds = False
        self.done = asyncio.Event()
        self.task = asyncio.create_task(self._hold(budget, size))

    async def _hold(self, budget: MemoryBudget, size: int) -> None:
        async with budget.hold(size):
            self.holds = True
            await self.done.wait()
            self.holds = False


async def holding(*holders: Holder) -> list[bool]:
    """Let all tasks run, and return which of these hold memory."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [holder.holds for holder in holders]


def test_what_does_not_fit_waits_in_order() -> None:
    async def act() -> None:
        budget = MemoryBudget(100)
        holders = [Holder(budget, size) for size in (60, 40, 80, 10)]
        assert [*await holding(*holders), budget.contended] == [True, True, False, False, True]
        holders[1].done.set()
        assert await holding(holders[3]) == [False], "it would fit, but came later"
        holders[0].done.set()
        assert [*await holding(*holders[2:]), budget.contended] == [True, True, False]
        for holder in holders:
            holder.done.set()
        await asyncio.gather(*(holder.task for holder in holders))
        async with budget.hold(100):
            pass

    play(act)


def test_a_value_larger_than_the_limit_is_held_alone() -> None:
    async def act() -> None:
        budget = MemoryBudget(100)
        first, second = Holder(budget, 10_000), Holder(budget, 1)
        assert await holding(first, second) == [True, False]
        first.done.set()
        assert await holding(second) == [True]
        second.done.set()
        await asyncio.gather(first.task, second.task)

    play(act)


@pytest.mark.parametrize("granted", [False, True])
def test_a_cancelled_response_leaves_nothing_behind(granted: bool) -> None:
    async def act() -> None:
        budget = MemoryBudget(100)
        first, cancelled, last = Holder(budget, 100), Holder(budget, 100), Holder(budget, 100)
        assert await holding(first, cancelled, last) == [True, False, False]
        if granted:
            first.done.set()
            await first.task  # the memory is granted, but the task has not run since
        cancelled.task.cancel()
        first.done.set()
        await asyncio.wait([cancelled.task])
        assert await holding(last) == [True]
        last.done.set()
        await last.task
        async with budget.hold(100):
            pass

    play(act)


def test_the_wait_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "WAIT_TIMEOUT", 0.01)

    async def act() -> None:
        budget = MemoryBudget(100)
        async with budget.hold(100):
            with pytest.raises(ServiceUnavailable, match="Try again"):
                async with budget.hold(1):
                    pass
            assert not budget.contended
        async with budget.hold(100):
            pass

    play(act)
