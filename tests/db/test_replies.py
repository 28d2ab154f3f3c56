"""The table ``replies``: begin, finish and adopt, also while concurrent transactions commit."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from db import messages, ownership, processes, replies, reply_begin, reply_end, reply_lines
from db.context import cuts, selection, sent_messages
from db.messages import Message
from db.migrate import migrate
from db.ownership import Orphan
from db.reply_begin import BeginResult, NewReply
from db.reply_end import FinishRequest, FinishResult

HI = Message("user", "hi")


class Scene:
    """Connections to a migrated database."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connections: list[asyncpg.Connection] = []

    async def connect(self) -> asyncpg.Connection:
        self._connections.append(await asyncpg.connect(self._url))
        return self._connections[-1]

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close(timeout=5)

    async def wait_until_blocked(self, connection: asyncpg.Connection) -> None:
        """Poll until the statement on ``connection`` waits for a lock."""
        observer = await self.connect()
        query = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted"
        async with asyncio.timeout(10):
            while not await observer.fetchval(query, connection.get_server_pid()):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def scene(url: str) -> AsyncIterator[Scene]:
    opened = Scene(url)
    try:
        yield opened
    finally:
        await opened.close()


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
    """Return a new reply, by default in a new conversation."""
    return NewReply(uuid4(), "", appid or f"test-{uuid4()}", "m", '{"model":"m"}', 1, key, [], 500, 1_000_000)


def another(first: NewReply, key: str | None = None) -> NewReply:
    return replace(first, id=uuid4(), idempotency_key=key)


async def begin(
    connection: asyncpg.Connection, reply: NewReply, *messages: Message, limit: int = 500, size: int = 1_000_000
) -> BeginResult:
    request = replace(reply, messages=messages, context_messages=limit, context_bytes=size)
    [result] = await reply_begin.begin(connection, [request])
    return result


async def finish(
    connection: asyncpg.Connection, reply: NewReply, status: str = "done", content: str | None = "said"
) -> bool:
    message = Message("assistant", content) if content is not None else None
    error = None if status == "done" else "why"
    ending = FinishRequest(reply.id, reply.tenant, reply.owner, status, error, message, 0, ["the last line"], [])
    return await reply_end.finish(connection, [ending]) == [FinishResult.STORED]


async def contents(connection: asyncpg.Connection, reply: NewReply) -> list[tuple[str, str]]:
    page = await messages.read_page(connection, reply.tenant, reply.appid, 500, None)
    return [(stored.message.role, stored.message.content) for stored in page]


async def ids(connection: asyncpg.Connection, reply: NewReply) -> set[UUID]:
    rows = await connection.fetch("SELECT id FROM replies WHERE appid = $1", reply.appid)
    return {row["id"] for row in rows}


# Begin.


