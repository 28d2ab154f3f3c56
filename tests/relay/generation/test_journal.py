"""The journal on a real PostgreSQL: who goes into which round, and what becomes of rounds that are refused."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from db import replies
from db.messages import Message
from db.pool import Database
from db.replies import FinishRequest, FinishResult, NewReply
from relay.cluster.lease import ProcessLease
from relay.cluster.notifications import Notifier
from relay.generation.batch import MAX_BATCH_LINES
from relay.generation.journal import Journal
from relay.generation.reply_buffer import ReplyBuffer
from relay.metrics import Metrics

PATIENCE = 20.0


class Scene:
    """A journal that writes, and replies of its process."""

    def __init__(
        self,
        database: Database,
        presence: ProcessLease,
        journal: Journal,
        connect: Callable[[], Coroutine[Any, Any, asyncpg.Connection]],
        beside: asyncpg.Connection,
    ) -> None:
        self.journal = journal
        self.connect = connect
        self.beside = beside
        self.rounds: list[UUID] = []
        self._database = database
        self._presence = presence

    async def reply(self) -> ReplyBuffer:
        """A reply that has begun; when lines of it are committed, its id is added to ``rounds``."""
        reply = ReplyBuffer(uuid4(), "", "m", self._presence.owner)
        async with self._database.acquire() as connection:
            new = NewReply(reply.id, "", f"test-{reply.id}", "m", "{}", reply.owner, None, [], 0, 0)
            await replies.begin(connection, [new])
        self.journal.track(reply)
        reply.subscribe(lambda first, lines: self.rounds.append(reply.id))
        return reply

    def say(self, reply: ReplyBuffer, *lines: bytes) -> None:
        for line in lines:
            reply.append(line)
        self.journal.mark_dirty(reply)

    async def committed(self, *some: ReplyBuffer) -> None:
        """Wait until all that was said is committed, and see that the log has it."""
        async with asyncio.timeout(PATIENCE):
            while any(reply.committed < reply.count for reply in some):
                await asyncio.sleep(0.001)
        for reply in some:
            assert await self.logged(reply) == reply.lines(0, reply.count)

    async def logged(self, reply: ReplyBuffer) -> list[bytes]:
        query = "SELECT seq, line FROM reply_lines WHERE reply = $1 ORDER BY seq"
        found = await self.beside.fetch(query, reply.id)
        assert [row["seq"] for row in found] == list(range(len(found)))
        return [row["line"].encode() for row in found]

    async def waits(self, pid: int | None = None) -> None:
        """Poll until a statement waits for a lock: that of a session, or any."""
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND ($1::int IS NULL OR pid = $1)"
        async with asyncio.timeout(PATIENCE):
            while not await self.beside.fetchval(query, pid):
                await asyncio.sleep(0.005)


def play(url: str, act: Callable[[Scene], Coroutine[Any, Any, None]], interval: float = 0.0) -> None:
    async def run() -> None:
        async with AsyncExitStack() as parts, asyncio.timeout(3 * PATIENCE):
            database = Database(url, 4, 5.0)
            parts.push_async_callback(database.close)
            await database.open()
            doorbell = Notifier(database)
            presence = ProcessLease(database)
            parts.push_async_callback(presence.stop)
            await presence.start(on_notification=lambda payload: None, on_lost=lambda: None)
            journal = Journal(database, presence, doorbell, interval, Metrics())
            parts.push_async_callback(journal.stop)
            journal.start()

            async def connect() -> asyncpg.Connection:
                connection = await asyncpg.connect(url)
                parts.push_async_callback(connection.close)
                return connection

            await act(Scene(database, presence, journal, connect, await connect()))

    asyncio.run(run())


async def sizes_of_rounds(at: Scene) -> list[int]:
    found = await at.beside.fetch("SELECT count(*) FROM reply_lines GROUP BY xmin")
    return [row["count"] for row in found]


def test_a_backlog_without_end_keeps_no_other_reply_waiting(database_url: str) -> None:
    """Whoever has new lines is in the round after the next one at the latest, as long as all of them fit into one."""

    async def act(at: Scene) -> None:
        greedy, *others = [await at.reply() for _ in range(40)]
        asked: dict[UUID, int] = {}
        waited: list[int] = []

        def go_on(first: int, lines: list[bytes]) -> None:
            if greedy.count < 60 * MAX_BATCH_LINES:
                at.say(greedy, *[b"more"] * MAX_BATCH_LINES)
            number = len(asked)
            if number < len(others):
                asked[others[number].id] = at.rounds.count(greedy.id)
                at.say(others[number], b"one")

        for one in others:
            one.subscribe(lambda first, lines, id=one.id: waited.append(at.rounds.count(greedy.id) - asked[id]))  # type: ignore[misc]
        greedy.subscribe(go_on)
        at.say(greedy, *[b"more"] * (5 * MAX_BATCH_LINES))
        await at.committed(greedy, *others)
        assert len(waited) == len(others)
        assert max(waited) <= 2
        assert max(await sizes_of_rounds(at)) == MAX_BATCH_LINES

    play(database_url, act)


def test_of_several_backlogs_without_end_each_has_its_turn(database_url: str) -> None:
    async def act(at: Scene) -> None:
        greedy = [await at.reply() for _ in range(4)]
        for one in greedy:
            at.say(one, *[b"more"] * (10 * MAX_BATCH_LINES))
        await at.committed(*greedy)
        for start in range(0, len(at.rounds) - 4, 4):
            assert set(at.rounds[start : start + 4]) == {one.id for one in greedy}
        assert max(await sizes_of_rounds(at)) <= MAX_BATCH_LINES

    play(database_url, act)


def test_more_replies_than_a_round_has_lines_are_written_in_the_order_in_which_they_came(database_url: str) -> None:
    async def act(at: Scene) -> None:
        some = [await at.reply() for _ in range(30)]
        many = [b"x"] * (MAX_BATCH_LINES // 10)
        for one in some:
            at.say(one, *many)
        await at.committed(*some)
        assert at.rounds == [one.id for one in some]
        assert sorted(await sizes_of_rounds(at)) == [MAX_BATCH_LINES] * 3

    play(database_url, act)


def test_a_round_with_a_line_that_is_there_already_is_written_again_without_it(database_url: str) -> None:
    async def act(at: Scene) -> None:
        one, other = await at.reply(), await at.reply()
        await at.beside.execute("INSERT INTO reply_lines VALUES ($1, 0, 'a')", one.id)
        at.say(one, b"a", b"b")
        at.say(other, b"x")
        await at.committed(one, other)
        at.say(one, b"c")
        at.say(other, b"y")
        await at.committed(one, other)

    play(database_url, act)


def test_an_end_that_meets_a_round_under_way_in_opposite_order_disturbs_nobody(database_url: str) -> None:
    """The round and the end have each written a line that the other wants to write: PostgreSQL undoes one of them."""

    async def act(at: Scene) -> None:
        first, middle, last = [await at.reply() for _ in range(3)]
        holding, ending = [await at.connect() for _ in range(2)]
        hold = holding.transaction()
        await hold.start()
        await holding.execute("INSERT INTO reply_lines VALUES ($1, 0, 'held')", middle.id)
        await ending.execute("SET deadlock_timeout = '1min'")  # so that it is the round that is undone
        for reply in (first, middle, last):
            at.say(reply, b"line")
        await at.waits()
        endings = [
            FinishRequest(one.id, "", one.owner, "done", None, Message("assistant", "x"), 0, ["line", "end"], [])
            for one in sorted((first, last), key=lambda one: one is first)
        ]
        ended = asyncio.ensure_future(replies.finish(ending, endings))
        await at.waits(ending.get_server_pid())
        await hold.rollback()
        assert await ended == [FinishResult.STORED] * 2
        for reply in (first, last):
            at.journal.untrack(reply)
            assert await at.logged(reply) == [b"line", b"end"]
        await at.committed(middle)

    play(database_url, act)


@pytest.mark.expects_log("The database takes no lines")
def test_lines_of_a_round_whose_connection_was_cut_are_written_once(database_url: str) -> None:
    async def act(at: Scene) -> None:
        some = [await at.reply() for _ in range(5)]
        for turn in range(8):
            for one in some:
                at.say(one, *(b"%d %d" % (turn, n) for n in range(100)))
            await asyncio.sleep(0.002 * turn)
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%alive AS MATERIALIZED%'"
            await at.beside.execute(query + " AND pid <> pg_backend_pid() AND datname = current_database()")
        await at.committed(*some)

    play(database_url, act)


def test_large_lines_are_spread_over_rounds_that_postgresql_can_take(database_url: str) -> None:
    """PostgreSQL takes no message of 1 GB: a round as large would be tried again for ever, and all replies wait."""

    async def act(at: Scene) -> None:
        large = b"x" * 3_000_000
        some = [await at.reply() for _ in range(4)]
        for one in some[:3]:
            at.say(one, b"first", *[large] * 9, b"last")
        at.say(some[3], large * 9)
        await at.committed(*some)
        sizes = await at.beside.fetch("SELECT sum(octet_length(line)) AS size FROM reply_lines GROUP BY xmin")
        assert max(row["size"] for row in sizes) <= len(large) * 9
        assert len(sizes) >= 4

    play(database_url, act)


def test_large_lines_without_end_keep_no_other_reply_waiting(database_url: str) -> None:
    async def act(at: Scene) -> None:
        greedy, other = await at.reply(), await at.reply()
        large = [b"x" * 3_000_000] * 3

        def go_on(first: int, lines: list[bytes]) -> None:
            if greedy.count < 20 and not other.committed:
                at.say(greedy, *large)

        greedy.subscribe(go_on)
        at.say(greedy, *large)
        at.say(other, b"one")
        await at.committed(greedy, other)
        assert at.rounds.index(other.id) <= 2

    play(database_url, act)
