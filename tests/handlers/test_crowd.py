"""A crowd of prompts is let in group by group, in order, and nobody waits for long for a group that hangs."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from handlers import crowd
from handlers.crowd import Crowd
from tests.client import Client
from tests.program import Program
from tests.raw import head, raw

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def groups_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "GROUP", 3)
    monkeypatch.setattr(crowd, "GROUP_SECONDS", 3600)


class Scene:
    """A crowd whose members are numbers, and who of them is in, in order."""

    def __init__(self) -> None:
        self.crowd = Crowd()
        self.entered: list[int] = []
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def come(self, *numbers: int) -> None:
        for number in numbers:
            self.tasks[number] = asyncio.create_task(self._enter(number))
        await self.settle()

    async def _enter(self, number: int) -> None:
        await self.crowd.enter(number)
        self.entered.append(number)

    async def leave(self, *numbers: int) -> None:
        for number in numbers:
            self.crowd.leave(number)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_few_wait_for_nobody() -> None:
    at = Scene()
    await at.come(1, 2, 3)
    assert at.entered == [1, 2, 3]
    await at.leave(2)
    await at.come(4)
    assert at.entered == [1, 2, 3, 4]


async def test_the_next_group_has_its_turn_when_all_of_the_one_before_have_left() -> None:
    at = Scene()
    await at.come(*range(8))
    assert at.entered == [0, 1, 2]
    await at.leave(1, 0, 0, 7)  # the same again, and one that has not entered
    assert at.entered == [0, 1, 2]
    await at.leave(2)
    assert at.entered == [0, 1, 2, 3, 4, 5]
    await at.leave(3, 4, 5)
    await at.come(8)  # finds room beside the last two
    assert at.entered == list(range(9))


async def test_who_comes_later_does_not_overtake_who_waits() -> None:
    at = Scene()
    await at.come(0, 1, 2, 3)
    await at.leave(0, 1)
    await at.come(4)
    assert at.entered == [0, 1, 2]
    await at.leave(2)
    assert at.entered == [0, 1, 2, 3, 4]


async def test_who_gave_up_waiting_takes_no_place() -> None:
    at = Scene()
    await at.come(*range(7))
    at.tasks[4].cancel()
    await at.leave(0, 1, 2)
    assert at.entered == [0, 1, 2, 3, 5, 6]


async def test_a_group_that_hangs_keeps_the_others_waiting_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "GROUP_SECONDS", 0.01)
    at = Scene()
    await at.come(*range(8))
    async with asyncio.timeout(10):
        await asyncio.gather(*at.tasks.values())
    assert at.entered == list(range(8))
    await at.leave(0, 1, 2)  # at last; the group that is in now is another
    await at.come(8, 9)
    assert at.entered == list(range(9))
    await at.leave(6, 7, 8)
    assert at.entered == list(range(10))


def test_clients_that_send_no_body_keep_nobody_s_prompt_waiting(
    start_chatterd: Callable[..., Program], session_database_url: str
) -> None:
    program = start_chatterd(database_url=session_database_url, body_timeout=600)
    with Client(program.url) as client, ExitStack() as stack:
        for _ in range(250):
            stack.enter_context(raw(program.url)).send(head("/llmchat", "Content-Length: 100"))
        assert client.ask("hello")[-1].json["done"]
