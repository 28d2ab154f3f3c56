"""StatementBatcher on a real PostgreSQL: which items share a statement, and which items an error affects."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from db import batching, pool
from db.batching import StatementBatcher
from db.pool import Database
from errors import ConnectionLost, NotAcceptable, ServiceUnavailable, StatementFailed
from tests import pgbouncer
from tests.fakes.proxy import CuttingProxy
from tests.faults import Fault

LOCK_KEY = 7
"""Key of the advisory lock that a statement with the item ``held`` waits for."""

STORE = """
    INSERT INTO stored (item) SELECT item FROM unnest($1::text[]) WITH ORDINALITY AS new (item, n)
    WHERE CASE WHEN item = 'held' THEN pg_advisory_xact_lock_shared($2) IS NOT NULL ELSE true END
    ORDER BY n RETURNING upper(item) AS result
"""

Run = Callable[[asyncpg.Connection, Sequence[str]], Awaitable[Sequence[str]]]


class Scene:
    """A database with one table, batchers that write to it, and a record of the items of each statement."""

    def __init__(self, database: Database, observer: asyncpg.Connection) -> None:
        self.database = database
        self.observer = observer
        self.runs: list[list[str]] = []

    def batcher(
        self, concurrency: int = 1, limit: int = 100, yields_to: StatementBatcher[str, str] | None = None
    ) -> StatementBatcher[str, str]:
        return StatementBatcher(self.database, self._store, concurrency, limit, yields_to, size_of=len)

    async def _store(self, connection: asyncpg.Connection, items: Sequence[str]) -> Sequence[str]:
        self.runs.append(list(items))
        return [row["result"] for row in await connection.fetch(STORE, list(items), LOCK_KEY)]

    async def stored(self) -> list[str]:
        return [row["item"] for row in await self.observer.fetch("SELECT item FROM stored ORDER BY n")]

    async def hold(self) -> None:
        """Take the lock that statements with the item ``held`` wait for."""
        await self.observer.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)

    async def release(self) -> None:
        """Release the lock."""
        await self.observer.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)

    async def wait_until_blocked(self, count: int = 1) -> None:
        """Poll until ``count`` statements wait for the lock."""
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted"
        async with asyncio.timeout(10):
            while await self.observer.fetchval(query, LOCK_KEY) != count:
                await asyncio.sleep(0.005)


def play(url: str, act: Callable[[Scene], Coroutine[Any, Any, None]], through: str | None = None) -> None:
    """Run ``act`` with a new scene.

    :param through: URL by which the batchers reach the database; default: ``url``.
    """

    async def run() -> None:
        async with AsyncExitStack() as stack, asyncio.timeout(30):
            observer = await asyncpg.connect(url)
            stack.push_async_callback(observer.close)
            await observer.execute("CREATE TABLE stored (n serial, item text CHECK (item <> 'invalid'))")
            database = Database(through or url, 4, 10.0)
            stack.push_async_callback(database.close)
            await database.open()
            await act(Scene(database, observer))

    asyncio.run(run())


def submit(batcher: StatementBatcher[str, str], *items: str) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(batcher.submit(item)) for item in items]


async def outcomes(tasks: Sequence["asyncio.Task[str]"]) -> list[Any]:
    """Return the result of each task, or the type of its exception."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(result) if isinstance(result, BaseException) else result for result in results]


def test_items_submitted_during_a_statement_share_the_next_one(database_url: str) -> None:
    async def act(at: Scene) -> None:
        batcher = at.batcher()
        await at.hold()
        tasks = submit(batcher, "held")
        await at.wait_until_blocked()
        for item in "abcde":
            tasks += submit(batcher, item)
            await asyncio.sleep(0)
        await at.release()
        assert await outcomes(tasks) == ["HELD", "A", "B", "C", "D", "E"]
        assert at.runs == [["held"], ["a", "b", "c", "d", "e"]]
        assert await at.stored() == ["held", "a", "b", "c", "d", "e"]

    play(database_url, act)


