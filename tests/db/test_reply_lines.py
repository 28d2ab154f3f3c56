"""The table ``reply_lines``: lines are read as they were appended, with any content and in any order of replies."""

import asyncio
from collections.abc import Callable
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db import processes, reply_begin, reply_lines
from db.migrate import migrate
from db.reply_begin import NewReply
from tests.database import with_connection

OWNER = 5

AWKWARD = "\r\t\\\"'{},;\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x01\x7f\ufeff\ufffd\ufffe\U0001f600é \\N\\n"
"""Characters that could be parsed as the end of a line, a quote, an escape or a separator."""

LINE = st.text(st.characters(exclude_characters="\0\n", codec="utf-8") | st.sampled_from(AWKWARD), min_size=1)


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    url = new_database()
    with_connection(url, migrate)
    with_connection(url, lambda connection: connection.execute(f"INSERT INTO processes VALUES ({OWNER})"))
    return url


async def begin(connection: asyncpg.Connection) -> UUID:
    new = NewReply(uuid4(), "", f"test-{uuid4()}", "m", "{}", OWNER, None, [], 0, 0)
    await reply_begin.begin(connection, [new])
    return new.id


async def read(connection: asyncpg.Connection, reply: UUID) -> list[bytes]:
    page = await reply_lines.read_page(connection, "", reply, 0, 3600, 10_000, 2**30)
    assert page is not None
    return page.lines


def play(url: str, act: Callable[[asyncpg.Connection], object]) -> None:
    with_connection(url, act)  # type: ignore[arg-type]


@pytest.mark.parametrize("examples", [25, pytest.param(300, marks=pytest.mark.extended)])
def test_lines_of_several_replies_in_one_batch_are_read_as_appended(url: str, examples: int) -> None:
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))

        @given(st.lists(st.tuples(st.integers(0, 2), LINE), max_size=30), st.booleans())
        @settings(deadline=None, max_examples=examples)
        def check(mixed: list[tuple[int, str]], again: bool) -> None:
            runner.run(check_batch(connection, [(which, text.encode()) for which, text in mixed], again))

        try:
            check()
        finally:
            runner.run(connection.close())


async def check_batch(connection: asyncpg.Connection, mixed: list[tuple[int, bytes]], again: bool) -> None:
    """Append lines, each of one of three replies, and compare with what is read."""
    ids = [await begin(connection) for _ in range(3)]
    written: list[list[bytes]] = [[], [], []]
    numbers = []
    for which, text in mixed:
        numbers.append(len(written[which]))
        written[which].append(text)
    keys, texts = [str(ids[which]) for which, _ in mixed], [text for _, text in mixed]
    assert await reply_lines.append(connection, OWNER, keys, numbers, texts, [], again)
    assert [await read(connection, id) for id in ids] == written


def test_an_empty_batch_and_a_batch_of_1000_lines(url: str) -> None:
    async def act(connection: asyncpg.Connection) -> None:
        id = await begin(connection)
        assert await reply_lines.append(connection, OWNER, [], [], [], [])
        assert await read(connection, id) == []
        many = [b"%d\r" % number for number in range(1_000)]
        assert await reply_lines.append(connection, OWNER, [str(id)] * 1_000, range(1_000), many, [])
        assert await read(connection, id) == many

    play(url, act)


def test_a_batch_with_an_existing_line_fails_unless_it_is_a_repetition(url: str) -> None:
    async def act(connection: asyncpg.Connection) -> None:
        first, second = [await begin(connection) for _ in range(2)]
        await reply_lines.append(connection, OWNER, [str(first)], [0], [b"first"], [])
        batch = [str(second), str(first), str(first)], [0, 0, 1], [b"x", b"second try", b"second"]
        with pytest.raises(asyncpg.UniqueViolationError):
            await reply_lines.append(connection, OWNER, *batch, [])
        assert await read(connection, second) == []
        assert await reply_lines.append(connection, OWNER, *batch, [], again=True)
        assert await read(connection, first) == [b"first", b"second"]
        assert await read(connection, second) == [b"x"]

    play(url, act)


def test_a_process_that_was_declared_dead_writes_and_notifies_nothing(url: str) -> None:
    async def act(connection: asyncpg.Connection) -> None:
        payloads: list[str] = []
        await connection.add_listener(processes.CHANNEL, lambda *notification: payloads.append(notification[-1]))
        id = await begin(connection)
        for again in (False, True):
            assert not await reply_lines.append(connection, OWNER + 1, [str(id)], [0], [b"x"], ["dead"], again)
        assert await reply_lines.append(connection, OWNER, [str(id)], [0], [b"y"], ["alive", "and well"])
        assert await read(connection, id) == [b"y"]
        async with asyncio.timeout(10):
            while len(payloads) < 2:
                await asyncio.sleep(0.005)
        assert payloads == ["alive", "and well"]

    play(url, act)
