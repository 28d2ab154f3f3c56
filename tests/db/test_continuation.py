"""What a reply was sent, and the message that it continues: stored by begin, appended to by finish, shown in parts."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db import messages, ownership, processes, replies, reply_begin, reply_end
from db.context import selection, sent_messages
from db.messages import Message
from db.migrate import migrate
from db.ownership import Orphan
from db.reply_begin import BeginResult, NewReply
from db.reply_end import FinishResult
from relay.generation.prompt import trim_to_context
from tests.database import with_connection
from tests.db.test_replies import HI, Scene, another, begin, contents, finish, new, play, user
from tests.db.test_replies_together import ending

RULES = Message("system", "rules")


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    url = new_database()
    with_connection(url, migrate)
    return url


def said(content: str, extra: str | None = None) -> Message:
    return Message("assistant", content, extra)


async def insert(connection: asyncpg.Connection, reply: NewReply, *rows: Message) -> None:
    """Insert messages as another server does that uses the same table."""
    for row in rows:
        await connection.execute(
            "INSERT INTO chatts (tenant, appid, username, message) VALUES ($1, $2, $3, $4)",
            reply.tenant,
            reply.appid,
            row.role,
            row.content,
        )


async def source(connection: asyncpg.Connection, reply: NewReply) -> replies.ReplySource:
    found = await replies.find_source(connection, reply.tenant, reply.id)
    assert found is not None
    return found


async def what_was_sent(connection: asyncpg.Connection, reply: NewReply) -> list[Message]:
    found = await source(connection, reply)
    assert found.bounds is not None
    return await sent_messages.read_sent(connection, reply.tenant, reply.appid, found.bounds)


async def row(connection: asyncpg.Connection, reply: NewReply) -> asyncpg.Record:
    found = await connection.fetchrow("SELECT * FROM replies WHERE id = $1", reply.id)
    assert found is not None
    return found


async def begun_with(connection: asyncpg.Connection, *conversation: Message) -> NewReply:
    """Record a conversation, whose reply ends without a message."""
    reply = new()
    await begin(connection, reply, *conversation)
    assert await finish(connection, reply, content=None)
    return reply


async def continue_with(
    connection: asyncpg.Connection, of: NewReply, content: str | None, status: str = "done", extra: str | None = None
) -> NewReply:
    """Begin a reply without a prompt in the conversation, and finish it."""
    reply = another(of)
    assert (await begin(connection, reply)).continues_at is not None
    error = None if status == "done" else f"why {status}"
    message = None if content is None else said(content, extra)
    assert await reply_end.finish(connection, [ending(reply, status=status, error=error, message=message)]) == [
        FinishResult.STORED
    ]
    return reply


async def parts(connection: asyncpg.Connection, *of: NewReply) -> list[Message | None]:
    found = [await replies.find(connection, reply.tenant, reply.id) for reply in of]
    return [stored.message if stored else None for stored in found]


# What a reply was sent.


roles = st.sampled_from(["system", "user", "assistant", "tool"])
some_messages = st.lists(st.builds(Message, roles, st.text("aé😀 ", max_size=12)), max_size=7)


@pytest.mark.parametrize("examples", [40, pytest.param(150, marks=pytest.mark.extended)])
def test_what_was_sent_is_read_again_whatever_was_recorded_since(url: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(some_messages, some_messages, some_messages, st.integers(0, 12), st.integers(0, 100))
    def check(earlier: list[Message], own: list[Message], later: list[Message], limit: int, size: int) -> None:
        async def act(at: Scene) -> None:
            connection = await at.connect()
            reply = another(await begun_with(connection, *earlier))
            await insert(connection, replace(reply, tenant="other"), RULES, HI)
            selected, messages_left, bytes_left = trim_to_context(own, limit, size)
            request = replace(reply, messages=own, unsent=len(own) - len(selected))
            result = await begin(connection, request, *own, limit=messages_left, size=bytes_left)
            assert result.context is not None
            await insert(connection, reply, *later)
            assert await what_was_sent(connection, reply) == [*result.context, *selected]
            assert await finish(connection, reply)
            await insert(connection, reply, *later)
            if result.continues_at is None:
                assert await what_was_sent(connection, reply) == [*result.context, *selected]
            else:
                assert len(result.context[-1].content) == result.continues_at

        play(url, act)

    check()


def test_of_a_prompt_that_does_not_fit_the_first_message_sent_is_stored(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        reply = replace(another(await begun_with(connection, user("earlier"))), unsent=2)
        prompt = [user("1"), RULES, user("2"), user("3"), Message("system", "more"), user("4")]
        assert await begin(connection, reply, *prompt, limit=0) == BeginResult(context=[])
        assert await what_was_sent(connection, reply) == [RULES, *prompt[3:]]

    play(url, act)


def test_nothing_sent_stays_nothing(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        assert await begin(connection, reply) == BeginResult(context=[])
        await insert(connection, reply, HI, RULES)
        assert await what_was_sent(connection, reply) == []

    play(url, act)


def test_each_reply_of_a_batch_has_its_own_context(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, batch, expected = await at.connect(), [], []
        for number in range(12):
            earlier = [user(f"{number} earlier {n}") for n in range(number % 5)] + [said("x")] * (number % 2)
            own = [user(f"{number} {n}") for n in range(number % 3)]
            batch.append(replace(another(await begun_with(connection, *earlier)), messages=own))
            expected.append([*earlier, *own])
        begun = await reply_begin.begin(connection, batch)
        for number, (reply, result) in enumerate(zip(batch, begun, strict=True)):
            await insert(connection, reply, HI)
            assert await what_was_sent(connection, reply) == expected[number]
            continued = not reply.messages and bool(number % 2)
            assert result.continues_at == (1 if continued else None)

    play(url, act)


@pytest.mark.parametrize("own", [[HI], [RULES, user("x"), HI], []])
def test_a_reply_that_waited_for_the_previous_one_stores_what_it_was_sent(url: str, own: list[Message]) -> None:
    async def act(at: Scene) -> None:
        finishing, beginning, first = await at.connect(), await at.connect(), new()
        await begin(finishing, first, RULES, user("earlier"))
        transaction = finishing.transaction()
        await transaction.start()
        assert await finish(finishing, first)
        reply = another(first)
        waiting = asyncio.ensure_future(begin(beginning, reply, *own))
        await at.wait_until_blocked(beginning)
        await transaction.commit()
        result = await waiting
        assert result.context == [RULES, user("earlier"), said("said")]
        assert result.continues_at == (None if own else 4)
        await insert(finishing, reply, user("later"), Message("system", "later"))
        assert await what_was_sent(finishing, reply) == [*result.context, *own]
        assert (await source(finishing, reply)).continues_at == result.continues_at

    play(url, act)


def test_a_prompt_comes_after_the_reply_that_ended_while_its_statement_waited(url: str) -> None:
    """The statement has allocated ``seq`` for both prompts when it waits for the first conversation's reply."""

    async def act(at: Scene) -> None:
        finishing, other, beginning = await at.connect(), await at.connect(), await at.connect()
        previous = sorted((new(), new()), key=lambda reply: reply.appid)
        for reply in previous:
            await begin(finishing, reply, user("one"))
        transaction = finishing.transaction()
        await transaction.start()
        assert await finish(finishing, previous[0])
        batch = [replace(another(reply), messages=[RULES, user("two")]) for reply in previous]
        waiting = asyncio.ensure_future(reply_begin.begin(beginning, batch))
        await at.wait_until_blocked(beginning)
        assert await finish(other, previous[1])
        await transaction.commit()
        assert await waiting == [BeginResult(context=[user("one"), said("said")])] * 2
        for reply in batch:
            sent = [user("one"), said("said"), RULES, user("two")]
            assert await contents(other, reply) == [(message.role, message.content) for message in sent]
            assert await what_was_sent(other, reply) == sent

    play(url, act)


