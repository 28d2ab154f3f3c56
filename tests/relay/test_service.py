"""Prompts that wait in PostgreSQL for another process's transaction."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from db import pool, reply_begin, reply_lines
from db.messages import Message
from db.reply_begin import NewReply
from errors import Conflict, ServiceUnavailable
from relay.generation.prompt import Prompt
from relay.service import ReplyService
from relay.stream.cursor import Cursor
from settings import Settings
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line
from tests.faults import Fault
from tests.relay.in_process import open_service


def play(url: str, ollama: ScriptedOllama, act: Callable[..., Coroutine[Any, Any, None]]) -> None:
    """Run ``act`` with the reply service of a process, and a database session of another one."""

    async def run() -> None:
        async with asyncio.timeout(30), open_service(ollama, Settings(database_url=url)) as (replies, _, other):
            await act(replies, other)

    asyncio.run(run())


def prompt(appid: str) -> Prompt:
    return Prompt("", appid, "fake", [Message("user", "hi")], {})


async def hold(other: asyncpg.Connection, *appids: str) -> None:
    """Begin replies in an open transaction."""
    await other.execute("BEGIN")
    new = [NewReply(uuid4(), "", appid, "m", "{}", 1, None, [], 0, 0) for appid in appids]
    await reply_begin.begin(other, new)


async def wait_for_waiting_statements(other: asyncpg.Connection, count: int) -> None:
    """Poll until ``count`` statements wait for a lock. The query may run in the open transaction."""
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
    async with asyncio.timeout(10):
        while await other.fetchval(query) != count:
            await asyncio.sleep(0.005)


async def read(cursor: Cursor) -> int:
    """Read a reply to its end; return its number of lines."""
    while await cursor.next(10) is not None:
        pass
    return cursor.next_line


def test_prompt_that_waits_for_another_process_does_not_delay_other_conversations(
    database_url: str, ollama: ScriptedOllama
) -> None:
    async def act(replies: ReplyService, other: asyncpg.Connection) -> None:
        await hold(other, "held")
        waiting = asyncio.create_task(replies.begin(prompt("held")))
        await wait_for_waiting_statements(other, 1)
        for number in range(5):
            cursors = await asyncio.gather(*(replies.begin(prompt(f"{number} {n}")) for n in range(20)))
            assert [await read(cursor) for cursor in cursors] == [6] * 20
        await other.execute("COMMIT")
        with pytest.raises(Conflict):
            await waiting

    play(database_url, ollama, act)


@pytest.mark.expects_log("The database is unavailable")
def test_waiting_prompts_time_out_and_can_be_repeated(
    database_url: str, ollama: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "COMMAND_TIMEOUT", 2.0)

    async def act(replies: ReplyService, other: asyncpg.Connection) -> None:
        await hold(other, "a", "b")
        waiting = []
        for appid in ("a", "b"):
            waiting.append(asyncio.create_task(replies.begin(prompt(appid))))
            await wait_for_waiting_statements(other, len(waiting))
        following = asyncio.create_task(replies.begin(prompt("c")))
        for one in waiting:
            with pytest.raises(ServiceUnavailable) as error:
                await one
            assert error.value.status == 503
            assert int(error.value.headers["Retry-After"]) > 0
        assert await read(await following) == 6
        await other.execute("ROLLBACK")
        assert [await read(await replies.begin(prompt(appid))) for appid in ("a", "b", "c")] == [6] * 3
        recorded = "SELECT appid, count(*) FROM chatts WHERE username = 'user' GROUP BY appid ORDER BY appid"
        assert [tuple(row) for row in await other.fetch(recorded)] == [("a", 1), ("b", 1), ("c", 2)]

    play(database_url, ollama, act)


@pytest.mark.expects_log("has rolled back a statement")
@pytest.mark.parametrize("appids", [["c"], ["g", "c"]])
def test_prompts_of_a_batch_that_fails_after_they_were_recorded_begin_their_replies_once(
    database_url: str, ollama: ScriptedOllama, appids: list[str]
) -> None:
    """The batch has a second statement, for a prompt whose conversation's reply ended just now; this one fails."""
    gate = Gate()
    ollama.script(Head(), gate, Lines(last_line("late")))

    async def act(replies: ReplyService, other: asyncpg.Connection) -> None:
        first = await replies.begin(prompt("c"))
        await asyncio.to_thread(gate.reached.wait)
        later = "OLD.context_last IS NULL AND NEW.context_last IS NOT NULL"
        fault = await asyncio.to_thread(Fault, database_url, "replies", "XX000", "UPDATE", later, 1)
        await other.execute("BEGIN")
        await other.execute("UPDATE replies SET status = 'done', finished = now() WHERE appid = 'c'")
        beginning = asyncio.gather(*(replies.begin(prompt(appid)) for appid in appids))
        await wait_for_waiting_statements(other, 1)
        await other.execute("COMMIT")
        cursors = await beginning
        assert await asyncio.to_thread(lambda: fault.executions) == 1
        assert [await read(cursor) for cursor in cursors] == [6] * len(appids)
        gate.open()
        await read(first)
        recorded = "SELECT appid, count(*) FROM chatts WHERE username = 'user' GROUP BY appid ORDER BY appid"
        assert [tuple(row) for row in await other.fetch(recorded)] == [("c", 2), ("g", 1)][: len(appids)]
        assert await other.fetchval("SELECT count(*) FROM replies") == 1 + len(appids)

    play(database_url, ollama, act)


@pytest.mark.expects_log("log of reply .* cannot be read")
@pytest.mark.parametrize(("stop", "attempts", "status"), [(True, 0, "stopped"), (False, 5, "interrupted")])
def test_a_reply_whose_log_cannot_be_read_ends_when_it_is_stopped_or_was_tried_often(
    database_url: str, ollama: ScriptedOllama, monkeypatch: pytest.MonkeyPatch, stop: bool, attempts: int, status: str
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(reply_lines, "read_page", fail)

    async def act(replies: ReplyService, other: asyncpg.Connection) -> None:
        await other.execute(
            """
            WITH reply AS (
                INSERT INTO replies (id, tenant, appid, model, request, stop, attempts, adopted_after, context_last)
                VALUES (gen_random_uuid(), '', 'c', 'fake', '{}', $1, $2, 0, 0) RETURNING id
            )
            INSERT INTO reply_lines (reply, seq, line) SELECT id, 0, '{}' FROM reply
            """,
            stop,
            attempts,
        )
        await replies.adopt_from_dead(always_search=True)
        while (ended := await other.fetchval("SELECT status FROM replies")) == "streaming":
            await asyncio.sleep(0.01)
        assert ended == status

    play(database_url, ollama, act)