def test_begin_records_the_messages_and_returns_the_conversation_before_them(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()
        assert await begin(connection, first, HI, Message("system", "be")) == BeginResult(context=[])
        assert await finish(connection, first)
        second = another(first)
        begun = await begin(connection, second, Message("user", "more", '{"images":["x"]}'))
        assert begun == BeginResult(context=[HI, Message("system", "be"), Message("assistant", "said")])
        assert (await contents(connection, first))[-1] == ("user", "more")
        assert await ids(connection, first) == {first.id, second.id}
        row = await connection.fetchrow("SELECT * FROM replies WHERE id = $1", second.id)
        assert row is not None
        assert (row["status"], row["model"], row["request"], row["owner"]) == ("streaming", "m", '{"model":"m"}', 1)

    play(url, act)


def test_begin_is_rejected_without_effect_while_a_reply_is_streaming(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()
        await begin(connection, first, HI)
        assert await begin(connection, another(first), HI, HI) == BeginResult(running=first.id)
        assert await begin(connection, another(first, key="k"), HI) == BeginResult(running=first.id)
        assert await contents(connection, first) == [("user", "hi")]
        assert await ids(connection, first) == {first.id}

    play(url, act)


@pytest.mark.parametrize("ended", [False, True])
def test_begin_with_a_known_key_returns_its_reply_without_effect(url: str, ended: bool) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new(key="k")
        await begin(connection, first, HI)
        if ended:
            await finish(connection, first)
        assert await begin(connection, another(first, key="k"), HI) == BeginResult(existing=first.id)
        assert len(await contents(connection, first)) == 1 + ended
        assert (await begin(connection, new(key="k"), HI)).context == []

    play(url, act)


def test_a_known_key_takes_precedence_over_a_streaming_reply(url: str) -> None:
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
def test_an_invalid_text_is_rolled_back(url: str, bad: Message) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()
        with pytest.raises(asyncpg.DataError):
            await begin(connection, first, HI, bad, HI)
        assert await contents(connection, first) == []
        assert await ids(connection, first) == set()

    play(url, act)


def test_tenants_have_separate_conversations(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new(key="k")
        other_tenants = replace(another(first, key="k"), tenant="other")
        await begin(connection, first, HI)
        assert await begin(connection, other_tenants, Message("user", "secret")) == BeginResult(context=[])
        assert await replies.find(connection, "other", first.id) is None
        assert await replies.find(connection, "", other_tenants.id) is None
        assert not await finish(connection, replace(other_tenants, tenant=""))
        assert await replies.find_streaming(connection, "other", first.appid) == other_tenants.id
        assert await messages.delete_conversation_messages(connection, "other", first.appid, 0) == other_tenants.id
        await finish(connection, other_tenants)
        assert await messages.delete_conversation_messages(connection, "other", first.appid, 0) is None
        assert await contents(connection, first) == [("user", "hi")]

    play(url, act)


# Begin while other transactions commit.


def test_begin_that_waits_for_the_previous_reply_returns_its_message(url: str) -> None:
    async def act(at: Scene) -> None:
        finishing, beginning, first = await at.connect(), await at.connect(), new()
        await begin(finishing, first, HI)
        transaction = finishing.transaction()
        await transaction.start()
        assert await finish(finishing, first)
        begun = asyncio.ensure_future(begin(beginning, another(first), Message("user", "more")))
        await at.wait_until_blocked(beginning)
        await transaction.commit()
        assert await begun == BeginResult(context=[HI, Message("assistant", "said")])
        assert await contents(beginning, first) == [("user", "hi"), ("assistant", "said"), ("user", "more")]

    play(url, act)


def test_begin_without_messages_that_waits_for_the_previous_reply_returns_its_message(url: str) -> None:
    async def act(at: Scene) -> None:
        finishing, beginning, first = await at.connect(), await at.connect(), new()
        await begin(finishing, first, HI)
        transaction = finishing.transaction()
        await transaction.start()
        await finish(finishing, first, content="x" * 100)
        begun = asyncio.ensure_future(begin(beginning, another(first), size=10))
        await at.wait_until_blocked(beginning)
        await transaction.commit()
        assert await begun == BeginResult(context=[Message("assistant", "x" * 100)], continues_at=100)

    play(url, act)


@pytest.mark.parametrize("waits", [False, True])
def test_begin_without_messages_answers_a_prompt_that_was_too_long(url: str, waits: bool) -> None:
    async def act(at: Scene) -> None:
        one, two, first = await at.connect(), await at.connect(), new()
        await begin(one, first, HI)
        assert await finish(one, first)
        refused = another(first)
        await begin(one, refused, Message("user", "long"))
        await cuts.leave_out_messages(one, refused.tenant, refused.id, refused.owner, 0)
        await one.execute("UPDATE chatts SET left_out = NULL WHERE appid = $1 AND message <> 'long'", first.appid)
        transaction = one.transaction()
        await transaction.start()
        assert await finish(one, refused, "failed", content=None)
        if not waits:
            await transaction.commit()
        begun = asyncio.ensure_future(begin(two, again := another(first)))
        if waits:
            await at.wait_until_blocked(two)
            await transaction.commit()
        conversation = [HI, Message("assistant", "said"), Message("user", "long")]
        assert await begun == BeginResult(context=conversation)
        source = await replies.find_source(two, again.tenant, again.id)
        assert source is not None and source.bounds is not None
        assert await sent_messages.read_sent(two, again.tenant, again.appid, source.bounds) == conversation
        assert await finish(two, again)
        assert (await begin(two, another(first), HI)).context == [*conversation, Message("assistant", "said")]

    play(url, act)


def test_begin_that_waits_for_a_finish_that_is_rolled_back_is_rejected(url: str) -> None:
    async def act(at: Scene) -> None:
        finishing, beginning, first = await at.connect(), await at.connect(), new()
        await begin(finishing, first, HI)
        transaction = finishing.transaction()
        await transaction.start()
        await finish(finishing, first)
        begun = asyncio.ensure_future(begin(beginning, another(first), HI))
        await at.wait_until_blocked(beginning)
        await transaction.rollback()
        assert await begun == BeginResult(running=first.id)
        assert await contents(beginning, first) == [("user", "hi")]

    play(url, act)


@pytest.mark.parametrize("key", [None, "k"])
def test_of_two_concurrent_begins_the_second_returns_the_first(url: str, key: str | None) -> None:
    async def act(at: Scene) -> None:
        winner, loser, first = await at.connect(), await at.connect(), new(key)
        transaction = winner.transaction()
        await transaction.start()
        await begin(winner, first, HI)
        begun = asyncio.ensure_future(begin(loser, another(first, key), HI))
        await at.wait_until_blocked(loser)
        await transaction.commit()
        assert await begun == (BeginResult(existing=first.id) if key else BeginResult(running=first.id))
        assert await contents(loser, first) == [("user", "hi")]
        assert await ids(loser, first) == {first.id}

    play(url, act)


def test_of_many_concurrent_begins_with_one_key_one_succeeds(url: str) -> None:
    async def act(at: Scene) -> None:
        first = new("k")
        connections = [await at.connect() for _ in range(8)]
        attempts = [another(first, "k") for _ in connections]
        begun = await asyncio.gather(*map(begin, connections, attempts, [HI] * 8))
        [winner] = [reply for reply, result in zip(attempts, begun, strict=True) if result.context is not None]
        assert [result for result in begun if result.context is None] == [BeginResult(existing=winner.id)] * 7
        assert await contents(connections[0], first) == [("user", "hi")]

    play(url, act)


def test_begin_with_a_conflict_that_has_ended_in_the_meantime_returns_a_result(url: str) -> None:
    """The conflicting row is newer than the statement's snapshot, and finished when it is looked up."""

    async def act(at: Scene) -> None:
        winner, loser, between, first = await at.connect(), await at.connect(), await at.connect(), new()
        transaction = winner.transaction()
        await transaction.start()
        await begin(winner, first, HI)
        begun = asyncio.ensure_future(begin(loser, another(first), Message("user", "more")))
        await at.wait_until_blocked(loser)
        locking = between.transaction()
        await locking.start()
        lock = asyncio.ensure_future(between.execute("LOCK TABLE replies IN ACCESS EXCLUSIVE MODE"))
        await at.wait_until_blocked(between)
        await transaction.commit()
        await lock
        await at.wait_until_blocked(loser)
        await finish(between, first)
        await locking.commit()
        result = await begun
        assert [result.context, result.running, result.existing].count(None) == 2
        if result.context is not None:
            assert result.context == [HI, Message("assistant", "said")]

    play(url, act)


# The context.


def conversation(*messages: Message) -> Callable[[asyncpg.Connection], Awaitable[NewReply]]:
    async def make(connection: asyncpg.Connection) -> NewReply:
        reply = new()
        await begin(connection, reply, *messages)
        await finish(connection, reply, content=None)
        return reply

    return make


def user(content: str) -> Message:
    return Message("user", content)


RULES, LATER_RULES = Message("system", "s" * 50), Message("system", "t" * 50)
LONG = [RULES, *(user(f"{number:010}") for number in range(10)), LATER_RULES, user("a" * 10), user("b" * 10)]


@pytest.mark.parametrize(
    ("limit", "size", "own", "expected", "left_out"),
    [
        (500, 1_000_000, True, LONG, 0),
        (0, 1_000_000, True, [RULES, LATER_RULES], 0),
        (1, 1_000_000, True, [RULES, LATER_RULES, *LONG[-1:]], 0),
        (3, 1_000_000, True, [RULES, *LONG[-3:]], 0),
        (5, 1_000_000, True, [RULES, *LONG[-5:]], 0),
        (500, 0, True, [], 2),
        (500, 49, True, [*LONG[9:11], *LONG[12:]], 2),
        (500, 50, True, [LATER_RULES], 1),
        (500, 100, True, [RULES, LATER_RULES], 0),
        (500, 110, True, [RULES, LATER_RULES, *LONG[-1:]], 0),
        (500, 119, True, [RULES, LATER_RULES, *LONG[-1:]], 0),
        (500, 120, True, [RULES, *LONG[-3:]], 0),
        (500, 190, True, [RULES, *LONG[4:]], 0),
        (500, 0, False, [LATER_RULES, *LONG[-1:]], 1),
        (500, 1, False, [LATER_RULES, *LONG[-1:]], 1),
    ],
)
def test_the_context_is_the_newest_messages_and_system_messages_that_fit(
    url: str, limit: int, size: int, own: bool, expected: list[Message], left_out: int
) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        reply = await conversation(*LONG)(connection)
        second = another(reply)
        begun = await begin(connection, second, *([HI] if own else []), limit=limit, size=size)
        assert begun == BeginResult(context=expected, system_left_out=left_out)
        await finish(connection, second, content=None)
        source = await replies.find_source(connection, "", second.id)
        assert source and source.bounds
        sent = await sent_messages.read_sent(connection, "", reply.appid, source.bounds)
        assert sent == [*expected, *([HI] if own else [])]
        size_sent = sum(len(message.content) for message in sent)
        assert await sent_messages.sent_size(connection, "", reply.appid, source.bounds) == size_sent

    play(url, act)


def test_many_system_messages_are_sent_from_the_newest_on(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        rules = [Message("system", str(number)) for number in range(selection.MAX_SYSTEM_MESSAGES + 5)]
        reply = await conversation(*rules)(connection)
        begun = await begin(connection, another(reply), HI, limit=10, size=1_000_000)
        assert begun.context == rules[5:] and begun.system_left_out == 1

    play(url, act)


def test_extra_fields_are_counted_as_they_are_sent_not_compressed(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        extra = '{"images": ["' + "x" * 50_000 + '"]}'
        reply = await conversation(Message("system", "rules", extra), user("hi"))(connection)
        select = "SELECT pg_column_size(extra), extra_bytes FROM chatts WHERE appid = $1 AND username = 'system'"
        [[stored, counted]] = await connection.fetch(select, reply.appid)
        assert stored < 5_000 and counted == len(extra)
        tool_calls = Message("assistant", "", '{"tool_calls": ["' + "x" * 50_000 + '"]}')
        reply = await conversation(tool_calls, user("hi"))(connection)
        for count in ["extra_bytes", "NULL"]:  # NULL: of a version before the migration
            await connection.execute(f"UPDATE chatts SET extra_bytes = {count} WHERE appid = $1", reply.appid)
            for size, expected in [(49_000, [user("hi")]), (51_000, [tool_calls, user("hi")])]:
                second = another(reply)
                assert (await begin(connection, second, HI, size=size)).context == expected
                await finish(connection, second, content=None)
                await messages.delete_conversation_messages(
                    connection, "", reply.appid, await newest(connection, reply)
                )

    play(url, act)


async def newest(connection: asyncpg.Connection, reply: NewReply) -> int:
    """Return the greatest ``seq`` of a conversation."""
    seq: int = await connection.fetchval("SELECT max(seq) FROM chatts WHERE appid = $1", reply.appid)
    return seq


def test_extra_fields_count_as_bytes_of_the_context(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        reply = await conversation(user("a"), user("é" * 10), Message("user", "", '{"images":["' + "x" * 500 + '"]}'))(
            connection
        )
        assert len(await selection.read_context(connection, "", reply.appid, 10, 400)) == 1
        assert len(await selection.read_context(connection, "", reply.appid, 10, 1_000)) == 3
        newest = await selection.read_context(connection, "", reply.appid, 10, 1)
        assert newest[0].extra is not None

    play(url, act)


def test_bytes_are_counted_not_characters(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        reply = await conversation(user("é" * 10), user("é" * 10))(connection)
        assert len(await selection.read_context(connection, "", reply.appid, 10, 39)) == 1
        assert len(await selection.read_context(connection, "", reply.appid, 10, 40)) == 2

    play(url, act)


# Finish.


def test_a_repeated_finish_stores_the_message_once(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        await begin(connection, reply, HI)
        assert await finish(connection, reply)
        before = await connection.fetchrow("SELECT * FROM replies WHERE id = $1", reply.id)
        assert await finish(connection, reply)
        assert await contents(connection, reply) == [("user", "hi"), ("assistant", "said")]
        assert await connection.fetchrow("SELECT * FROM replies WHERE id = $1", reply.id) == before

    play(url, act)


def test_two_concurrent_finishes_store_the_message_once(url: str) -> None:
    async def act(at: Scene) -> None:
        one, two, reply = await at.connect(), await at.connect(), new()
        await begin(one, reply, HI)
        transaction = one.transaction()
        await transaction.start()
        assert await finish(one, reply)
        second = asyncio.ensure_future(finish(two, reply))
        await at.wait_until_blocked(two)
        await transaction.commit()
        assert await second
        assert await contents(one, reply) == [("user", "hi"), ("assistant", "said")]
        assert await finish(two, reply)

    play(url, act)


@pytest.mark.parametrize("status", ["stopped", "failed", "truncated", "interrupted"])
def test_a_reply_that_ended_with_another_status_is_not_finished_again(url: str, status: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        await begin(connection, reply, HI)
        assert await finish(connection, reply, status, "half")
        assert not await finish(connection, reply, "done", "whole")
        stored = await replies.find(connection, "", reply.id)
        assert stored is not None
        assert (stored.status, stored.error, stored.message) == (status, "why", Message("assistant", "half"))

    play(url, act)


def test_a_deleted_reply_cannot_be_finished(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        assert not await finish(connection, reply)
        assert await contents(connection, reply) == []

    play(url, act)


def test_a_finish_with_an_invalid_text_is_rolled_back(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        await begin(connection, reply, HI)
        with pytest.raises(asyncpg.DataError):
            await finish(connection, reply, content="a\0b")
        assert await replies.find_streaming(connection, "", reply.appid) == reply.id
        assert await finish(connection, reply, "failed", None)
        assert await contents(connection, reply) == [("user", "hi")]

    play(url, act)


# Orphans.


async def reap(connection: asyncpg.Connection, owner: int) -> None:
    """Delete dead processes until ``owner`` is among them."""
    async with asyncio.timeout(10):
        # The lock is released when the backend has detected the disconnect; see also RECOVERY_GRACE.
        while owner not in await processes.delete_dead(connection, 0):
            await asyncio.sleep(0.005)


async def is_orphan(connection: asyncpg.Connection, reply: NewReply) -> bool:
    return Orphan(reply.id, reply.owner) in await ownership.find_orphans(connection, 1_000)


@pytest.mark.parametrize("owner", [1, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**63 - 1, 0x7FFFFFFF_FFFFFFFE])
def test_a_reply_becomes_an_orphan_when_the_session_of_its_owner_ends(url: str, owner: int) -> None:
    async def act(at: Scene) -> None:
        connection, owning, adopting = await at.connect(), await at.connect(), await at.connect()
        reply, other = replace(new(), owner=owner), replace(new(), owner=42)
        await processes.register(adopting, 42)
        await processes.register(owning, owner)
        await begin(connection, reply, HI)
        await begin(connection, other, HI)
        assert await processes.delete_dead(connection, 0) == []
        assert not await is_orphan(connection, reply) and not await is_orphan(connection, other)
        await owning.close()
        await reap(connection, owner)
        assert await is_orphan(connection, reply) and not await is_orphan(connection, other)
        adopted = await ownership.adopt(connection, Orphan(reply.id, owner), 42)
        assert adopted is not None and (adopted.id, adopted.attempts, adopted.stop) == (reply.id, 1, False)
        assert await ownership.adopt(connection, Orphan(reply.id, owner), 42) is None
        assert not await is_orphan(connection, reply)
        assert await finish(connection, replace(reply, owner=42)) and await finish(connection, other)
        await processes.unregister(connection, 42)

    play(url, act)


def test_consecutive_adoptions_without_a_new_line_are_counted(url: str) -> None:
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


def test_locks_of_another_database_or_kind_do_not_keep_a_process_alive(
    url: str, new_database: Callable[[], str]
) -> None:
    other_url = new_database()

    async def act(at: Scene) -> None:
        connection, two_keys, owning = await at.connect(), await at.connect(), await at.connect()
        other_database = await asyncpg.connect(other_url)
        try:
            owner = 7 * 2**32 + 9
            await processes.register(owning, owner)
            await other_database.execute("SELECT pg_advisory_lock($1)", owner)
            await two_keys.execute("SELECT pg_advisory_lock(7, 9)")
            await owning.close()
            await reap(connection, owner)
        finally:
            await other_database.close()

    play(url, act)


def test_a_process_registers_again_while_its_previous_session_holds_the_lock(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, old, fresh = await at.connect(), await at.connect(), await at.connect()
        await processes.register(old, 77)
        assert await processes.register_again(fresh, 77)
        assert await processes.delete_dead(connection, 0) == []
        await processes.unregister(connection, 77)
        assert not await processes.register_again(await at.connect(), 77)

    play(url, act)
