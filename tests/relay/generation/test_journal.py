"""The journal on a real PostgreSQL: how lines are distributed over batches, and how failed batches are repeated."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from db import reply_begin, reply_end
from db.messages import Message
from db.pool import Database
from db.reply_begin import NewReply
from db.reply_end import FinishRequest, FinishResult
from relay.cluster.lease import ProcessLease
from relay.cluster.notifications import Notifier
from relay.generation.batch import MAX_BATCH_LINES
from relay.generation.journal import Journal
from relay.generation.reply_buffer import ReplyBuffer
from relay.metrics import Metrics

TIMEOUT = 20.0


class Scene:
    """A running journal, and replies of its process."""

    def __init__(
        self,
        database: Database,
        lease: ProcessLease,
        journal: Journal,
        connect: Callable[[], Coroutine[Any, Any, asyncpg.Connection]],
        observer: asyncpg.Connection,
    ) -> None:
        self.journal = journal
        self.connect = connect
        self.observer = observer
        self.commits: list[UUID] = []
        self._database = database
        self._lease = lease

    async def reply(self) -> ReplyBuffer:
        """Begin a reply. At each commit of its lines its id is appended to :attr:`commits`."""
        reply = ReplyBuffer(uuid4(), "", "m", self._lease.owner)
        async with self._database.acquire() as connection:
            new = NewReply(reply.id, "", f"test-{reply.id}", "m", "{}", reply.owner, None, [], 0, 0)
            await reply_begin.begin(connection, [new])
        self.journal.track(reply)
        reply.subscribe(lambda first, lines: self.commits.append(reply.id))
        return reply

    def append(self, reply: ReplyBuffer, *lines: bytes) -> None:
        for line in lines:
            reply.append(line)
        self.journal.mark_dirty(reply)

    async def wait_committed(self, *replies: ReplyBuffer) -> None:
        """Wait until all lines are committed, and check that the log has them."""
        async with asyncio.timeout(TIMEOUT):
            while any(reply.committed < reply.count for reply in replies):
                await asyncio.sleep(0.001)
        for reply in replies:
            assert await self.read_log(reply) == reply.lines(0, reply.count)

    async def read_log(self, reply: ReplyBuffer) -> list[bytes]:
        query = "SELECT seq, line FROM reply_lines WHERE reply = $1 ORDER BY seq"
        found = await self.observer.fetch(query, reply.id)
        assert [row["seq"] for row in found] == list(range(len(found)))
        return [row["line"].encode() for row in found]

    async def wait_for_lock(self, pid: int | None = None) -> None:
        """Poll until a statement of the session, or of any session, waits for a lock."""
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND ($1::int IS NULL OR pid = $1)"
        async with asyncio.timeout(TIMEOUT):
            while not await self.observer.fetchval(query, pid):
                await asyncio.sleep(0.005)


def play(url: str, act: Callable[[Scene], Coroutine[Any, Any, None]], interval: float = 0.0) -> None:
    async def run() -> None:
        async with AsyncExitStack() as parts, asyncio.timeout(3 * TIMEOUT):
            database = Database(url, 4, 5.0)
            parts.push_async_callback(database.close)
            await database.open()
            notifier = Notifier(database)
            lease = ProcessLease(database)
            parts.push_async_callback(lease.stop)
            await lease.start(on_notification=lambda payload: None, on_lost=lambda: None)
            journal = Journal(database, lease, notifier, interval, Metrics())
            parts.push_async_callback(journal.stop)
            await journal.start()

            async def connect() -> asyncpg.Connection:
                connection = await asyncpg.connect(url)
                parts.push_async_callback(connection.close)
                return connection

            await act(Scene(database, lease, journal, connect, await connect()))

    asyncio.run(run())


async def batch_sizes(scene: Scene) -> list[int]:
    found = await scene.observer.fetch("SELECT count(*) FROM reply_lines GROUP BY xmin")
    return [row["count"] for row in found]


def test_endless_backlog_of_one_reply_does_not_delay_others(database_url: str) -> None:
    """New lines are in the batch after the next at the latest, if the lines of all other replies fit into one batch."""

    async def act(scene: Scene) -> None:
        greedy, *others = [await scene.reply() for _ in range(40)]
        commits_before: dict[UUID, int] = {}
        waited: list[int] = []

        def append_more(first: int, lines: list[bytes]) -> None:
            if greedy.count < 60 * MAX_BATCH_LINES:
                scene.append(greedy, *[b"more"] * MAX_BATCH_LINES)
            number = len(commits_before)
            if number < len(others):
                commits_before[others[number].id] = scene.commits.count(greedy.id)
                scene.append(others[number], b"one")

        def count_batches(reply: ReplyBuffer) -> None:
            reply.subscribe(
                lambda first, lines: waited.append(scene.commits.count(greedy.id) - commits_before[reply.id])
            )

        for one in others:
            count_batches(one)
        greedy.subscribe(append_more)
        scene.append(greedy, *[b"more"] * (5 * MAX_BATCH_LINES))
        await scene.wait_committed(greedy, *others)
        assert len(waited) == len(others)
        assert max(waited) <= 2
        assert max(await batch_sizes(scene)) == MAX_BATCH_LINES

    play(database_url, act)


def test_several_backlogs_take_turns(database_url: str) -> None:
    async def act(scene: Scene) -> None:
        greedy = [await scene.reply() for _ in range(4)]
        for one in greedy:
            scene.append(one, *[b"more"] * (10 * MAX_BATCH_LINES))
        await scene.wait_committed(*greedy)
        for start in range(0, len(scene.commits) - 4, 4):
            assert set(scene.commits[start : start + 4]) == {one.id for one in greedy}
        assert max(await batch_sizes(scene)) <= MAX_BATCH_LINES

    play(database_url, act)


def test_replies_that_do_not_fit_into_one_batch_are_written_in_order(database_url: str) -> None:
    async def act(scene: Scene) -> None:
        several = [await scene.reply() for _ in range(30)]
        many = [b"x"] * (MAX_BATCH_LINES // 10)
        for one in several:
            scene.append(one, *many)
        await scene.wait_committed(*several)
        assert scene.commits == [one.id for one in several]
        assert sorted(await batch_sizes(scene)) == [MAX_BATCH_LINES] * 3

    play(database_url, act)


def test_batch_with_a_line_that_exists_already_is_repeated_without_it(database_url: str) -> None:
    async def act(scene: Scene) -> None:
        one, other = await scene.reply(), await scene.reply()
        await scene.observer.execute("INSERT INTO reply_lines VALUES ($1, 0, 'a')", one.id)
        scene.append(one, b"a", b"b")
        scene.append(other, b"x")
        await scene.wait_committed(one, other)
        scene.append(one, b"c")
        scene.append(other, b"y")
        await scene.wait_committed(one, other)

    play(database_url, act)


def test_deadlock_with_the_end_of_replies_loses_no_line(database_url: str) -> None:
    """A batch and a statement that ends replies wait for each other: PostgreSQL rolls one of them back."""

    async def act(scene: Scene) -> None:
        first, middle, last = [await scene.reply() for _ in range(3)]
        holding, ending = [await scene.connect() for _ in range(2)]
        hold = holding.transaction()
        await hold.start()
        await holding.execute("INSERT INTO reply_lines VALUES ($1, 0, 'held')", middle.id)
        await ending.execute("SET deadlock_timeout = '1min'")  # so that the batch is rolled back
        for reply in (first, middle, last):
            scene.append(reply, b"line")
        await scene.wait_for_lock()
        requests = [
            FinishRequest(one.id, "", one.owner, "done", None, Message("assistant", "x"), 0, ["line", "end"], [])
            for one in sorted((first, last), key=lambda one: one is first)
        ]
        ended = asyncio.ensure_future(reply_end.finish(ending, requests))
        await scene.wait_for_lock(ending.get_server_pid())
        await hold.rollback()
        assert await ended == [FinishResult.STORED] * 2
        for reply in (first, last):
            scene.journal.untrack(reply)
            assert await scene.read_log(reply) == [b"line", b"end"]
        await scene.wait_committed(middle)

    play(database_url, act)


@pytest.mark.expects_log("The database is unavailable")
def test_lines_of_a_batch_whose_connection_was_lost_are_written_once(database_url: str) -> None:
    async def act(scene: Scene) -> None:
        several = [await scene.reply() for _ in range(5)]
        for turn in range(8):
            for one in several:
                scene.append(one, *(b"%d %d" % (turn, n) for n in range(100)))
            await asyncio.sleep(0.002 * turn)
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%alive AS MATERIALIZED%'"
            await scene.observer.execute(query + " AND pid <> pg_backend_pid() AND datname = current_database()")
        await scene.wait_committed(*several)

    play(database_url, act)


def test_large_lines_are_distributed_over_several_batches(database_url: str) -> None:
    """PostgreSQL rejects messages of 1 GB: such a batch would be repeated forever, and all replies would wait."""

    async def act(scene: Scene) -> None:
        large = b"x" * 3_000_000
        several = [await scene.reply() for _ in range(4)]
        for one in several[:3]:
            scene.append(one, b"first", *[large] * 9, b"last")
        scene.append(several[3], large * 9)
        await scene.wait_committed(*several)
        sizes = await scene.observer.fetch("SELECT sum(octet_length(line)) AS size FROM reply_lines GROUP BY xmin")
        assert max(row["size"] for row in sizes) <= len(large) * 9
        assert len(sizes) >= 4

    play(database_url, act)


def test_endless_large_lines_do_not_delay_other_replies(database_url: str) -> None:
    async def act(scene: Scene) -> None:
        greedy, other = await scene.reply(), await scene.reply()
        large = [b"x" * 3_000_000] * 3

        def append_more(first: int, lines: list[bytes]) -> None:
            if greedy.count < 20 and not other.committed:
                scene.append(greedy, *large)

        greedy.subscribe(append_more)
        scene.append(greedy, *large)
        scene.append(other, b"one")
        await scene.wait_committed(greedy, other)
        assert scene.commits.index(other.id) <= 2

    play(database_url, act)
