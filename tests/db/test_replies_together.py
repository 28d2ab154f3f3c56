"""The table ``replies``: many replies in one statement, each as if it were alone."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from db import messages, processes, replies, reply_begin, reply_end, reply_lines
from db.messages import Message
from db.migrate import migrate
from db.reply_begin import BeginResult, NewReply
from db.reply_end import FinishRequest, FinishResult
from tests.database import with_connection
from tests.db.test_replies import Scene, another, contents, ids, new, play, user


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    url = new_database()
    with_connection(url, migrate)
    return url


def prompt(of: NewReply, *texts: str, **changed: Any) -> NewReply:
    """Return the reply with a prompt of user messages."""
    return replace(of, messages=[user(text) for text in texts], **changed)


def ending(of: NewReply, content: str | None = "said", **changed: Any) -> FinishRequest:
    message = Message("assistant", content) if content is not None else None
    return replace(
        FinishRequest(of.id, of.tenant, of.owner, "done", None, message, 0, ["the last line"], []), **changed
    )


async def logged_lines(connection: asyncpg.Connection, reply: UUID) -> list[str]:
    found = await connection.fetch("SELECT line FROM reply_lines WHERE reply = $1 ORDER BY seq", reply)
    return [row["line"] for row in found]


async def converse(connection: asyncpg.Connection, of: NewReply, *texts: str) -> None:
    """Record prompts with these texts, each with a finished reply."""
    for content in texts:
        reply = another(of)
        [result] = await reply_begin.begin(connection, [prompt(reply, content)])
        assert result.context is not None
        assert await reply_end.finish(connection, [ending(reply, f"re {content}")]) == [FinishResult.STORED]


# Begin.


def test_each_reply_has_its_own_messages_in_order_and_its_own_conversation(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        batch = [prompt(new(), *(f"{number} {n}" for n in range(number % 4))) for number in range(16)]
        for one in batch[::2]:
            await converse(connection, one, "before")
        before = [user("before"), Message("assistant", "re before")]
        begun = await reply_begin.begin(connection, batch)
        assert [result.context for result in begun] == [before if number % 2 == 0 else [] for number in range(16)]
        assert [result.continues_at for result in begun] == [9 if number % 4 == 0 else None for number in range(16)]
        for number, one in enumerate(batch):
            earlier = before if number % 2 == 0 else []
            assert await contents(connection, one) == [(m.role, m.content) for m in [*earlier, *one.messages]]
            assert await replies.find_streaming(connection, "", one.appid) == one.id

    play(url, act)


def test_messages_keep_their_roles_and_fields(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first, second = await at.connect(), new(), new()
        first_prompt = [Message("system", "be"), Message("user", "x", '{"images": ["y"]}'), Message("tool", "", None)]
        second_prompt = [Message("user", "", '{"images": []}'), Message("assistant", "half", '{"thinking": "hm"}')]
        batch = [replace(first, messages=first_prompt), replace(second, messages=second_prompt)]
        assert await reply_begin.begin(connection, batch) == [BeginResult(context=[]), BeginResult(context=[])]
        for one in batch:
            page = await messages.read_page(connection, "", one.appid, 10, None)
            assert [stored.message for stored in page] == one.messages

    play(url, act)


def test_each_prompt_has_its_own_limits(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, rules = await at.connect(), Message("system", "rules")
        batch = [new() for _ in range(4)]
        for one in batch:
            await reply_begin.begin(connection, [replace(one, messages=[rules, user("one")])])
            await reply_end.finish(connection, [ending(one)])
            await converse(connection, one, "two")
        two, answer = user("two"), Message("assistant", "re two")
        limits = [(500, 1_000_000, ["x"]), (1, 1_000_000, ["x"]), (500, 0, ["x"]), (500, 0, [])]
        batch_of_prompts = [
            prompt(another(one), *own, context_messages=messages, context_bytes=size)
            for one, (messages, size, own) in zip(batch, limits, strict=True)
        ]
        everything = [rules, user("one"), Message("assistant", "said"), two, answer]
        expected = [everything, [rules, answer], [], [rules, answer]]
        begun = await reply_begin.begin(connection, batch_of_prompts)
        assert [result.context for result in begun] == expected
        assert [result.continues_at for result in begun] == [None, None, None, len("re two")]

    play(url, act)


@pytest.mark.parametrize("key", [None, "k"])
def test_of_several_for_one_conversation_the_first_begins_and_the_others_return_it(url: str, key: str | None) -> None:
    async def act(at: Scene) -> None:
        connection, first, beside = await at.connect(), new(key), prompt(new(), "beside")
        batch = [prompt(another(first, key), str(number)) for number in range(5)]
        batch.insert(2, beside)
        begun = await reply_begin.begin(connection, batch)
        [winner] = [
            reply for reply, result in zip(batch, begun, strict=True) if result.context is not None and reply != beside
        ]
        conflict = BeginResult(existing=winner.id) if key else BeginResult(running=winner.id)
        assert begun == [BeginResult(context=[]) if reply in (winner, beside) else conflict for reply in batch]
        assert winner == batch[0]
        assert await contents(connection, first) == [("user", winner.messages[0].content)]
        assert await contents(connection, beside) == [("user", "beside")]
        assert await ids(connection, first) == {winner.id}

    play(url, act)


def test_keys_are_separate_for_each_conversation_and_tenant(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), prompt(new("k"), "first")
        batch = [first, prompt(new("k"), "second"), prompt(another(first, "k"), "third", tenant="other")]
        assert await reply_begin.begin(connection, batch) == [BeginResult(context=[])] * 3
        for one in batch:
            assert await contents(connection, one) == [("user", one.messages[0].content)]

    play(url, act)


def test_each_is_rejected_separately_and_without_effect(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        running, existing, free = prompt(new(), "running"), prompt(new("k"), "existing"), prompt(new(), "free")
        await reply_begin.begin(connection, [running, existing])
        await reply_end.finish(connection, [ending(existing)])
        batch = [prompt(another(running, "other"), "x"), prompt(another(existing, "k"), "y"), free]
        begun = await reply_begin.begin(connection, batch)
        assert begun == [BeginResult(running=running.id), BeginResult(existing=existing.id), BeginResult(context=[])]
        assert await contents(connection, running) == [("user", "running")]
        assert await contents(connection, existing) == [("user", "existing"), ("assistant", "said")]
        assert await contents(connection, free) == [("user", "free")]

    play(url, act)


def test_nothing_of_a_batch_is_recorded_if_one_text_is_invalid(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, batch = await at.connect(), [prompt(new(), "good"), prompt(new(), "b\0d"), prompt(new(), "good")]
        with pytest.raises(asyncpg.DataError):
            await reply_begin.begin(connection, batch)
        for one in batch:
            assert (await contents(connection, one), await ids(connection, one)) == ([], set())

    play(url, act)


@pytest.mark.parametrize("key", [None, "k"])
def test_two_that_wait_for_the_previous_reply_conflict_with_each_other_not_with_it(url: str, key: str | None) -> None:
    async def act(at: Scene) -> None:
        finishing, beginning, first = await at.connect(), await at.connect(), prompt(new(), "one")
        await reply_begin.begin(finishing, [first])
        transaction = finishing.transaction()
        await transaction.start()
        await reply_end.finish(finishing, [ending(first)])
        batch = [prompt(another(first, key), "two"), prompt(another(first, key), "three")]
        begun = asyncio.ensure_future(reply_begin.begin(beginning, batch))
        await at.wait_until_blocked(beginning)
        await transaction.commit()
        conflict = BeginResult(existing=batch[0].id) if key else BeginResult(running=batch[0].id)
        assert await begun == [BeginResult(context=[user("one"), Message("assistant", "said")]), conflict]
        assert await contents(beginning, first) == [("user", "one"), ("assistant", "said"), ("user", "two")]

    play(url, act)


# Several processes.


def test_batches_with_the_same_conversations_in_opposite_order_do_not_deadlock(url: str) -> None:
    """A lock in the middle is held, so that without an order each statement would lock one half first."""

    async def act(at: Scene) -> None:
        holding, first, second = await at.connect(), await at.connect(), await at.connect()
        conversations = sorted((new() for _ in range(7)), key=lambda reply: reply.appid)
        transaction = holding.transaction()
        await transaction.start()
        await reply_begin.begin(holding, [prompt(conversations[3], "held")])
        batch = [prompt(another(reply), "one") for reply in conversations]
        reverse = [prompt(another(reply), "other") for reply in reversed(conversations)]
        both = asyncio.gather(reply_begin.begin(first, batch), reply_begin.begin(second, reverse))
        await at.wait_until_blocked(first)
        await at.wait_until_blocked(second)
        await transaction.rollback()
        begun, reversed_begun = await both
        for here, there in zip(begun, reversed(reversed_begun), strict=True):
            assert {here.context is None, there.context is None} == {True, False}

    play(url, act)


def test_concurrent_batches_begin_each_conversation_once(url: str) -> None:
    async def act(at: Scene) -> None:
        connections = [await at.connect() for _ in range(6)]
        conversations = [new() for _ in range(40)]

        async def process(number: int) -> list[NewReply]:
            began = []
            for start in range(0, 40, 10):
                chosen = [conversations[(start + 7 * number + step * (1 + 2 * number)) % 40] for step in range(10)]
                batch = [prompt(another(reply), str(number)) for reply in chosen]
                results = await reply_begin.begin(connections[number], batch)
                began += [reply for reply, result in zip(batch, results, strict=True) if result.context is not None]
            return began

        began = [reply for replies_begun in await asyncio.gather(*map(process, range(6))) for reply in replies_begun]
        assert len({reply.appid for reply in began}) == len(began)
        endings = [ending(reply) for reply in began]
        assert await reply_end.finish(connections[0], endings) == [FinishResult.STORED] * len(endings)

    play(url, act)


# Finish.


def test_each_ending_has_its_own_lines_message_and_status(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, batch = await at.connect(), [prompt(new(), str(number)) for number in range(12)]
        await reply_begin.begin(connection, batch)
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
        assert await reply_end.finish(connection, endings) == [FinishResult.STORED] * 12
        for number, (one, end) in enumerate(zip(batch, endings, strict=True)):
            stored = await replies.find(connection, "", one.id)
            assert stored is not None
            assert (stored.status, stored.error, stored.message) == (end.status, end.error, end.message)
            assert await logged_lines(connection, one.id) == end.lines
            answer = [("assistant", f"said {number}")] if end.message else []
            assert await contents(connection, one) == [("user", str(number)), *answer]

    play(url, act)


async def listen(at: Scene) -> list[str]:
    """Return a list to which the payload of every notification is appended."""
    payloads: list[str] = []
    listening = await at.connect()
    await listening.add_listener(processes.CHANNEL, lambda *notification: payloads.append(notification[-1]))
    return payloads


async def received(connection: asyncpg.Connection, payloads: list[str]) -> list[str]:
    """Return the payloads that were sent before this call."""
    await processes.notify(connection, "end")
    async with asyncio.timeout(10):
        while payloads[-1:] != ["end"]:
            await asyncio.sleep(0.005)
    return payloads[:-1]


def test_rejected_endings_have_no_effect_and_notifications_of_the_others_are_sent_once(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        payloads = await listen(at)
        valid, not_owned, incomplete, repeated, other_status, last = batch = [prompt(new(), "hi") for _ in range(6)]
        deleted = new()
        await reply_begin.begin(connection, batch)
        repeat, stopped = ending(repeated, notices=["repeated"]), ending(other_status, status="stopped")
        assert await reply_end.finish(connection, [repeat, stopped]) == [FinishResult.STORED] * 2
        endings = [
            ending(valid, notices=["valid", "valid 2"]),
            ending(not_owned, owner=2, notices=["not owned"]),
            ending(incomplete, first=1, notices=["incomplete"]),
            repeat,
            ending(other_status, notices=["other status"]),
            ending(deleted, notices=["deleted"]),
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
        assert await reply_end.finish(connection, endings) == expected
        assert sorted(await received(connection, payloads)) == ["last", "repeated", "valid", "valid 2"]
        assert await reply_end.finish(connection, endings) == expected  # as if the result had been lost
        for one, answers in zip(batch, [1, 0, 0, 1, 1, 1], strict=True):
            assert [role for role, _ in await contents(connection, one)] == ["user"] + ["assistant"] * answers
            assert len(await logged_lines(connection, one.id)) == answers
        for one in (not_owned, incomplete):
            assert await replies.find_streaming(connection, "", one.appid) == one.id
        assert await reply_end.finish(connection, [ending(incomplete), ending(not_owned)]) == [FinishResult.STORED] * 2

    play(url, act)


def test_lines_beyond_the_end_of_a_reply_are_deleted(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        await processes.register(connection, 1)
        batch = [prompt(new(), "hi") for _ in range(3)]
        await reply_begin.begin(connection, batch)
        for one in batch:
            await reply_lines.append(connection, 1, [str(one.id)] * 4, range(4), [b"a", b"b", b"c", b"d"], [])
        endings = [ending(batch[0], first=2, lines=["x"]), ending(batch[1], first=4, lines=["y"])]
        assert await reply_end.finish(connection, endings) == [FinishResult.STORED] * 2
        assert [await logged_lines(connection, one.id) for one in batch] == [list("abx"), list("abcdy"), list("abcd")]
        await processes.unregister(connection, 1)

    play(url, act)


def test_a_batch_that_repeats_uncommitted_endings_stores_each_once(url: str) -> None:
    async def act(at: Scene) -> None:
        one, two = await at.connect(), await at.connect()
        batch = [prompt(new(), "hi") for _ in range(6)]
        await reply_begin.begin(one, batch)
        endings = [ending(reply) for reply in batch]
        transaction = one.transaction()
        await transaction.start()
        assert await reply_end.finish(one, endings[:4]) == [FinishResult.STORED] * 4
        again = asyncio.ensure_future(reply_end.finish(two, endings[::-1]))
        await at.wait_until_blocked(two)
        await transaction.commit()
        assert await again == [FinishResult.STORED] * 6
        for reply in batch:
            assert await contents(one, reply) == [("user", "hi"), ("assistant", "said")]

    play(url, act)


def test_repeated_endings_in_opposite_order_do_not_deadlock(url: str) -> None:
    """A lock in the middle is held, so that without an order each statement would lock one half first."""

    async def act(at: Scene) -> None:
        holding, one, two = await at.connect(), await at.connect(), await at.connect()
        batch = sorted((prompt(new(), "hi") for _ in range(7)), key=lambda reply: reply.id)
        await reply_begin.begin(one, batch)
        endings = [ending(reply) for reply in batch]
        for connection in (one, two):  # the plan for large tables
            await connection.execute("SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off")
        transaction = holding.transaction()
        await transaction.start()
        await holding.execute("SELECT FROM replies WHERE id = $1 FOR UPDATE", batch[3].id)
        both = asyncio.gather(reply_end.finish(one, endings), reply_end.finish(two, endings[::-1]))
        await at.wait_until_blocked(one)
        await at.wait_until_blocked(two)
        await transaction.rollback()
        assert list(await both) == [[FinishResult.STORED] * 7] * 2

    play(url, act)
