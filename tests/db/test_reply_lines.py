"""The table ``reply_lines``: what is appended is what is read, whatever the lines hold and however they are mixed."""

import asyncio
from collections.abc import Callable
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db import processes, replies, reply_lines
from db.migrate import migrate
from db.replies import NewReply
from tests.database import with_connection

OWNER = 5

AWKWARD = "\r\t\\\"'{},;\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x01\x7f\ufeff\ufffd\ufffe\U0001f600é \\N\\n"
"""What somebody might take for a line's end, a quote, an escape, a separator or the end of a text."""

LINE = st.text(st.characters(exclude_characters="\0\n", codec="utf-8") | st.sampled_from(AWKWARD), min_size=1)


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    url = new_database()
    with_connection(url, migrate)
    with_connection(url, lambda connection: connection.execute(f"INSERT INTO processes VALUES ({OWNER})"))
    return url


async def begin(connection: asyncpg.Connection) -> UUID:
    new = NewReply(uuid4(), "", f"test-{uuid4()}", "m", "{}", OWNER, None, [], 0, 0)
    await replies.begin(connection, [new])
    return new.id


async def read(connection: asyncpg.Connection, reply: UUID) -> list[bytes]:
    page = await reply_lines.read_page(connection, "", reply, 0, 3600, 10_000, 2**30)
    assert page is not None
    return page.lines


def play(url: str, act: Callable[[asyncpg.Connection], object]) -> None:
    with_connection(url, act)  # type: ignore[arg-type]


def test_lines_of_several_replies_in_one_round_are_read_as_they_were_written(url: str) -> None:
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))

        @given(st.lists(st.tuples(st.integers(0, 2), LINE), max_size=30), st.booleans())
        @settings(deadline=None, max_examples=300)
        def check(mixed: list[tuple[int, str]], again: bool) -> None:
            runner.run(check_round(connection, [(which, text.encode()) for which, text in mixed], again))

        try:
            check()
        finally:
            runner.run(connection.close())


async def check_round(connection: asyncpg.Connection, mixed: list[tuple[int, bytes]], again: bool) -> None:
    """Write lines, each of one of three replies, and read them."""
    ids = [await begin(connection) for _ in range(3)]
    written: list[list[bytes]] = [[], [], []]
    numbers = []
    for which, text in mixed:
        numbers.append(len(written[which]))
        written[which].append(text)
    keys, texts = [str(ids[which]) for which, _ in mixed], [text for _, text in mixed]
    assert await reply_lines.append(connection, OWNER, keys, numbers, texts, [], again)
    assert [await read(connection, id) for id in ids] == written


def test_a_round_of_nothing_and_a_round_of_a_thousand(url: str) -> None:
    async def act(connection: asyncpg.Connection) -> None:
        id = await begin(connection)
        assert await reply_lines.append(connection, OWNER, [], [], [], [])
        assert await read(connection, id) == []
        many = [b"%d\r" % number for number in range(1_000)]
        assert await reply_lines.append(connection, OWNER, [str(id)] * 1_000, range(1_000), many, [])
        assert await read(connection, id) == many

    play(url, act)


def test_a_round_with_a_line_that_is_there_already_writes_nothing_unless_it_may_be(url: str) -> None:
    async def act(connection: asyncpg.Connection) -> None:
        one, other = [await begin(connection) for _ in range(2)]
        await reply_lines.append(connection, OWNER, [str(one)], [0], [b"first"], [])
        round_ = [str(other), str(one), str(one)], [0, 0, 1], [b"x", b"second try", b"second"]
        with pytest.raises(asyncpg.UniqueViolationError):
            await reply_lines.append(connection, OWNER, *round_, [])
        assert await read(connection, other) == []
        assert await reply_lines.append(connection, OWNER, *round_, [], again=True)
        assert await read(connection, one) == [b"first", b"second"]
        assert await read(connection, other) == [b"x"]

    play(url, act)


def test_a_process_that_was_declared_dead_writes_nothing_and_rings_nobody(url: str) -> None:
    async def act(connection: asyncpg.Connection) -> None:
        heard: list[str] = []
        await connection.add_listener(processes.CHANNEL, lambda *notice: heard.append(notice[-1]))
        id = await begin(connection)
        for again in (False, True):
            assert not await reply_lines.append(connection, OWNER + 1, [str(id)], [0], [b"x"], ["dead"], again)
        assert await reply_lines.append(connection, OWNER, [str(id)], [0], [b"y"], ["alive", "and well"])
        assert await read(connection, id) == [b"y"]
        async with asyncio.timeout(10):
            while len(heard) < 2:
                await asyncio.sleep(0.005)
        assert heard == ["alive", "and well"]

    play(url, act)
