"""The table ``replies``: begun and ended in one statement each, all or nothing, whatever commits in between."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from db import messages, ownership, processes, replies, reply_lines
from db.messages import Message
from db.migrate import migrate
from db.ownership import Orphan
from db.replies import BeginResult, FinishRequest, FinishResult, NewReply

HI = Message("user", "hi")


class Scene:
    """Connections to a migrated database, and one conversation."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connections: list[asyncpg.Connection] = []

    async def connect(self) -> asyncpg.Connection:
        self._connections.append(await asyncpg.connect(self._url))
        return self._connections[-1]

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close(timeout=5)

    async def waits(self, connection: asyncpg.Connection) -> None:
        """Poll until what runs on ``connection`` waits for a lock."""
        looking = await self.connect()
        query = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted"
        async with asyncio.timeout(10):
            while not await looking.fetchval(query, connection.get_server_pid()):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def scene(url: str) -> AsyncIterator[Scene]:
    it = Scene(url)
    try:
        yield it
    finally:
        await it.close()


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    url = new_database()

    async def prepare(at: Scene) -> None:
        await migrate(await at.connect())

    play(url, prepare)
    return url


def play(url: str, act: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with scene(url) as at:
            await act(at)

    asyncio.run(run())


def new(key: str | None = None, appid: str | None = None) -> NewReply:
    """A reply to be, in a conversation of its own unless told otherwise."""
    return NewReply(uuid4(), "", appid or f"test-{uuid4()}", "m", '{"model":"m"}', 1, key, [], 500, 1_000_000)


def another(first: NewReply, key: str | None = None) -> NewReply:
    return replace(first, id=uuid4(), idempotency_key=key)


async def begin(
    connection: asyncpg.Connection, reply: NewReply, *messages: Message, limit: int = 500, size: int = 1_000_000
) -> BeginResult:
    asked = replace(reply, messages=messages, context_messages=limit, context_bytes=size)
    [begun] = await replies.begin(connection, [asked])
    return begun


async def finish(
    connection: asyncpg.Connection, reply: NewReply, status: str = "done", said: str | None = "said"
) -> bool:
    message = Message("assistant", said) if said is not None else None
    error = None if status == "done" else "why"
    ending = FinishRequest(reply.id, reply.tenant, reply.owner, status, error, message, 0, ["the last line"], [])
    return await replies.finish(connection, [ending]) == [FinishResult.STORED]


async def said(connection: asyncpg.Connection, reply: NewReply) -> list[tuple[str, str]]:
    page = await messages.read_page(connection, reply.tenant, reply.appid, 500, None)
    return [(recorded.message.role, recorded.message.content) for recorded in page]


async def ids(connection: asyncpg.Connection, reply: NewReply) -> set[UUID]:
    found = await connection.fetch("SELECT id FROM replies WHERE appid = $1", reply.appid)
    return {row["id"] for row in found}


# Begin.


def test_a_reply_is_begun_with_its_messages_and_the_conversation_before_them(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()
        assert await begin(connection, first, HI, Message("system", "be")) == BeginResult(context=[])
        assert await finish(connection, first)
        second = another(first)
        begun = await begin(connection, second, Message("user", "more", '{"images":["x"]}'))
        assert begun == BeginResult(context=[HI, Message("system", "be"), Message("assistant", "said")])
        assert (await said(connection, first))[-1] == ("user", "more")
        assert await ids(connection, first) == {first.id, second.id}
        row = await connection.fetchrow("SELECT * FROM replies WHERE id = $1", second.id)
        assert row is not None
        assert (row["status"], row["model"], row["request"], row["owner"]) == ("streaming", "m", '{"model":"m"}', 1)

    play(url, act)


def test_a_reply_to_a_conversation_with_a_running_one_is_refused_and_leaves_no_trace(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()
        await begin(connection, first, HI)
        assert await begin(connection, another(first), HI, HI) == BeginResult(running=first.id)
        assert await begin(connection, another(first, key="k"), HI) == BeginResult(running=first.id)
        assert await said(connection, first) == [("user", "hi")]
        assert await ids(connection, first) == {first.id}

    play(url, act)


@pytest.mark.parametrize("ended", [False, True])
def test_a_known_key_names_its_reply_and_leaves_no_trace(url: str, ended: bool) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new(key="k")
        await begin(connection, first, HI)
        if ended:
            await finish(connection, first)
        assert await begin(connection, another(first, key="k"), HI) == BeginResult(existing=first.id)
        assert len(await said(connection, first)) == 1 + ended
        assert (await begin(connection, new(key="k"), HI)).context == []

    play(url, act)


def test_a_known_key_wins_over_a_running_reply(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new(key="k")
        await begin(connection, first, HI)
        await finish(connection, first)
        await begin(connection, another(first), HI)
        assert await begin(connection, another(first, key="k"), HI) == BeginResult(existing=first.id)

    play(url, act)


@pytest.mark.parametrize(
    "bad", [Message("user", "a\0b"), Message("user", "x", '{"a":"\\u0000"}'), Message("u" * 300, "x")]
)
def test_what_the_database_refuses_leaves_no_trace(url: str, bad: Message) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()
        with pytest.raises(asyncpg.DataError):
            await begin(connection, first, HI, bad, HI)
        assert await said(connection, first) == []
        assert await ids(connection, first) == set()

    play(url, act)


def test_another_tenant_has_other_conversations(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new(key="k")
        theirs = replace(another(first, key="k"), tenant="they")
        await begin(connection, first, HI)
        assert await begin(connection, theirs, Message("user", "secret")) == BeginResult(context=[])
        assert await replies.find(connection, "they", first.id) is None
        assert await replies.find(connection, "", theirs.id) is None
        assert not await finish(connection, replace(theirs, tenant=""))
        assert await replies.find_streaming(connection, "they", first.appid) == theirs.id
        assert await messages.delete_conversation_messages(connection, "they", first.appid, 0) == theirs.id
        await finish(connection, theirs)
        assert await messages.delete_conversation_messages(connection, "they", first.appid, 0) is None
        assert await said(connection, first) == [("user", "hi")]

    play(url, act)


# Begin while others commit.


def test_a_reply_that_waits_for_the_end_of_the_one_before_has_its_message_in_the_context(url: str) -> None:
    async def act(at: Scene) -> None:
        ending, beginning, first = await at.connect(), await at.connect(), new()
        await begin(ending, first, HI)
        transaction = ending.transaction()
        await transaction.start()
        assert await finish(ending, first)
        begun = asyncio.ensure_future(begin(beginning, another(first), Message("user", "more")))
        await at.waits(beginning)
        await transaction.commit()
        assert await begun == BeginResult(context=[HI, Message("assistant", "said")])
        assert await said(beginning, first) == [("user", "hi"), ("assistant", "said"), ("user", "more")]

    play(url, act)


def test_a_retry_that_waits_for_the_end_of_the_one_before_continues_its_message(url: str) -> None:
    async def act(at: Scene) -> None:
        ending, beginning, first = await at.connect(), await at.connect(), new()
        await begin(ending, first, HI)
        transaction = ending.transaction()
        await transaction.start()
        await finish(ending, first, said="x" * 100)
        begun = asyncio.ensure_future(begin(beginning, another(first), size=10))
        await at.waits(beginning)
        await transaction.commit()
        assert await begun == BeginResult(context=[Message("assistant", "x" * 100)])

    play(url, act)


def test_a_reply_that_waits_for_an_end_that_is_rolled_back_is_refused(url: str) -> None:
    async def act(at: Scene) -> None:
        ending, beginning, first = await at.connect(), await at.connect(), new()
        await begin(ending, first, HI)
        transaction = ending.transaction()
        await transaction.start()
        await finish(ending, first)
        begun = asyncio.ensure_future(begin(beginning, another(first), HI))
        await at.waits(beginning)
        await transaction.rollback()
        assert await begun == BeginResult(running=first.id)
        assert await said(beginning, first) == [("user", "hi")]

    play(url, act)


@pytest.mark.parametrize("key", [None, "k"])
def test_of_two_that_begin_at_once_the_second_is_told_of_the_first(url: str, key: str | None) -> None:
    async def act(at: Scene) -> None:
        winner, loser, first = await at.connect(), await at.connect(), new(key)
        transaction = winner.transaction()
        await transaction.start()
        await begin(winner, first, HI)
        begun = asyncio.ensure_future(begin(loser, another(first, key), HI))
        await at.waits(loser)
        await transaction.commit()
        assert await begun == (BeginResult(existing=first.id) if key else BeginResult(running=first.id))
        assert await said(loser, first) == [("user", "hi")]
        assert await ids(loser, first) == {first.id}

    play(url, act)


def test_of_many_that_begin_at_once_with_one_key_one_begins(url: str) -> None:
    async def act(at: Scene) -> None:
        first = new("k")
        connections = [await at.connect() for _ in range(8)]
        tries = [another(first, "k") for _ in connections]
        begun = await asyncio.gather(*map(begin, connections, tries, [HI] * 8))
        [winner] = [reply for reply, one in zip(tries, begun, strict=True) if one.context is not None]
        assert [one for one in begun if one.context is None] == [BeginResult(existing=winner.id)] * 7
        assert await said(connections[0], first) == [("user", "hi")]

    play(url, act)


def test_a_reply_refused_by_one_that_has_ended_meanwhile_is_told_something(url: str) -> None:
    """What refused it was too young for its statement, and is over when it looks again."""

    async def act(at: Scene) -> None:
        winner, loser, between, first = await at.connect(), await at.connect(), await at.connect(), new()
        transaction = winner.transaction()
        await transaction.start()
        await begin(winner, first, HI)
        begun = asyncio.ensure_future(begin(loser, another(first), Message("user", "more")))
        await at.waits(loser)
        locking = between.transaction()
        await locking.start()
        lock = asyncio.ensure_future(between.execute("LOCK TABLE replies IN ACCESS EXCLUSIVE MODE"))
        await at.waits(between)
        await transaction.commit()
        await lock
        await at.waits(loser)
        await finish(between, first)
        await locking.commit()
        told = await begun
        assert [one is not None for one in (told.context, told.running, told.existing)].count(True) == 1
        if told.context is not None:
            assert told.context == [HI, Message("assistant", "said")]

    play(url, act)


# The context.


def conversation(*messages: Message) -> Callable[[asyncpg.Connection], Awaitable[NewReply]]:
    async def make(connection: asyncpg.Connection) -> NewReply:
        reply = new()
        await begin(connection, reply, *messages)
        await finish(connection, reply, said=None)
        return reply

    return make


def user(content: str) -> Message:
    return Message("user", content)


RULES, LATER_RULES = Message("system", "s" * 50), Message("system", "t" * 50)
LONG = [RULES, *(user(f"{number:010}") for number in range(10)), LATER_RULES, user("a" * 10), user("b" * 10)]


@pytest.mark.parametrize(
    ("limit", "size", "own", "expected"),
    [
        (500, 1_000_000, True, LONG),
        (0, 1_000_000, True, [RULES, LATER_RULES]),
        (1, 1_000_000, True, [RULES, LATER_RULES, *LONG[-1:]]),
        (3, 1_000_000, True, [RULES, *LONG[-3:]]),
        (5, 1_000_000, True, [RULES, *LONG[-5:]]),
        (500, 0, True, [RULES, LATER_RULES]),
        (500, 9, True, [RULES, LATER_RULES]),
        (500, 10, True, [RULES, LATER_RULES, *LONG[-1:]]),
        (500, 19, True, [RULES, LATER_RULES, *LONG[-1:]]),
        (500, 20, True, [RULES, *LONG[-3:]]),
        (500, 90, True, [RULES, *LONG[-5:]]),
        (500, 0, False, [RULES, LATER_RULES, *LONG[-1:]]),
        (500, 1, False, [RULES, LATER_RULES, *LONG[-1:]]),
    ],
)
def test_the_context_is_the_newest_that_fits_and_every_system_message(
    url: str, limit: int, size: int, own: bool, expected: list[Message]
) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        reply = await conversation(*LONG)(connection)
        begun = await begin(connection, another(reply), *([HI] if own else []), limit=limit, size=size)
        assert begun == BeginResult(context=expected)

    play(url, act)


def test_bytes_of_the_context_are_bytes_and_extras_count(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        reply = await conversation(user("a"), user("é" * 10), Message("user", "", '{"images":["' + "x" * 500 + '"]}'))(
            connection
        )
        assert len(await messages.context(connection, "", reply.appid, 10, 400)) == 1
        assert len(await messages.context(connection, "", reply.appid, 10, 1_000)) == 3
        newest = await messages.context(connection, "", reply.appid, 10, 1)
        assert newest[0].extra is not None

    play(url, act)


def test_the_bytes_of_characters_are_counted_not_the_characters(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        reply = await conversation(user("é" * 10), user("é" * 10))(connection)
        assert len(await messages.context(connection, "", reply.appid, 10, 39)) == 1
        assert len(await messages.context(connection, "", reply.appid, 10, 40)) == 2

    play(url, act)


# Finish.


def test_finishing_twice_stores_the_message_once(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        await begin(connection, reply, HI)
        assert await finish(connection, reply)
        before = await connection.fetchrow("SELECT * FROM replies WHERE id = $1", reply.id)
        assert await finish(connection, reply)
        assert await said(connection, reply) == [("user", "hi"), ("assistant", "said")]
        assert await connection.fetchrow("SELECT * FROM replies WHERE id = $1", reply.id) == before

    play(url, act)


def test_two_that_finish_at_once_store_the_message_once(url: str) -> None:
    async def act(at: Scene) -> None:
        one, two, reply = await at.connect(), await at.connect(), new()
        await begin(one, reply, HI)
        transaction = one.transaction()
        await transaction.start()
        assert await finish(one, reply)
        second = asyncio.ensure_future(finish(two, reply))
        await at.waits(two)
        await transaction.commit()
        assert await second
        assert await said(one, reply) == [("user", "hi"), ("assistant", "said")]
        assert await finish(two, reply)

    play(url, act)


@pytest.mark.parametrize("status", ["stopped", "failed", "truncated", "interrupted"])
def test_a_reply_that_ended_otherwise_is_not_ended_again(url: str, status: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        await begin(connection, reply, HI)
        assert await finish(connection, reply, status, "half")
        assert not await finish(connection, reply, "done", "whole")
        stored = await replies.find(connection, "", reply.id)
        assert stored is not None
        assert (stored.status, stored.error, stored.message) == (status, "why", Message("assistant", "half"))

    play(url, act)


def test_a_reply_that_was_forgotten_cannot_be_finished(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        assert not await finish(connection, reply)
        assert await said(connection, reply) == []

    play(url, act)


def test_a_message_that_the_database_refuses_leaves_the_reply_as_it_was(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        await begin(connection, reply, HI)
        with pytest.raises(asyncpg.DataError):
            await finish(connection, reply, said="a\0b")
        assert await replies.find_streaming(connection, "", reply.appid) == reply.id
        assert await finish(connection, reply, "failed", None)
        assert await said(connection, reply) == [("user", "hi")]

    play(url, act)


# Orphans.


async def bury(connection: asyncpg.Connection, owner: int) -> None:
    """Declare dead whose sessions have ended, until ``owner`` is among them."""
    async with asyncio.timeout(10):
        # The lock goes when the session's process has seen its end, and nobody is buried just after PostgreSQL's start.
        while owner not in await processes.delete_dead(connection, 0):
            await asyncio.sleep(0.005)


async def is_orphan(connection: asyncpg.Connection, reply: NewReply) -> bool:
    return Orphan(reply.id, reply.owner) in await ownership.find_orphans(connection, 1_000)


@pytest.mark.parametrize("owner", [1, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**63 - 1, 0x7FFFFFFF_FFFFFFFE])
def test_a_reply_is_an_orphan_when_the_session_of_its_owner_has_ended(url: str, owner: int) -> None:
    async def act(at: Scene) -> None:
        connection, owning, adopting = await at.connect(), await at.connect(), await at.connect()
        reply, mine = replace(new(), owner=owner), replace(new(), owner=42)
        await processes.register(adopting, 42)
        await processes.register(owning, owner)
        await begin(connection, reply, HI)
        await begin(connection, mine, HI)
        assert await processes.delete_dead(connection, 0) == []
        assert not await is_orphan(connection, reply) and not await is_orphan(connection, mine)
        await owning.close()
        await bury(connection, owner)
        assert await is_orphan(connection, reply) and not await is_orphan(connection, mine)
        adopted = await ownership.adopt(connection, Orphan(reply.id, owner), 42)
        assert adopted is not None and (adopted.id, adopted.attempts, adopted.stop) == (reply.id, 1, False)
        assert await ownership.adopt(connection, Orphan(reply.id, owner), 42) is None
        assert not await is_orphan(connection, reply)
        assert await finish(connection, replace(reply, owner=42)) and await finish(connection, mine)
        await processes.unregister(connection, 42)

    play(url, act)


def test_adoptions_count_while_a_reply_gets_no_further(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), replace(new(), owner=1)
        for owner in range(1, 5):
            await processes.register(connection, owner)
        await begin(connection, reply, HI)

        async def adopt(owner: int) -> int:
            adopted = await ownership.adopt(connection, Orphan(reply.id, owner - 1), owner)
            assert adopted is not None
            return adopted.attempts

        assert [await adopt(2), await adopt(3)] == [1, 2]
        await reply_lines.append(connection, 3, [str(reply.id)], [0], [b"a line"], [])
        assert await adopt(4) == 1
        for owner in range(1, 5):
            await processes.unregister(connection, owner)

    play(url, act)


def test_another_database_or_another_kind_of_lock_does_not_keep_a_process_alive(
    url: str, new_database: Callable[[], str]
) -> None:
    other_url = new_database()

    async def act(at: Scene) -> None:
        connection, pair, owning = await at.connect(), await at.connect(), await at.connect()
        elsewhere = await asyncpg.connect(other_url)
        try:
            owner = 7 * 2**32 + 9
            await processes.register(owning, owner)
            await elsewhere.execute("SELECT pg_advisory_lock($1)", owner)
            await pair.execute("SELECT pg_advisory_lock(7, 9)")
            await owning.close()
            await bury(connection, owner)
        finally:
            await elsewhere.close()

    play(url, act)


def test_a_process_that_was_cut_takes_its_place_back_from_its_own_old_session(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, old, fresh = await at.connect(), await at.connect(), await at.connect()
        await processes.register(old, 77)
        assert await processes.register_again(fresh, 77)
        assert await processes.delete_dead(connection, 0) == []
        await processes.unregister(connection, 77)
        assert not await processes.register_again(await at.connect(), 77)

    play(url, act)