def test_a_reply_whose_key_was_deleted_with_its_conversation_stores_what_it_was_sent(url: str) -> None:
    async def act(at: Scene) -> None:
        deleting, beginning, first = await at.connect(), await at.connect(), new("k")
        await begin(deleting, first, HI)
        assert await finish(deleting, first)
        transaction = deleting.transaction()
        await transaction.start()
        assert await messages.delete_conversation_messages(deleting, "", first.appid, 0) is None
        reply = another(first, "k")
        waiting = asyncio.ensure_future(begin(beginning, reply, user("new")))
        await at.wait_until_blocked(beginning)
        await transaction.commit()
        assert await waiting == BeginResult(context=[])
        assert await what_was_sent(deleting, reply) == [user("new")]

    play(url, act)


def test_a_reply_of_an_older_version_has_no_context(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        await connection.execute(
            "INSERT INTO replies (id, tenant, appid, model, request, owner) VALUES ($1, '', $2, 'm', '{}', 1)",
            reply.id,
            reply.appid,
        )
        assert await source(connection, reply) == replies.ReplySource(reply.appid, "{}", None, None)
        assert await replies.find_source(connection, "other", reply.id) is None

    play(url, act)


def test_the_adopter_is_told_what_is_continued_and_counts_continuations(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        reply = another(await begun_with(connection, RULES, HI, said("half")))
        await begin(connection, reply)
        await processes.register(connection, 2)
        assert await ownership.count_continuation(connection, "", reply.id, 1) == 1
        adopted = await ownership.adopt(connection, Orphan(reply.id, 1), 2)
        assert adopted is not None
        assert (adopted.appid, adopted.continues_at) == (reply.appid, 4)
        assert await ownership.count_continuation(connection, "", reply.id, 1) is None
        assert await ownership.count_continuation(connection, "other", reply.id, 2) is None
        assert await ownership.count_continuation(connection, "", reply.id, 2) == 2
        assert await finish(connection, replace(reply, owner=2))
        assert await ownership.count_continuation(connection, "", reply.id, 2) is None
        assert await connection.fetchval("SELECT continuations FROM replies WHERE id = $1", reply.id) == 2
        await processes.unregister(connection, 2)

    play(url, act)


# Which message is continued.


@pytest.mark.parametrize(
    ("newest", "length"),
    [
        (said("half"), 4),
        (said("é😀 \n"), 4),
        (said(" \n\t"), None),
        (said(""), None),
        (said("half", '{"thinking":"hm"}'), 4),
        (said("half", '{"tool_calls":[]}'), 4),
        (said("half", '{"tool_calls":null}'), 4),
        (said("half", '{"tool_calls":[{"function":{"name":"f"}}]}'), None),
        (user("half"), None),
        (RULES, None),
        (Message("tool", "half"), None),
    ],
)
def test_a_reply_without_a_prompt_continues_the_assistants_newest_message(
    url: str, newest: Message, length: int | None
) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        first = await begun_with(connection, HI, newest)
        [*_, last] = await messages.read_page(connection, "", first.appid, 10, None)
        reply = another(first)
        begun = await begin(connection, reply, size=1)
        assert begun.context and begun.context[-1] == newest
        assert begun.continues_at == length == (await source(connection, reply)).continues_at
        assert (await row(connection, reply))["continues_seq"] == (None if length is None else last.seq)

    play(url, act)


def test_a_reply_to_a_prompt_continues_nothing(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        first = await begun_with(connection, HI, said("half"))
        reply = another(first)
        assert (await begin(connection, reply, said("prefill"))).continues_at is None
        assert await finish(connection, reply)
        assert (await contents(connection, first))[-2:] == [("assistant", "prefill"), ("assistant", "said")]
        assert (await begin(connection, another(first), limit=0)).continues_at is None

    play(url, act)


# The message continued.


def test_words_are_appended_to_the_message_which_keeps_its_id(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()
        await begin(connection, first, HI)
        assert await finish(connection, first, "interrupted", "é😀 ")
        before = await messages.read_page(connection, "", first.appid, 10, None)
        second = await continue_with(connection, first, "two ")
        third = await continue_with(connection, first, "three")
        after = await messages.read_page(connection, "", first.appid, 10, None)
        expected = replace(before[1], message=said("é😀 two three"), status=None, error=None)
        assert after == [before[0], expected] and after[1].id == first.id
        assert [(await row(connection, one))["message_seq"] for one in (first, second, third)] == [after[1].seq] * 3
        assert await parts(connection, first, second, third) == [said("é😀 "), said("two "), said("three")]

    play(url, act)


def test_a_repeated_finish_appends_once(url: str) -> None:
    async def act(at: Scene) -> None:
        one, two = await at.connect(), await at.connect()
        reply = another(await begun_with(one, HI, said("half")))
        await begin(one, reply)
        transaction = one.transaction()
        await transaction.start()
        assert await finish(one, reply, content=" whole")
        again = asyncio.ensure_future(finish(two, reply, content=" whole"))
        await at.wait_until_blocked(two)
        await transaction.commit()
        assert await again and await finish(two, reply, content=" whole")
        assert await contents(one, reply) == [("user", "hi"), ("assistant", "half whole")]

    play(url, act)


def test_of_the_old_and_the_new_owner_one_appends(url: str) -> None:
    async def act(at: Scene) -> None:
        old, adopter = await at.connect(), await at.connect()
        reply = another(await begun_with(old, HI, said("half")))
        await begin(old, reply)
        await processes.register(adopter, 3)
        assert await ownership.adopt(adopter, Orphan(reply.id, 1), 3)
        endings = [finish(old, reply, content=" old"), finish(adopter, replace(reply, owner=3), content=" new")]
        assert await asyncio.gather(*endings) == [False, True]
        assert await contents(old, reply) == [("user", "hi"), ("assistant", "half new")]
        await processes.unregister(adopter, 3)

    play(url, act)


def test_replies_that_continue_and_others_finish_in_one_statement(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        batch = [another(await begun_with(connection, HI, said(f"{number} "))) for number in range(10)]
        batch = [replace(one, messages=[HI] * (number % 2)) for number, one in enumerate(batch)]
        await reply_begin.begin(connection, batch)
        endings = [ending(one, f"said {number}") for number, one in enumerate(batch)]
        assert await reply_end.finish(connection, endings) == [FinishResult.STORED] * 10
        assert await reply_end.finish(connection, endings) == [FinishResult.STORED] * 10
        for number, one in enumerate(batch):
            answers = [f"{number} ", "hi", f"said {number}"] if number % 2 else [f"{number} said {number}"]
            assert [content for _, content in await contents(connection, one)] == ["hi", *answers]
            assert await parts(connection, one) == [said(f"said {number}")]

    play(url, act)


def test_a_message_that_somebody_deleted_is_not_lost(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        reply = another(await begun_with(connection, HI, said("half")))
        await begin(connection, reply)
        await connection.execute("DELETE FROM chatts WHERE appid = $1", reply.appid)
        assert await finish(connection, reply, content=" whole")
        assert await contents(connection, reply) == [("assistant", " whole")]
        await parts(connection, reply)

    play(url, act)


EXTRAS: dict[str, tuple[str | None, str | None, Any]] = {
    "none": (None, None, None),
    "only earlier ones": ('{"z": 1,"a":2}', None, '{"z": 1,"a":2}'),
    "only newer ones": (None, '{"tool_calls":[1]}', '{"tool_calls":[1]}'),
    "both": (
        '{"z":{"b":1,"a":2},"thinking":"one ","a":"x"}',
        '{"thinking":"two","tool_calls":[{"z":1,"a":2}],"a":"y"}',
        {"z": {"b": 1, "a": 2}, "thinking": "one two", "a": "y", "tool_calls": [{"z": 1, "a": 2}]},
    ),
}


@pytest.mark.parametrize("case", EXTRAS)
def test_fields_of_the_message_are_merged(url: str, case: str) -> None:
    earlier, newer, expected = EXTRAS[case]

    async def act(at: Scene) -> None:
        connection = await at.connect()
        first = await begun_with(connection, HI, said("half", earlier))
        await continue_with(connection, first, " whole", extra=newer)
        [_, stored] = await messages.read_page(connection, "", first.appid, 10, None)
        assert stored.message.content == "half whole"
        if isinstance(expected, dict):
            assert json.loads(stored.message.extra or "") == expected
            assert json.dumps(json.loads(stored.message.extra or "")) == json.dumps(expected)  # the keys in this order
        else:
            assert stored.message.extra == expected

    play(url, act)


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_reply_that_says_nothing_leaves_the_message_as_it_is(url: str, status: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()
        await begin(connection, first, HI)
        assert await finish(connection, first, "interrupted", "half")
        nothing = await continue_with(connection, first, None, status)
        [_, stored] = await messages.read_page(connection, "", first.appid, 10, None)
        assert (stored.message, stored.id) == (said("half"), first.id)
        assert (stored.status, stored.error) == ((None, None) if status == "done" else ("failed", "why failed"))
        last = await continue_with(connection, first, " whole")
        assert await parts(connection, first, nothing, last) == [said("half"), None, said(" whole")]

    play(url, act)


# History.


def test_history_shows_the_end_of_the_newest_reply_that_wrote_the_message(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()

        async def shown() -> list[tuple[str | None, str | None]]:
            page = await messages.read_page(connection, "", first.appid, 10, None)
            return [(stored.status, stored.error) for stored in page]

        await begin(connection, first, HI)
        assert await finish(connection, first, "interrupted", "a")
        assert await shown() == [(None, None), ("interrupted", "why")]
        await continue_with(connection, first, "b", "truncated")
        assert await shown() == [(None, None), ("truncated", "why truncated")]
        running = another(first)
        await begin(connection, running)
        assert await shown() == [(None, None), ("truncated", "why truncated")]
        assert await finish(connection, running, content="c")
        assert await shown() == [(None, None)] * 2
        await continue_with(connection, first, "d", "stopped")
        assert (await shown())[1][0] == "stopped"

    play(url, act)


def test_tool_calls_belong_to_the_last_part_and_thoughts_to_the_first(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()
        await begin(connection, first, HI)
        thought = ending(first, message=said("a", '{"thinking":"hm"}'))
        assert await reply_end.finish(connection, [thought]) == [FinishResult.STORED]
        second = await continue_with(connection, first, "b")
        assert await parts(connection, first, second) == [said("a", '{"thinking":"hm"}'), said("b")]
        third = await continue_with(connection, first, "", extra='{"tool_calls":[{"z":1,"a":2}]}')
        shown = await parts(connection, first, second, third)
        assert [part and (part.content, json.loads(part.extra or "{}")) for part in shown] == [
            ("a", {"thinking": "hm"}),
            ("b", {}),
            ("", {"tool_calls": [{"z": 1, "a": 2}]}),
        ]

    play(url, act)


def test_a_reply_that_an_older_version_adopted_and_finished_has_its_own_message(url: str) -> None:
    """Its statement inserts a message, whatever the reply continues."""

    async def act(at: Scene) -> None:
        connection = await at.connect()
        first = await begun_with(connection, HI, said("half"))
        reply = another(first)
        await begin(connection, reply)
        await connection.execute(
            """
            WITH ended AS (
                UPDATE replies SET status = 'done', finished = now(), message_seq = nextval('chatts_seq_seq')
                WHERE id = $1 RETURNING *
            )
            INSERT INTO chatts (seq, id, tenant, appid, username, message, extra)
            SELECT message_seq, id, tenant, appid, 'assistant', ' whole', '{"thinking": ""}'::jsonb FROM ended
            """,
            reply.id,
        )
        assert [content for _, content in await contents(connection, first)] == ["hi", "half", " whole"]
        last = await continue_with(connection, first, "!")
        assert await parts(connection, reply, last) == [said(" whole", '{"thinking": ""}'), said("!")]

    play(url, act)


def test_deleting_a_message_deletes_all_replies_that_wrote_it(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, kept = await at.connect(), new()
        await begin(connection, kept, HI)
        assert await finish(connection, kept)
        first = another(kept)
        await begin(connection, first, HI)
        assert await finish(connection, first, "interrupted", "half")
        await continue_with(connection, first, " whole")
        await continue_with(connection, first, None)
        page = await messages.read_page(connection, "", kept.appid, 10, None)
        assert await messages.delete_conversation_messages(connection, "", kept.appid, page[-1].seq) is None
        found = await connection.fetch("SELECT id FROM replies WHERE appid = $1", kept.appid)
        assert {one["id"] for one in found} == {kept.id}

    play(url, act)


# The fields of messages.


def test_fields_keep_their_text(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        extra = '{"tool_calls":[{"z":1.0,"a":  "\\u00e9"}],"images":["x"],"a":1e2}'
        await begin(connection, reply, Message("user", "x", extra))
        assert await reply_end.finish(connection, [ending(reply, message=said("y", extra))]) == [FinishResult.STORED]
        assert [message.extra for message in await selection.read_context(connection, "", reply.appid, 9, 999)] == [
            extra
        ] * 2
        assert await parts(connection, reply) == [said("y", extra)]

    play(url, act)


REFUSED = ['{"a":"\\u0000"}', '{"a":"\\ud800"}', '{"a":"\\udc00\\ud800"}', '{"\\u0000":1}']


@pytest.mark.parametrize("extra", REFUSED)
def test_fields_that_jsonb_refuses_are_refused(url: str, extra: str) -> None:
    async def try_it(action: Awaitable[Any]) -> None:
        with pytest.raises(asyncpg.DataError):
            await action

    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        await try_it(begin(connection, reply, HI, Message("user", "x", extra)))
        assert await contents(connection, reply) == []
        await begin(connection, reply, HI)
        await try_it(reply_end.finish(connection, [ending(reply, message=said("x", extra))]))
        await try_it(reply_end.finish(connection, [ending(reply, message=said("x", extra)), ending(new())]))
        assert await replies.find_streaming(connection, "", reply.appid) == reply.id
        assert await finish(connection, reply)
        again = another(reply)
        await begin(connection, again)
        await try_it(reply_end.finish(connection, [ending(again, message=said("x", extra))]))
        assert await finish(connection, again, content="!")
        assert await contents(connection, reply) == [("user", "hi"), ("assistant", "said!")]

    play(url, act)


def test_a_reply_that_does_not_exist_has_no_source(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, missing = await at.connect(), uuid4()
        assert await replies.find_source(connection, "", missing) is None
        assert await ownership.count_continuation(connection, "", missing, 1) is None

    play(url, act)
