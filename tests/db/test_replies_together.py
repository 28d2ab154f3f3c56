"""The table ``replies`` when many are begun or ended by one statement: each as if it were alone."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from db import messages, processes, replies, reply_lines
from db.messages import Message
from db.migrate import migrate
from db.replies import BeginResult, FinishRequest, FinishResult, NewReply
from tests.database import with_connection
from tests.db.test_replies import Scene, another, ids, new, play, said, user


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    url = new_database()
    with_connection(url, migrate)
    return url


def prompt(of: NewReply, *contents: str, **changed: Any) -> NewReply:
    """The reply with a prompt of user messages."""
    return replace(of, messages=[user(content) for content in contents], **changed)


def ending(of: NewReply, content: str | None = "said", **changed: Any) -> FinishRequest:
    message = Message("assistant", content) if content is not None else None
    return replace(
        FinishRequest(of.id, of.tenant, of.owner, "done", None, message, 0, ["the last line"], []), **changed
    )


async def logged(connection: asyncpg.Connection, reply: UUID) -> list[str]:
    found = await connection.fetch("SELECT line FROM reply_lines WHERE reply = $1 ORDER BY seq", reply)
    return [row["line"] for row in found]


async def exchange(connection: asyncpg.Connection, of: NewReply, *contents: str) -> None:
    """Have a conversation of so many prompts, each answered."""
    for content in contents:
        reply = another(of)
        assert [one.context is not None for one in await replies.begin(connection, [prompt(reply, content)])] == [True]
        assert await replies.finish(connection, [ending(reply, f"re {content}")]) == [FinishResult.STORED]


# Begin.


def test_each_of_many_has_its_own_messages_in_order_and_its_own_conversation(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        batch = [prompt(new(), *(f"{number} {n}" for n in range(number % 4))) for number in range(16)]
        for one in batch[::2]:
            await exchange(connection, one, "before")
        before = [user("before"), Message("assistant", "re before")]
        begun = await replies.begin(connection, batch)
        assert begun == [BeginResult(context=before if number % 2 == 0 else []) for number in range(16)]
        for number, one in enumerate(batch):
            earlier = before if number % 2 == 0 else []
            assert await said(connection, one) == [(m.role, m.content) for m in [*earlier, *one.messages]]
            assert await replies.find_streaming(connection, "", one.appid) == one.id

    play(url, act)


def test_the_messages_of_prompts_that_were_mixed_keep_their_roles_and_fields(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first, second = await at.connect(), new(), new()
        told = [Message("system", "be"), Message("user", "x", '{"images": ["y"]}'), Message("tool", "", None)]
        asked = [Message("user", "", '{"images": []}'), Message("assistant", "half", '{"thinking": "hm"}')]
        batch = [replace(first, messages=told), replace(second, messages=asked)]
        assert await replies.begin(connection, batch) == [BeginResult(context=[]), BeginResult(context=[])]
        for one in batch:
            page = await messages.read_page(connection, "", one.appid, 10, None)
            assert [recorded.message for recorded in page] == one.messages

    play(url, act)


def test_the_limits_of_one_prompt_are_not_another_s(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, rules = await at.connect(), Message("system", "rules")
        batch = [new() for _ in range(4)]
        for one in batch:
            await replies.begin(connection, [replace(one, messages=[rules, user("one")])])
            await replies.finish(connection, [ending(one)])
            await exchange(connection, one, "two")
        two, answer = user("two"), Message("assistant", "re two")
        limits = [(500, 1_000_000, ["x"]), (1, 1_000_000, ["x"]), (500, 0, ["x"]), (500, 0, [])]
        asked = [
            prompt(another(one), *own, context_messages=messages, context_bytes=size)
            for one, (messages, size, own) in zip(batch, limits, strict=True)
        ]
        everything = [rules, user("one"), Message("assistant", "said"), two, answer]
        expected = [everything, [rules, answer], [rules], [rules, answer]]
        assert await replies.begin(connection, asked) == [BeginResult(context=context) for context in expected]

    play(url, act)


@pytest.mark.parametrize("key", [None, "k"])
def test_of_several_for_one_conversation_one_begins_and_the_others_are_told_of_it(url: str, key: str | None) -> None:
    async def act(at: Scene) -> None:
        connection, first, beside = await at.connect(), new(key), prompt(new(), "beside")
        batch = [prompt(another(first, key), str(number)) for number in range(5)]
        batch.insert(2, beside)
        begun = await replies.begin(connection, batch)
        [winner] = [one for one, told in zip(batch, begun, strict=True) if told.context is not None and one != beside]
        other = BeginResult(existing=winner.id) if key else BeginResult(running=winner.id)
        assert begun == [BeginResult(context=[]) if one in (winner, beside) else other for one in batch]
        assert winner == batch[0]  # first come, first served
        assert await said(connection, first) == [("user", winner.messages[0].content)]
        assert await said(connection, beside) == [("user", "beside")]
        assert await ids(connection, first) == {winner.id}

    play(url, act)


def test_the_same_key_in_different_conversations_and_of_different_tenants_are_different_keys(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), prompt(new("k"), "mine")
        batch = [first, prompt(new("k"), "mine too"), prompt(another(first, "k"), "theirs", tenant="they")]
        assert await replies.begin(connection, batch) == [BeginResult(context=[])] * 3
        for one in batch:
            assert await said(connection, one) == [("user", one.messages[0].content)]

    play(url, act)


def test_each_is_refused_by_itself_and_leaves_no_trace(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        running, known, free = prompt(new(), "running"), prompt(new("k"), "known"), prompt(new(), "free")
        await replies.begin(connection, [running, known])
        await replies.finish(connection, [ending(known)])
        batch = [prompt(another(running, "other"), "x"), prompt(another(known, "k"), "y"), free]
        begun = await replies.begin(connection, batch)
        assert begun == [BeginResult(running=running.id), BeginResult(existing=known.id), BeginResult(context=[])]
        assert await said(connection, running) == [("user", "running")]
        assert await said(connection, known) == [("user", "known"), ("assistant", "said")]
        assert await said(connection, free) == [("user", "free")]

    play(url, act)


def test_nothing_of_a_batch_is_recorded_if_one_text_is_refused(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, batch = await at.connect(), [prompt(new(), "good"), prompt(new(), "b\0d"), prompt(new(), "good")]
        with pytest.raises(asyncpg.DataError):
            await replies.begin(connection, batch)
        for one in batch:
            assert (await said(connection, one), await ids(connection, one)) == ([], set())

    play(url, act)


@pytest.mark.parametrize("key", [None, "k"])
def test_two_that_wait_for_the_end_of_the_reply_before_are_told_of_each_other_not_of_it(
    url: str, key: str | None
) -> None:
    async def act(at: Scene) -> None:
        ending_it, beginning, first = await at.connect(), await at.connect(), prompt(new(), "one")
        await replies.begin(ending_it, [first])
        transaction = ending_it.transaction()
        await transaction.start()
        await replies.finish(ending_it, [ending(first)])
        batch = [prompt(another(first, key), "two"), prompt(another(first, key), "three")]
        begun = asyncio.ensure_future(replies.begin(beginning, batch))
        await at.waits(beginning)
        await transaction.commit()
        refused = BeginResult(existing=batch[0].id) if key else BeginResult(running=batch[0].id)
        assert await begun == [BeginResult(context=[user("one"), Message("assistant", "said")]), refused]
        assert await said(beginning, first) == [("user", "one"), ("assistant", "said"), ("user", "two")]

    play(url, act)


# Several processes.


def test_batches_that_meet_at_several_conversations_in_opposite_order_do_not_deadlock(url: str) -> None:
    """One in the middle is held, so that each would have taken its half before both want the other's."""

    async def act(at: Scene) -> None:
        holding, one, other = await at.connect(), await at.connect(), await at.connect()
        conversations = sorted((new() for _ in range(7)), key=lambda reply: reply.appid)
        transaction = holding.transaction()
        await transaction.start()
        await replies.begin(holding, [prompt(conversations[3], "held")])
        batch = [prompt(another(reply), "one") for reply in conversations]
        reverse = [prompt(another(reply), "other") for reply in reversed(conversations)]
        both = asyncio.gather(replies.begin(one, batch), replies.begin(other, reverse))
        await at.waits(one)
        await at.waits(other)
        await transaction.rollback()
        begun, reversed_begun = await both
        for here, there in zip(begun, reversed(reversed_begun), strict=True):
            assert {here.context is None, there.context is None} == {True, False}

    play(url, act)