def test_items_submitted_in_one_iteration_of_the_loop_share_a_statement(database_url: str) -> None:
    async def act(at: Scene) -> None:
        assert await outcomes(submit(at.batcher(concurrency=2), *"abc")) == ["A", "B", "C"]
        assert at.runs == [["a", "b", "c"]]

    play(database_url, act)


def test_a_statement_executes_at_most_limit_items(database_url: str) -> None:
    async def act(at: Scene) -> None:
        batcher = at.batcher(limit=3)
        await at.hold()
        tasks = submit(batcher, "held")
        await at.wait_until_blocked()
        tasks += submit(batcher, *"abcdefgh")
        await at.release()
        assert await outcomes(tasks) == ["HELD", *"ABCDEFGH"]
        assert at.runs == [["held"], ["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]

    play(database_url, act)


def test_large_items_do_not_share_a_statement(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_STATEMENT_SIZE", 10)

    async def act(at: Scene) -> None:
        items = ["a" * 4, "b" * 6, "c", "d" * 50, "e", "f" * 9, "g"]
        assert await outcomes(submit(at.batcher(), *items)) == [item.upper() for item in items]
        assert at.runs == [items[:2], items[2:3], items[3:4], items[4:6], items[6:]]

    play(database_url, act)


def test_concurrency_is_limited_and_a_blocked_statement_does_not_block_the_other(
    database_url: str,
) -> None:
    async def act(at: Scene) -> None:
        batcher = at.batcher(concurrency=2)
        await at.hold()
        held = submit(batcher, "held")
        await at.wait_until_blocked()
        assert await outcomes(submit(batcher, "a", "b")) == ["A", "B"]
        held += submit(batcher, "held")
        await at.wait_until_blocked(2)
        waiting = submit(batcher, "c")
        await at.stored()  # a round trip, during which a third statement would have begun
        assert at.runs == [["held"], ["a", "b"], ["held"]]
        await at.release()
        assert await outcomes(held + waiting) == ["HELD", "HELD", "C"]

    play(database_url, act)


def test_a_backlog_goes_before_the_statements_that_yield_to_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.batching.YIELD_TIMEOUT", 30)

    async def act(at: Scene) -> None:
        first = at.batcher(limit=2)
        behind = at.batcher(concurrency=2, yields_to=first)
        await at.hold()
        backlog = submit(first, "held", *"abcd")
        await at.wait_until_blocked()
        last = submit(behind, "x", "y")
        await at.stored()
        last += submit(behind, "z")
        await at.stored()
        assert at.runs == [["held", "a"]]
        await at.release()
        assert await outcomes(backlog + last) == ["HELD", *"ABCD", *"XYZ"]
        assert sorted(at.runs[1:]) == [["b", "c"], ["d"], ["x", "y", "z"]]
        assert at.runs[1] == ["b", "c"]

    play(database_url, act)


def test_a_batcher_does_not_yield_to_less_than_one_statement_of_items(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.batching.YIELD_TIMEOUT", 30)

    async def act(at: Scene) -> None:
        first = at.batcher(limit=2)
        behind = at.batcher(yields_to=first)
        await at.hold()
        few = submit(first, "held")
        await at.wait_until_blocked()
        few += submit(first, "a", "b")
        assert await outcomes(submit(behind, "x", "y")) == ["X", "Y"]
        await at.release()
        assert await outcomes(few) == ["HELD", "A", "B"]

    play(database_url, act)


def test_a_batcher_yields_for_a_limited_time(database_url: str) -> None:
    async def act(at: Scene) -> None:
        first = at.batcher(limit=2)
        behind = at.batcher(yields_to=first)
        await at.hold()
        backlog = submit(first, "held", *"abcd")
        await at.wait_until_blocked()
        assert await outcomes(submit(behind, "x", "y")) == ["X", "Y"]
        assert at.runs == [["held", "a"], ["x", "y"]]
        await at.release()
        assert await outcomes(backlog) == ["HELD", *"ABCD"]

    play(database_url, act)


@pytest.mark.parametrize(
    ("bad", "error"),
    [("x\0y", NotAcceptable), ("\ud800", NotAcceptable), ("invalid", NotAcceptable)],
    ids=["NUL", "lone surrogate", "constraint"],
)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_an_invalid_item_does_not_fail_the_others(
    database_url: str, bad: str, error: type[Exception], place: int
) -> None:
    async def act(at: Scene) -> None:
        batcher, items = at.batcher(), list("abcd")
        items.insert(place, bad)
        assert await outcomes(submit(batcher, *items)) == [error if item == bad else item.upper() for item in items]
        assert await at.stored() == list("abcd")
        assert await outcomes(submit(batcher, bad)) == [error]
        assert await outcomes(submit(batcher, "later")) == ["LATER"]

    play(database_url, act)


@pytest.mark.expects_log("database", "connection")
@pytest.mark.skipif(pgbouncer.EVERYTHING, reason="a pooler accepts connections while PostgreSQL is unavailable")
def test_an_unavailable_database_fails_all_waiting_items_but_not_later_ones(database_url: str) -> None:
    with CuttingProxy(database_url) as proxy:

        async def act(at: Scene) -> None:
            batcher = at.batcher()
            await at.hold()
            tasks = submit(batcher, "held")
            await at.wait_until_blocked()
            tasks += submit(batcher, "a", "b")
            await asyncio.to_thread(proxy.cut)
            assert await outcomes(tasks) == [ConnectionLost, ServiceUnavailable, ServiceUnavailable]
            assert at.runs == [["held"]]
            await asyncio.to_thread(proxy.restore)
            await at.release()
            assert await outcomes(submit(batcher, "c", "d")) == ["C", "D"]

        play(database_url, act, proxy.url)


def test_items_that_waited_for_a_failed_attempt_do_not_wait_for_another(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(at: Scene) -> None:
        attempts, done = 0, asyncio.Event()

        @asynccontextmanager
        async def unavailable() -> AsyncIterator[asyncpg.Connection]:
            nonlocal attempts
            attempts += 1
            await done.wait()
            if attempts:
                raise ServiceUnavailable("unavailable")
            yield at.observer

        batcher = at.batcher(limit=2)
        with monkeypatch.context() as patch:
            patch.setattr(at.database, "acquire", unavailable)
            tasks = submit(batcher, *"abcdefgh")
            while not attempts:
                await asyncio.sleep(0)
            tasks += submit(batcher, "later")
            await asyncio.sleep(0)
            done.set()
            assert await outcomes(tasks) == [ServiceUnavailable] * 9
            assert attempts == 2, "the second for the item submitted during the first"
        assert await outcomes(submit(batcher, "i", "j", "k")) == ["I", "J", "K"]

    play(database_url, act)


@pytest.mark.expects_log("database is unavailable")
@pytest.mark.extended
def test_a_statement_that_times_out_does_not_fail_others(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "COMMAND_TIMEOUT", 1.0)

    async def act(at: Scene) -> None:
        batcher = at.batcher(concurrency=2)
        await at.hold()
        held = submit(batcher, "held", "beside")
        await at.wait_until_blocked()
        for number in range(20):  # the other worker continues
            assert await outcomes(submit(batcher, f"x{number}")) == [f"X{number}"]
        assert all(issubclass(error, ServiceUnavailable) for error in await outcomes(held))
        assert await outcomes(submit(batcher, "y", "z")) == ["Y", "Z"]
        await at.wait_until_blocked(0)  # PostgreSQL has cancelled it
        await at.release()
        assert not {"held", "beside"} & set(await at.stored())

    play(database_url, act)


def test_a_cancelled_caller_does_not_affect_others(database_url: str) -> None:
    async def act(at: Scene) -> None:
        batcher = at.batcher()
        await at.hold()
        [held] = submit(batcher, "held")
        await at.wait_until_blocked()
        first, second, third = submit(batcher, *"abc")
        await asyncio.sleep(0)
        for task in (held, second):
            task.cancel()
        await at.release()
        assert await outcomes([held, first, second, third]) == [
            asyncio.CancelledError, "A", asyncio.CancelledError, "C",
        ]  # fmt: skip
        assert await outcomes(submit(batcher, "d")) == ["D"]

    play(database_url, act)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_items_submitted_when_a_statement_ends_are_executed(database_url: str, concurrency: int) -> None:
    async def act(at: Scene) -> None:
        batcher = at.batcher(concurrency=concurrency)

        async def chain(name: str, iterations: int) -> None:
            for number in range(40):
                assert await batcher.submit(f"{name}{number}") == f"{name}{number}".upper()
                for _ in range(iterations):  # so that items are submitted in every iteration of the loop after a result
                    await asyncio.sleep(0)

        await asyncio.gather(*(chain(f"chain {iterations} ", iterations) for iterations in range(12)))
        assert len(await at.stored()) == 12 * 40

    play(database_url, act)


def test_a_wrong_number_of_results_fails_only_the_affected_items(database_url: str) -> None:
    async def act(at: Scene) -> None:
        async def omit_result(connection: asyncpg.Connection, items: Sequence[str]) -> Sequence[str]:
            return [item for item in items if item != "omitted"]

        batcher: StatementBatcher[str, str] = StatementBatcher(at.database, omit_result, 1, 100)
        assert await outcomes(submit(batcher, "a", "omitted", "b")) == ["a", ValueError, "b"]
        assert await outcomes(submit(batcher, "c")) == ["c"]

    play(database_url, act)


def test_a_statement_is_repeated_after_a_deadlock(database_url: str) -> None:
    """Two statements take two locks in opposite order: PostgreSQL cancels one of them, which is repeated."""
    statement = """
        SELECT pg_advisory_xact_lock(ascii($1)), pg_advisory_xact_lock_shared($2), pg_advisory_xact_lock(ascii($3))
    """

    async def act(at: Scene) -> None:
        async def lock_both(connection: asyncpg.Connection, items: Sequence[str]) -> Sequence[str]:
            await connection.execute(statement, items[0][0], LOCK_KEY, items[0][1])
            return items

        first: StatementBatcher[str, str] = StatementBatcher(at.database, lock_both, 1, 100)
        second: StatementBatcher[str, str] = StatementBatcher(at.database, lock_both, 1, 100)
        await at.hold()
        tasks = submit(first, "ab") + submit(second, "ba")
        await at.wait_until_blocked(2)
        await at.release()
        assert await outcomes(tasks) == ["ab", "ba"]

    play(database_url, act)


@pytest.mark.expects_log("database")
@pytest.mark.parametrize("state", ["55P03", "XX000", "58030"])
def test_an_item_that_fails_until_its_fault_is_removed_holds_up_no_other(database_url: str, state: str) -> None:
    """A locked row, a defect, or a file that cannot be written fails the statements of its item only."""

    async def act(at: Scene) -> None:
        await asyncio.to_thread(Fault, database_url, "stored", state, condition="NEW.item = 'bad'")
        batcher = at.batcher()
        await at.hold()
        tasks = submit(batcher, "held")
        await at.wait_until_blocked()
        tasks += submit(batcher, "a", "bad", "b", "c")
        await at.release()
        assert await outcomes(tasks) == ["HELD", "A", StatementFailed, "B", "C"]
        assert await at.stored() == ["held", "a", "b", "c"]

    play(database_url, act)


@pytest.mark.expects_log("database")
def test_items_that_all_wait_for_one_lock_are_not_tried_one_by_one_for_long(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.batching.SEPARATE_TIMEOUT", 0.0)

    async def act(at: Scene) -> None:
        fault = await asyncio.to_thread(Fault, database_url, "stored", "XX000")
        batcher, items = at.batcher(), list("abcdef")
        assert await outcomes(submit(batcher, *items)) == [StatementFailed] * len(items)
        assert at.runs == [items]
        await asyncio.to_thread(fault.remove)
        assert await outcomes(submit(batcher, *items)) == list("ABCDEF")

    play(database_url, act)
