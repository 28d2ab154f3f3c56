"""Statements that many callers share, on a real PostgreSQL: who goes with whom, and whom another's fault concerns."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from db import pool
from db.batching import StatementBatcher
from db.pool import Database
from errors import ConnectionLost, NotAcceptable, ServiceUnavailable
from tests import pgbouncer
from tests.fakes.proxy import CuttingProxy

HELD = 7
"""The key of a lock that a statement waits for if it is asked for ``held``."""

STORE = """
    INSERT INTO kept (said) SELECT said FROM unnest($1::text[]) WITH ORDINALITY AS new (said, n)
    WHERE CASE WHEN said = 'held' THEN pg_advisory_xact_lock_shared($2) IS NOT NULL ELSE true END
    ORDER BY n RETURNING upper(said) AS answer
"""

Run = Callable[[asyncpg.Connection, Sequence[str]], Awaitable[Sequence[str]]]


class Scene:
    """A database with one table, batches that write to it, and what each statement was asked."""

    def __init__(self, database: Database, watching: asyncpg.Connection) -> None:
        self.database = database
        self.watching = watching
        self.runs: list[list[str]] = []

    def batches(
        self, concurrency: int = 1, limit: int = 100, yields_to: StatementBatcher[str, str] | None = None
    ) -> StatementBatcher[str, str]:
        return StatementBatcher(self.database, self._store, concurrency, limit, yields_to)

    async def _store(self, connection: asyncpg.Connection, asked: Sequence[str]) -> Sequence[str]:
        self.runs.append(list(asked))
        return [row["answer"] for row in await connection.fetch(STORE, list(asked), HELD)]

    async def kept(self) -> list[str]:
        return [row["said"] for row in await self.watching.fetch("SELECT said FROM kept ORDER BY n")]

    async def hold(self) -> None:
        """Let statements that are asked for ``held`` wait."""
        await self.watching.execute("SELECT pg_advisory_lock($1)", HELD)

    async def release(self) -> None:
        """Let them go on."""
        await self.watching.execute("SELECT pg_advisory_unlock($1)", HELD)

    async def statements_wait(self, count: int = 1) -> None:
        """Poll until so many statements wait for the lock."""
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted"
        async with asyncio.timeout(10):
            while await self.watching.fetchval(query, HELD) != count:
                await asyncio.sleep(0.005)


def play(url: str, act: Callable[[Scene], Coroutine[Any, Any, None]], through: str | None = None) -> None:
    """:param through: the URL by which the batches reach the database, if it is another."""

    async def run() -> None:
        async with AsyncExitStack() as parts, asyncio.timeout(30):
            watching = await asyncpg.connect(url)
            parts.push_async_callback(watching.close)
            await watching.execute("CREATE TABLE kept (n serial, said text CHECK (said <> 'refused'))")
            database = Database(through or url, 4, 1.0)
            parts.push_async_callback(database.close)
            await database.open()
            await act(Scene(database, watching))

    asyncio.run(run())


def ask(batches: StatementBatcher[str, str], *asked: str) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(batches.submit(one)) for one in asked]


async def outcomes(tasks: Sequence["asyncio.Task[str]"]) -> list[Any]:
    """Of each task its result, or the type of its error."""
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(one) if isinstance(one, BaseException) else one for one in found]


def test_what_is_asked_while_a_statement_is_under_way_goes_into_the_next(database_url: str) -> None:
    async def act(at: Scene) -> None:
        batches = at.batches()
        await at.hold()
        tasks = ask(batches, "held")
        await at.statements_wait()
        for one in "abcde":
            tasks += ask(batches, one)
            await asyncio.sleep(0)
        await at.release()
        assert await outcomes(tasks) == ["HELD", "A", "B", "C", "D", "E"]
        assert at.runs == [["held"], ["a", "b", "c", "d", "e"]]
        assert await at.kept() == ["held", "a", "b", "c", "d", "e"]

    play(database_url, act)


def test_what_is_asked_in_one_turn_of_the_loop_is_one_statement(database_url: str) -> None:
    async def act(at: Scene) -> None:
        assert await outcomes(ask(at.batches(concurrency=2), *"abc")) == ["A", "B", "C"]
        assert at.runs == [["a", "b", "c"]]

    play(database_url, act)


def test_a_statement_does_no_more_than_its_limit_and_the_rest_comes_next(database_url: str) -> None:
    async def act(at: Scene) -> None:
        batches = at.batches(limit=3)
        await at.hold()
        tasks = ask(batches, "held")
        await at.statements_wait()
        tasks += ask(batches, *"abcdefgh")
        await at.release()
        assert await outcomes(tasks) == ["HELD", *"ABCDEFGH"]
        assert at.runs == [["held"], ["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]

    play(database_url, act)


def test_no_more_statements_than_allowed_are_under_way_and_one_that_waits_does_not_hold_up_the_other(
    database_url: str,
) -> None:
    async def act(at: Scene) -> None:
        batches = at.batches(concurrency=2)
        await at.hold()
        held = ask(batches, "held")
        await at.statements_wait()
        assert await outcomes(ask(batches, "a", "b")) == ["A", "B"]
        held += ask(batches, "held")
        await at.statements_wait(2)
        waiting = ask(batches, "c")
        await at.kept()  # a round trip is long enough for a third statement to begin, were one to
        assert at.runs == [["held"], ["a", "b"], ["held"]]
        await at.release()
        assert await outcomes(held + waiting) == ["HELD", "HELD", "C"]

    play(database_url, act)


def test_a_crowd_goes_before_statements_that_stand_behind_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.batching.YIELD_TIMEOUT", 30)

    async def act(at: Scene) -> None:
        first = at.batches(limit=2)
        behind = at.batches(concurrency=2, yields_to=first)
        await at.hold()
        crowd = ask(first, "held", *"abcd")
        await at.statements_wait()
        last = ask(behind, "x", "y")
        await at.kept()
        last += ask(behind, "z")
        await at.kept()
        assert at.runs == [["held", "a"]]
        await at.release()
        assert await outcomes(crowd + last) == ["HELD", *"ABCD", *"XYZ"]
        assert sorted(at.runs[1:]) == [["b", "c"], ["d"], ["x", "y", "z"]]
        assert at.runs[1] == ["b", "c"]

    play(database_url, act)


def test_statements_stand_behind_a_few_of_others_in_no_way(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.batching.YIELD_TIMEOUT", 30)

    async def act(at: Scene) -> None:
        first = at.batches(limit=2)
        behind = at.batches(yields_to=first)
        await at.hold()
        few = ask(first, "held")
        await at.statements_wait()
        few += ask(first, "a", "b")
        assert await outcomes(ask(behind, "x", "y")) == ["X", "Y"]
        await at.release()
        assert await outcomes(few) == ["HELD", "A", "B"]

    play(database_url, act)


def test_a_crowd_does_not_hold_up_those_behind_it_for_long(database_url: str) -> None:
    async def act(at: Scene) -> None:
        first = at.batches(limit=2)
        behind = at.batches(yields_to=first)
        await at.hold()
        crowd = ask(first, "held", *"abcd")
        await at.statements_wait()
        assert await outcomes(ask(behind, "x", "y")) == ["X", "Y"]
        assert at.runs == [["held", "a"], ["x", "y"]]
        await at.release()
        assert await outcomes(crowd) == ["HELD", *"ABCD"]

    play(database_url, act)


@pytest.mark.parametrize(
    ("bad", "error"),
    [("x\0y", NotAcceptable), ("\ud800", NotAcceptable), ("refused", asyncpg.CheckViolationError)],
    ids=["NUL", "half a character", "against a rule"],
)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_what_is_wrong_with_one_is_not_the_others_fault(
    database_url: str, bad: str, error: type[Exception], place: int
) -> None:
    async def act(at: Scene) -> None:
        batches, asked = at.batches(), list("abcd")
        asked.insert(place, bad)
        assert await outcomes(ask(batches, *asked)) == [error if one == bad else one.upper() for one in asked]
        assert await at.kept() == list("abcd")
        assert await outcomes(ask(batches, bad)) == [error]
        assert await outcomes(ask(batches, "later")) == ["LATER"]

    play(database_url, act)


@pytest.mark.expects_log("database", "connection")
@pytest.mark.skipif(pgbouncer.EVERYTHING, reason="a pooler is connected to even while PostgreSQL is away")
def test_a_database_that_is_away_fails_all_that_wait_and_later_ones_work_again(database_url: str) -> None:
    with CuttingProxy(database_url) as proxy:

        async def act(at: Scene) -> None:
            batches = at.batches()
            await at.hold()
            tasks = ask(batches, "held")
            await at.statements_wait()
            tasks += ask(batches, "a", "b")
            await asyncio.to_thread(proxy.cut)
            assert await outcomes(tasks) == [ConnectionLost, ServiceUnavailable, ServiceUnavailable]
            assert at.runs == [["held"]]
            await asyncio.to_thread(proxy.restore)
            await at.release()
            assert await outcomes(ask(batches, "c", "d")) == ["C", "D"]

        play(database_url, act, proxy.url)


def test_nobody_waits_for_another_attempt_who_has_waited_for_one_that_failed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(at: Scene) -> None:
        attempts, over = 0, asyncio.Event()

        @asynccontextmanager
        async def away() -> AsyncIterator[asyncpg.Connection]:
            nonlocal attempts
            attempts += 1
            await over.wait()
            if attempts:
                raise ServiceUnavailable("away")
            yield at.watching

        batches = at.batches(limit=2)
        with monkeypatch.context() as patch:
            patch.setattr(at.database, "acquire", away)
            tasks = ask(batches, *"abcdefgh")
            while not attempts:
                await asyncio.sleep(0)
            tasks += ask(batches, "later")
            await asyncio.sleep(0)
            over.set()
            assert await outcomes(tasks) == [ServiceUnavailable] * 9
            assert attempts == 2, "one for who came during the first"
        assert await outcomes(ask(batches, "i", "j", "k")) == ["I", "J", "K"]

    play(database_url, act)


@pytest.mark.expects_log("connection to the database was lost")
def test_a_statement_that_waits_for_too_long_fails_alone(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "COMMAND_TIMEOUT", 1.0)

    async def act(at: Scene) -> None:
        batches = at.batches(concurrency=2)
        await at.hold()
        held = ask(batches, "held", "beside")
        await at.statements_wait()
        for number in range(20):  # the other goes on meanwhile
            assert await outcomes(ask(batches, f"x{number}")) == [f"X{number}"]
        assert all(issubclass(one, ServiceUnavailable) for one in await outcomes(held))
        assert await outcomes(ask(batches, "y", "z")) == ["Y", "Z"]
        await at.statements_wait(0)  # PostgreSQL has given it up, too
        await at.release()
        assert not {"held", "beside"} & set(await at.kept())

    play(database_url, act)


def test_a_caller_that_is_cancelled_disturbs_nobody(database_url: str) -> None:
    async def act(at: Scene) -> None:
        batches = at.batches()
        await at.hold()
        [held] = ask(batches, "held")
        await at.statements_wait()
        first, second, third = ask(batches, *"abc")
        await asyncio.sleep(0)
        for one in (held, second):
            one.cancel()
        await at.release()
        assert await outcomes([held, first, second, third]) == [
            asyncio.CancelledError, "A", asyncio.CancelledError, "C",
        ]  # fmt: skip
        assert await outcomes(ask(batches, "d")) == ["D"]

    play(database_url, act)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_nobody_is_forgotten_who_asks_in_the_moment_in_which_a_statement_ends(
    database_url: str, concurrency: int
) -> None:
    async def act(at: Scene) -> None:
        batches = at.batches(concurrency=concurrency)

        async def chain(name: str, turns: int) -> None:
            for number in range(40):
                assert await batches.submit(f"{name}{number}") == f"{name}{number}".upper()
                for _ in range(turns):  # so that some ask in every turn after the answer
                    await asyncio.sleep(0)

        await asyncio.gather(*(chain(f"chain {turns} ", turns) for turns in range(12)))
        assert len(await at.kept()) == 12 * 40

    play(database_url, act)


def test_a_statement_that_answers_wrongly_fails_those_who_asked_and_nobody_else(database_url: str) -> None:
    async def act(at: Scene) -> None:
        async def forget_one(connection: asyncpg.Connection, asked: Sequence[str]) -> Sequence[str]:
            return [one for one in asked if one != "forgotten"]

        batches: StatementBatcher[str, str] = StatementBatcher(at.database, forget_one, 1, 100)
        assert await outcomes(ask(batches, "a", "forgotten", "b")) == ["a", ValueError, "b"]
        assert await outcomes(ask(batches, "c")) == ["c"]

    play(database_url, act)


def test_a_deadlock_with_another_s_statement_is_survived(database_url: str) -> None:
    """Two statements that take two locks in opposite order: PostgreSQL ends one of them, which is done again."""

    async def act(at: Scene) -> None:
        met = asyncio.Barrier(2)
        tries = 0

        async def lock_both(connection: asyncpg.Connection, asked: Sequence[str]) -> Sequence[str]:
            nonlocal tries
            tries += 1
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(ascii($1))", asked[0][0])
                if tries <= 2:
                    await met.wait()
                await connection.execute("SELECT pg_advisory_xact_lock(ascii($1))", asked[0][1])
            return asked

        one: StatementBatcher[str, str] = StatementBatcher(at.database, lock_both, 1, 100)
        other: StatementBatcher[str, str] = StatementBatcher(at.database, lock_both, 1, 100)
        assert await outcomes(ask(one, "ab") + ask(other, "ba")) == ["ab", "ba"]
        assert tries == 3

    play(database_url, act)