def test_many_batches_of_many_processes_begin_each_conversation_once(url: str) -> None:
    async def act(at: Scene) -> None:
        connections = [await at.connect() for _ in range(6)]
        conversations = [new() for _ in range(40)]

        async def process(number: int) -> list[NewReply]:
            began = []
            for start in range(0, 40, 10):
                chosen = [conversations[(start + 7 * number + step * (1 + 2 * number)) % 40] for step in range(10)]
                batch = [prompt(another(one), str(number)) for one in chosen]
                told = await replies.begin(connections[number], batch)
                began += [one for one, begun in zip(batch, told, strict=True) if begun.context is not None]
            return began

        began = [one for some in await asyncio.gather(*map(process, range(6))) for one in some]
        assert len({one.appid for one in began}) == len(began)
        endings = [ending(one) for one in began]
        assert await replies.finish(connections[0], endings) == [FinishResult.STORED] * len(endings)

    play(url, act)


# Finish.


def test_each_of_many_endings_has_its_own_lines_message_and_status(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, batch = await at.connect(), [prompt(new(), str(number)) for number in range(12)]
        await replies.begin(connection, batch)
        statuses = ["done", "stopped", "failed"]
        endings = [
            ending(
                one,
                None if number % 5 == 0 else f"said {number}",
                status=statuses[number % 3],
                error=f"why {number}" if number % 3 == 2 else None,
                lines=[f"{number} {n}" for n in range(number % 4)],
            )
            for number, one in enumerate(batch)
        ]
        assert await replies.finish(connection, endings) == [FinishResult.STORED] * 12
        for number, (one, end) in enumerate(zip(batch, endings, strict=True)):
            stored = await replies.find(connection, "", one.id)
            assert stored is not None
            assert (stored.status, stored.error, stored.message) == (end.status, end.error, end.message)
            assert await logged(connection, one.id) == end.lines
            spoken = [("assistant", f"said {number}")] if end.message else []
            assert await said(connection, one) == [("user", str(number)), *spoken]

    play(url, act)


async def listen(at: Scene) -> list[str]:
    """A list that every notice is added to, in order."""
    heard: list[str] = []
    listening = await at.connect()
    await listening.add_listener(processes.CHANNEL, lambda *notice: heard.append(notice[-1]))
    return heard


async def hear(connection: asyncpg.Connection, heard: list[str]) -> list[str]:
    """The notices that were sent before now."""
    await processes.notify(connection, "end")
    async with asyncio.timeout(10):
        while heard[-1:] != ["end"]:
            await asyncio.sleep(0.005)
    return heard[:-1]


def test_endings_that_cannot_be_stored_change_nothing_and_notices_are_rung_once_for_the_others(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        heard = await listen(at)
        ours, theirs, holed, repeated, otherwise, last = batch = [prompt(new(), "hi") for _ in range(6)]
        forgotten = new()
        await replies.begin(connection, batch)
        repeat, other_end = ending(repeated, notices=["repeated"]), ending(otherwise, status="stopped")
        assert await replies.finish(connection, [repeat, other_end]) == [FinishResult.STORED] * 2
        endings = [
            ending(ours, notices=["ours", "ours too"]),
            ending(theirs, owner=2, notices=["theirs"]),
            ending(holed, first=1, notices=["holed"]),
            repeat,
            ending(otherwise, notices=["otherwise"]),
            ending(forgotten, notices=["forgotten"]),
            ending(last, notices=["last"]),
        ]
        expected = [
            FinishResult.STORED,
            FinishResult.NOT_OWNER,
            FinishResult.LINES_MISSING,
            FinishResult.STORED,
            FinishResult.NOT_OWNER,
            FinishResult.NOT_OWNER,
            FinishResult.STORED,
        ]
        assert await replies.finish(connection, endings) == expected
        assert sorted(await hear(connection, heard)) == ["last", "ours", "ours too", "repeated"]
        assert await replies.finish(connection, endings) == expected  # the answer was lost, say
        for one, answers in zip(batch, [1, 0, 0, 1, 1, 1], strict=True):
            assert [role for role, _ in await said(connection, one)] == ["user"] + ["assistant"] * answers
            assert len(await logged(connection, one.id)) == answers
        for one in (theirs, holed):
            assert await replies.find_streaming(connection, "", one.appid) == one.id
        assert await replies.finish(connection, [ending(holed), ending(theirs)]) == [FinishResult.STORED] * 2

    play(url, act)


def test_lines_beyond_the_end_of_one_reply_go_and_no_other_s(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        await processes.register(connection, 1)
        batch = [prompt(new(), "hi") for _ in range(3)]
        await replies.begin(connection, batch)
        for one in batch:
            await reply_lines.append(connection, 1, [str(one.id)] * 4, range(4), [b"a", b"b", b"c", b"d"], [])
        endings = [ending(batch[0], first=2, lines=["x"]), ending(batch[1], first=4, lines=["y"])]
        assert await replies.finish(connection, endings) == [FinishResult.STORED] * 2
        assert [await logged(connection, one.id) for one in batch] == [list("abx"), list("abcdy"), list("abcd")]
        await processes.unregister(connection, 1)

    play(url, act)


def test_a_batch_that_repeats_endings_under_way_stores_each_once(url: str) -> None:
    async def act(at: Scene) -> None:
        one, two = await at.connect(), await at.connect()
        batch = [prompt(new(), "hi") for _ in range(6)]
        await replies.begin(one, batch)
        endings = [ending(reply) for reply in batch]
        transaction = one.transaction()
        await transaction.start()
        assert await replies.finish(one, endings[:4]) == [FinishResult.STORED] * 4
        again = asyncio.ensure_future(replies.finish(two, endings[::-1]))
        await at.waits(two)
        await transaction.commit()
        assert await again == [FinishResult.STORED] * 6
        for reply in batch:
            assert await said(one, reply) == [("user", "hi"), ("assistant", "said")]

    play(url, act)


def test_repeated_endings_in_opposite_order_do_not_deadlock(url: str) -> None:
    """One in the middle is held, so that each would have taken its half before both want the other's."""

    async def act(at: Scene) -> None:
        holding, one, two = await at.connect(), await at.connect(), await at.connect()
        batch = sorted((prompt(new(), "hi") for _ in range(7)), key=lambda reply: reply.id)
        await replies.begin(one, batch)
        endings = [ending(reply) for reply in batch]
        for connection in (one, two):  # as it is planned for a large table
            await connection.execute("SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off")
        transaction = holding.transaction()
        await transaction.start()
        await holding.execute("SELECT FROM replies WHERE id = $1 FOR UPDATE", batch[3].id)
        both = asyncio.gather(replies.finish(one, endings), replies.finish(two, endings[::-1]))
        await at.waits(one)
        await at.waits(two)
        await transaction.rollback()
        assert list(await both) == [[FinishResult.STORED] * 7] * 2

    play(url, act)
