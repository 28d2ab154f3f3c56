"""The images of a conversation: a budget of their own, and a continued reply is sent the same ones."""

import base64
import random
from collections.abc import Callable
from dataclasses import replace

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db import reply_begin
from db.context import reduction, selection
from db.messages import MAX_SEQ, Message
from db.migrate import migrate
from db.reply_begin import BeginResult, NewReply
from relay.generation.prompt import remaining_image_bytes, remaining_system_bytes, trim_to_context
from tests.database import with_connection
from tests.db.test_continuation import what_was_sent
from tests.db.test_replies import Scene, another, finish, new, play

IMAGE = 2_000
"""Bytes of a test's image: more than ``IMAGES_MIN_BYTES``."""


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    url = new_database()
    with_connection(url, migrate)
    return url


async def insert(connection: asyncpg.Connection, reply: NewReply, *rows: Message) -> None:
    await connection.executemany(
        "INSERT INTO chatts (tenant, appid, username, message, extra) VALUES ($1, $2, $3, $4, $5)",
        [(reply.tenant, reply.appid, row.role, row.content, row.extra) for row in rows],
    )


def photo(number: int, size: int = IMAGE, role: str = "user") -> Message:
    """Return a message with an image of ``size`` bytes in base64, which does not compress."""
    data = base64.b64encode(random.Random(number).randbytes(size * 3 // 4)).decode()
    return Message(role, f"photo {number}", f'{{"images":["{data}"]}}')


def text_bytes(message: Message) -> int:
    """Return the bytes that count as text: an image does not."""
    return len(message.content) + (0 if is_photo(message) else len(message.extra or ""))


def is_photo(message: Message) -> bool:
    return message.role != "assistant" and len(message.extra or "") > selection.IMAGES_MIN_BYTES


def bare(message: Message) -> Message:
    return replace(message, extra=None)


async def begin(connection: asyncpg.Connection, reply: NewReply, image_size: int, *own: Message) -> BeginResult:
    request = replace(reply, messages=own, context_image_bytes=image_size)
    [result] = await reply_begin.begin(connection, [request])
    return result


@pytest.mark.parametrize(
    ("budget", "whole"),
    [(0, []), (1, [3]), (IMAGE, [3]), (IMAGE + 200, [2, 3]), (3 * IMAGE, [1, 2, 3]), (MAX_SEQ, [1, 2, 3])],
)
def test_images_are_sent_newest_first_until_they_reach_their_budget(url: str, budget: int, whole: list[int]) -> None:
    conversation = [photo(number) for number in (1, 2, 3)]

    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        await insert(connection, reply, *conversation, Message("user", "and?"))
        result = await begin(connection, reply, budget, Message("user", "hi"))
        expected = [photo(n) if n in whole else bare(photo(n)) for n in (1, 2, 3)]
        assert result.context == [*expected, Message("user", "and?")]
        assert result.without_images == 3 - len(whole)
        assert await what_was_sent(connection, reply) == [*result.context, Message("user", "hi")]

    play(url, act)


def test_images_do_not_push_out_text(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), replace(new(), context_bytes=100)
        await insert(connection, reply, Message("user", "words"), photo(1, 100_000))
        result = await begin(connection, reply, 0, Message("user", "hi"))
        assert result.context == [Message("user", "words"), bare(photo(1))]

    play(url, act)


def test_short_fields_and_the_assistants_count_as_text_and_stay(url: str) -> None:
    short = Message("tool", "3", '{"tool_name":"add"}')
    thought = Message("assistant", "said", '{"thinking":"' + "t" * 5_000 + '"}')

    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        await insert(connection, reply, short, photo(1), thought)
        result = await begin(connection, reply, 0, Message("user", "hi"))
        assert result.context == [short, bare(photo(1)), thought]
        assert await finish(connection, reply, content=None)
        result = await begin(connection, replace(another(reply), context_bytes=10), 0, Message("user", "hi 2"))
        assert thought not in (result.context or [])

    play(url, act)


def test_a_message_before_the_one_that_fills_the_context_leaves_out_no_images(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), replace(new(), context_messages=1)
        await insert(connection, reply, photo(1), Message("user", "text"))
        assert await begin(connection, reply, 0, Message("user", "hi")) == BeginResult(
            context=[Message("user", "text")]
        )
        row = await connection.fetchrow("SELECT images_after FROM replies WHERE id = $1", reply.id)
        assert row is not None and row["images_after"] is None

    play(url, act)


@pytest.mark.parametrize(("images", "deferred"), [(1, False), (2, True)])
def test_many_bytes_of_images_are_not_read_by_the_statement_that_begins(url: str, images: int, deferred: bool) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        large = [photo(number, 40_000) for number in range(images)]
        thought = Message("assistant", "a", '{"thinking":"hm"}')
        await insert(connection, reply, *large, thought)
        result = await begin(connection, reply, MAX_SEQ, Message("user", "hi"))
        read = [bare(message) for message in large] if deferred else large
        assert result == BeginResult(context=[*read, thought], deferred=deferred)
        assert await what_was_sent(connection, reply) == [*large, thought, Message("user", "hi")]

    play(url, act)


roles = st.sampled_from(["system", "user", "assistant", "tool"])
some = st.lists(
    st.builds(
        lambda role, number, big: photo(number, IMAGE, role) if big else Message(role, f"text {number}"),
        roles,
        st.integers(0, 9),
        st.booleans(),
    ),
    max_size=6,
)


@pytest.mark.parametrize("examples", [25, pytest.param(100, marks=pytest.mark.extended)])
def test_the_same_messages_are_sent_again_whatever_was_recorded_since(url: str, examples: int) -> None:
    """Also those of the system beyond their limit, and what is left out after a refusal is left out again."""

    @settings(max_examples=examples, deadline=None)
    @given(
        earlier=some,
        own=some,
        later=some,
        limit=st.integers(0, 8),
        size=st.integers(0, 100),
        budget=st.integers(0, 4 * IMAGE),
        written_before_0011=st.booleans(),
        reductions=st.integers(0, 2),
        newest_system=st.integers(0, 3),
    )
    def check(
        earlier: list[Message],
        own: list[Message],
        later: list[Message],
        limit: int,
        size: int,
        budget: int,
        written_before_0011: bool,
        reductions: int,
        newest_system: int,
    ) -> None:
        async def act(at: Scene) -> None:
            connection, reply = await at.connect(), new()
            await insert(connection, reply, *earlier)
            if not written_before_0011:
                await connection.execute("UPDATE chatts SET extra_bytes = octet_length(extra::text)")
            selected, messages_left, bytes_left = trim_to_context(own, limit, size)
            request = replace(
                reply,
                messages=own,
                unsent=len(own) - len(selected),
                context_messages=messages_left,
                context_bytes=bytes_left,
                context_image_bytes=remaining_image_bytes(own, budget),
                context_system_bytes=remaining_system_bytes(own, size),
            )
            [result] = await reply_begin.begin(connection, [request])
            assert result.context is not None
            system = [message for message in result.context if message.role == "system"]
            assert sum(text_bytes(message) for message in system) <= max(
                size, 0 if own else max(map(text_bytes, system), default=0)
            )
            await insert(connection, reply, *later)
            assert await what_was_sent(connection, reply) == [*result.context, *selected]
            count = max(len(selected), 1)
            for _ in range(reductions):
                await reduction.reduce_context(connection, "", reply.id, reply.owner, count)
            sent = await what_was_sent(connection, reply)
            whole = [*result.context, *selected]
            assert [(one.role, one.content) for one in sent] == [(one.role, one.content) for one in whole]
            assert sent[-count:] == whole[-count:], "the prompt itself stays as it is"

        play(url, act)

    check()


def test_what_ollama_may_have_refused_is_left_out_step_by_step(url: str) -> None:
    rules = photo(7, role="system")
    call = Message("assistant", "", '{"tool_calls":"nonsense"}')
    prompt = photo(9)

    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        await insert(connection, reply, rules, photo(1), call)
        await begin(connection, reply, MAX_SEQ, prompt)
        sent = [rules, photo(1), call, prompt]
        assert await what_was_sent(connection, reply) == sent
        for owner in (reply.owner + 1, reply.owner):
            done = await reduction.reduce_context(connection, "", reply.id, owner, 1)
            assert done == ("images" if owner == reply.owner else None)
        assert await what_was_sent(connection, reply) == [bare(rules), bare(photo(1)), call, prompt]
        assert await reduction.reduce_context(connection, "", reply.id, reply.owner, 1) == "fields"
        assert await what_was_sent(connection, reply) == [bare(rules), bare(photo(1)), bare(call), prompt]
        assert await reduction.reduce_context(connection, "", reply.id, reply.owner, 1) is None
        assert await what_was_sent(connection, reply) == [bare(rules), bare(photo(1)), bare(call), prompt]

    play(url, act)


def test_nothing_is_left_out_of_a_prompt(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, reply = await at.connect(), new()
        await insert(connection, reply, Message("user", "text"))
        await begin(connection, reply, MAX_SEQ, photo(1), photo(2))
        assert await reduction.reduce_context(connection, "", reply.id, reply.owner, 2) is None

    play(url, act)
