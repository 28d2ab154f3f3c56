"""Statements shared by concurrent callers: items submitted while a statement runs are executed by the next one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, TypeVar, cast

import asyncpg

from db.pool import STATEMENT_FAILED_MESSAGE, Database
from errors import ConnectionLost, ServiceUnavailable, StatementFailed

Item = TypeVar("Item")
Result = TypeVar("Result")

YIELD_TIMEOUT = 0.05
"""Maximum seconds for which a batcher waits for the backlog of the one it yields to."""

MAX_STATEMENT_SIZE = 8_388_608
"""Characters of the items that share a statement: they are in memory several times, here and in PostgreSQL. A larger
item has a statement of its own."""

SEPARATE_TIMEOUT = 5.0
"""Seconds after which the items of a failed batch are not tried one by one any more: all of them may be held up by the
same lock, and other items wait. Their callers try them again."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Item, Result]):
    """One submitted item.

    :ivar number: entries are numbered in the order of their submission.
    """

    number: int
    item: Item
    result: "asyncio.Future[Result]"

    def succeed(self, result: Result) -> None:
        if not self.result.done():
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class StatementBatcher(Generic[Item, Result]):
    """Executes items immediately under low load, and many per statement under high load.

    The cost of beginning or ending a reply is mostly per statement, not per reply, in PostgreSQL and in this process.

    :param run: executes the statement for all given items or none of them; returns their results in order.
    :param concurrency: maximum number of concurrent statements. With two, a statement that waits for a lock does not
        block all callers.
    :param limit: maximum number of items per statement.
    :param size_of: returns the size of an item, of which a statement has at most :data:`MAX_STATEMENT_SIZE`.
    :param yields_to: a batcher whose backlog goes first for up to :data:`YIELD_TIMEOUT` seconds.
    """

    def __init__(
        self,
        database: Database,
        run: Callable[[asyncpg.Connection, Sequence[Item]], Awaitable[Sequence[Result]]],
        concurrency: int,
        limit: int,
        yields_to: "StatementBatcher[Any, Any] | None" = None,
        size_of: Callable[[Item], int] = lambda item: 0,
    ) -> None:
        self._database = database
        self._run = run
        self._concurrency = concurrency
        self._limit = limit
        self._yields_to = yields_to
        self._size_of = size_of
        self._no_backlog = asyncio.Event()
        self._no_backlog.set()
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._next_number = 0
        self._workers: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """Execute one item.

        :raises ServiceUnavailable: the database is unavailable; the statement may or may not have been committed.
        :raises StatementFailed: PostgreSQL has rolled the statement back.
        :raises NotAcceptable: the database refuses a text of the item.
        """
        entry: _Entry[Item, Result] = _Entry(self._next_number, item, asyncio.get_running_loop().create_future())
        self._next_number += 1
        self._waiting.append(entry)
        if len(self._waiting) > self._limit:
            self._no_backlog.clear()
        if len(self._workers) < self._concurrency:
            self._workers.add(asyncio.create_task(self._work()))
        result = entry.result
        del entry
        try:
            return await result
        finally:
            # The traceback of an error refers to this frame. A reference cycle would keep the item, which may have
            # megabytes, in memory until Python's cyclic garbage collector runs, which ignores sizes.
            del result

    async def wait_for_backlog(self) -> None:
        """Wait until at most one statement's worth of items is waiting, but not longer than :data:`YIELD_TIMEOUT`."""
        if not self._no_backlog.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(YIELD_TIMEOUT):
                    await self._no_backlog.wait()

    async def _work(self) -> None:
        try:
            while self._waiting:
                if self._yields_to:
                    await self._yields_to.wait_for_backlog()
                if batch := self._take_batch():  # another worker may have taken all entries in the meantime
                    await self._execute(batch)
        finally:  # not in a done callback, which runs later: an entry submitted in between would find no worker
            self._workers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _take_batch(self) -> list[_Entry[Item, Result]]:
        batch: list[_Entry[Item, Result]] = []
        size = 0
        while self._waiting and len(batch) < self._limit:
            size += self._size_of(self._waiting[0].item)
            if batch and size > MAX_STATEMENT_SIZE:
                break
            batch.append(self._waiting.popleft())
        self._update_backlog()
        return batch

    def _take_below(self, number: int) -> list[_Entry[Item, Result]]:
        """Take the waiting entries that were submitted before the entry of this number."""
        taken = []
        while self._waiting and self._waiting[0].number < number:
            taken.append(self._waiting.popleft())
        self._update_backlog()
        return taken

    def _update_backlog(self) -> None:
        if len(self._waiting) <= self._limit:
            self._no_backlog.set()

    async def _execute(self, batch: Sequence[_Entry[Item, Result]]) -> None:
        next_number = self._next_number
        try:
            async with self._database.acquire() as connection:
                results = await self._run(connection, [entry.item for entry in batch])
            pairs = list(zip(batch, results, strict=True))
        except Exception as error:
            separately = len(batch) > 1 and _may_be_due_to_one_item(error)
            if not separately:
                failed = list(batch)
                del batch  # for the same reason as in submit()
                if isinstance(error, ServiceUnavailable) and not isinstance(error, ConnectionLost | StatementFailed):
                    # Entries that were waiting when this attempt began have waited for all of it; they need not wait
                    # for another one.
                    failed += self._take_below(next_number)
                while failed:
                    failed.pop(0).fail(error)
                return
        else:
            for entry, result in pairs:
                entry.succeed(result)
            return
        await self._execute_separately(batch)

    async def _execute_separately(self, batch: Sequence[_Entry[Item, Result]]) -> None:
        """Repeat a failed batch item by item, so that an error in one item does not fail the others."""
        give_up_at = monotonic() + SEPARATE_TIMEOUT
        for entry in batch:
            if monotonic() < give_up_at:
                await self._execute([entry])
            else:
                entry.fail(StatementFailed(STATEMENT_FAILED_MESSAGE, perhaps_refused=False))


def _may_be_due_to_one_item(error: Exception) -> bool:
    """Whether a batch may have failed because of one of its items: a text, or a row that another session has locked."""
    return isinstance(error, StatementFailed) or not isinstance(error, ServiceUnavailable)
