"""Statements that many callers share: what is asked for while one is under way is done by the next, all together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import asyncpg
from asyncpg import DeadlockDetectedError

from db.pool import Database
from errors import ConnectionLost, Unavailable

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

GIVE_WAY_SECONDS = 0.05
"""Seconds for which a statement lets a crowd that waits for others go first, at most."""


class Batches(Generic[Asked, Answer]):
    """Does at once what is asked for if few ask, and together with what the others ask if many do.

    Most of what it costs PostgreSQL and this process to begin or end a reply is a statement's, not a reply's.

    :param run: the statement: all that is asked or nothing of it; answers in order.
    :param at_once: statements under way at once. With two, one that waits for a lock does not hold up everybody.
    :param limit: what one statement does at most.
    :param behind: those that go first while a crowd waits for them: more than one statement of theirs does.
    """

    def __init__(
        self,
        database: Database,
        run: Callable[[asyncpg.Connection, Sequence[Asked]], Awaitable[Sequence[Answer]]],
        at_once: int,
        limit: int,
        behind: "Batches[Any, Any] | None" = None,
    ) -> None:
        self._database = database
        self._run = run
        self._at_once = at_once
        self._limit = limit
        self._behind = behind
        self._calm = asyncio.Event()
        self._calm.set()
        self._waiting: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()
        self._came = 0  # how many have asked so far
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, asked: Asked) -> Answer:
        """Have one thing done.

        :raises Unavailable: the database is away; it may have been done or not.
        :raises NotAcceptable: the database refuses a text of it.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        self._came += 1
        if len(self._waiting) > self._limit:
            self._calm.clear()
        if self._under_way < self._at_once:
            self._under_way += 1
            task = asyncio.create_task(self._work())
            self._tasks.add(task)  # the loop itself keeps no hold of it
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _work(self) -> None:
        try:
            while self._waiting:
                if self._behind:
                    await self._behind.no_crowd()
                if batch := self._take(self._limit):  # another of the statements at once may have taken all meanwhile
                    await self._do(batch)
        finally:
            self._under_way -= 1

    def _take(self, most: int) -> list[tuple[Asked, "asyncio.Future[Answer]"]]:
        batch = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        if len(self._waiting) <= self._limit:
            self._calm.set()
        return batch

    async def no_crowd(self) -> None:
        """Wait until no more is waited for than one statement does, for :data:`GIVE_WAY_SECONDS` at most."""
        if not self._calm.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(GIVE_WAY_SECONDS):
                    await self._calm.wait()

    async def _do(self, batch: Sequence[tuple[Asked, "asyncio.Future[Answer]"]]) -> None:
        came = self._came
        try:
            async with self._database.acquire() as connection:
                answers = await self._run(connection, [asked for asked, _ in batch])
            answered = list(zip(batch, answers, strict=True))
        except Exception as error:
            # What is wrong with one of them is not the others' fault. And of several statements that wait for each
            # other PostgreSQL undoes one, for the others to go on.
            if isinstance(error, DeadlockDetectedError) or (len(batch) > 1 and not isinstance(error, Unavailable)):
                for one in batch:
                    await self._do([one])
                return
            failed = list(batch)
            if isinstance(error, Unavailable) and not isinstance(error, ConnectionLost):
                # Whoever waited meanwhile has waited for as long, and need not wait for another attempt.
                failed += self._take(max(0, came - (self._came - len(self._waiting))))
            for _, answer in failed:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), given in answered:
            if not answer.done():
                answer.set_result(given)
