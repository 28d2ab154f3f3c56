"""A prompt sent again after its reply ended without a word takes the place of the first one."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import asyncpg
import pytest

from db import reply_begin
from db.messages import Message
from db.migrate import migrate
from db.reply_begin import BeginResult, NewReply
from tests.database import with_connection
from tests.db.test_context_images import photo
from tests.db.test_continuation import insert, row, what_was_sent
from tests.db.test_replies import HI, Scene, another, begin, contents, finish, ids, new, play, user

RULES = Message("system", "rules")
WITHOUT_A_WORD = ("failed", "truncated", "interrupted", "stopped")


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    url = new_database()
    with_connection(url, migrate)
    return url


async def ended(connection: asyncpg.Connection, reply: NewReply, *own: Message, status: str = "failed") -> NewReply:
    """Begin a reply and end it without a word."""
    assert (await begin(connection, reply, *own)).context is not None
    assert await finish(connection, reply, status=status, content=None)
    return reply


@pytest.mark.parametrize("status", WITHOUT_A_WORD)
@pytest.mark.parametrize("own", [[HI], [RULES, HI], [HI, HI], [photo(1)], [Message("tool", "3", '{"tool_name":"f"}')]])
def test_a_prompt_repeated_after_a_reply_without_a_word_takes_its_place(
    url: str, status: str, own: list[Message]
) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()
        await insert(connection, first, user("earlier"))
        failed = [await ended(connection, another(first), *own, status=status) for _ in range(3)]
        last = another(first)
        assert await begin(connection, last, *own) == BeginResult(context=[user("earlier")])
        assert await contents(connection, first) == [("user", "earlier"), *((one.role, one.content) for one in own)]
        assert await what_was_sent(connection, last) == [user("earlier"), *own]
        assert await ids(connection, first) == {last.id, *(one.id for one in failed)}  # followed by viewers
        assert await finish(connection, last)
        assert (await contents(connection, first))[-1] == ("assistant", "said")

    play(url, act)


@pytest.mark.parametrize(
    "again",
    [
        [user("hi ")],
        [Message("assistant", "hi")],
        [Message("user", "hi", "{}")],
        [HI, HI],
        [RULES, HI],
        [HI, user("more")],
    ],
)
def test_another_prompt_is_recorded_beside_the_first(url: str, again: list[Message]) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        first = await ended(connection, new(), HI)
        assert await begin(connection, another(first), *again) == BeginResult(context=[HI])
        assert await contents(connection, first) == [(one.role, one.content) for one in (HI, *again)]

    play(url, act)


@pytest.mark.parametrize(
    ("status", "content"), [("done", "said"), ("done", None), ("failed", "half"), ("stopped", "x")]
)
def test_a_prompt_that_got_an_answer_is_asked_twice(url: str, status: str, content: str | None) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()
        await begin(connection, first, HI)
        assert await finish(connection, first, status=status, content=content)
        await begin(connection, another(first), HI)
        assert (await contents(connection, first)).count(("user", "hi")) == 2

    play(url, act)


def test_a_message_that_another_server_recorded_is_not_replaced(url: str) -> None:
    async def act(at: Scene) -> None:
        connection, first = await at.connect(), new()
        await insert(connection, first, HI)
        await begin(connection, first, HI)
        assert await contents(connection, first) == [("user", "hi")] * 2
        assert await finish(connection, first, status="failed", content=None)
        await insert(connection, first, HI)
        await begin(connection, another(first), HI)
        assert await contents(connection, first) == [("user", "hi")] * 4

    play(url, act)


def test_only_the_same_conversation_of_the_same_tenant_is_compared(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        first = await ended(connection, new(), HI)
        for other in (replace(another(first), tenant="other"), new()):
            await begin(connection, other, HI)
            assert await contents(connection, other) == [("user", "hi")]
        assert await contents(connection, first) == [("user", "hi")]

    play(url, act)


def test_an_empty_list_of_messages_replaces_nothing_and_may_be_followed_by_the_prompt(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        first = await ended(connection, new(), HI)
        await ended(connection, another(first))
        assert await contents(connection, first) == [("user", "hi")]
        assert await begin(connection, another(first), HI) == BeginResult(context=[])
        assert await contents(connection, first) == [("user", "hi")]

    play(url, act)


def test_an_idempotency_key_still_finds_its_own_reply(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        first = await ended(connection, new("k1"), HI)
        assert await begin(connection, another(first, "k1"), HI) == BeginResult(existing=first.id)
        second = another(first, "k2")
        assert await begin(connection, second, HI) == BeginResult(context=[])
        assert await begin(connection, another(first, "k2"), HI) == BeginResult(existing=second.id)
        assert await begin(connection, another(first, "k1"), HI) == BeginResult(existing=first.id)
        assert await contents(connection, first) == [("user", "hi")]

    play(url, act)


def test_replies_of_one_batch_replace_their_own_prompts_only(url: str) -> None:
    async def act(at: Scene) -> None:
        connection = await at.connect()
        failed = [await ended(connection, new(), user(f"{n}")) for n in range(4)]
        batch = [
            replace(another(one), messages=[user(f"{n}") if n % 2 else user("other")]) for n, one in enumerate(failed)
        ]
        assert all(result.context is not None for result in await reply_begin.begin(connection, batch))
        found = [[content for _, content in await contents(connection, one)] for one in failed]
        assert found == [["0", "other"], ["1"], ["2", "other"], ["3"]]

    play(url, act)


def test_of_prompts_repeated_at_the_same_time_one_is_recorded(url: str) -> None:
    async def act(at: Scene) -> None:
        connections = [await at.connect() for _ in range(4)]
        first = await ended(connections[0], new(), HI)
        results = await asyncio.gather(*(begin(one, another(first), HI) for one in connections))
        assert sorted(result.context is None for result in results) == [False, True, True, True]
        assert await contents(connections[0], first) == [("user", "hi")]

    play(url, act)


def test_the_prompt_of_a_reply_that_fails_while_the_statement_waits_is_replaced(url: str) -> None:
    """The snapshot shows the failed reply as streaming: the context is read again, and the prompt replaced then."""

    async def act(at: Scene) -> None:
        one, two = await at.connect(), await at.connect()
        first = new()
        await insert(one, first, user("earlier"))
        await begin(one, first, HI)
        transaction = one.transaction()
        await transaction.start()
        assert await finish(one, first, status="failed", content=None)
        second = another(first)
        waiting = asyncio.create_task(begin(two, second, HI))
        pid = two.get_server_pid()
        while not await one.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid):
            await asyncio.sleep(0)
        await transaction.commit()
        assert await waiting == BeginResult(context=[user("earlier")])
        assert await contents(one, first) == [("user", "earlier"), ("user", "hi")]
        assert await what_was_sent(one, second) == [user("earlier"), HI]
        assert (await row(one, second))["context_last"] is not None

    play(url, act)
