"""Prompts that wait in PostgreSQL for another process's transaction."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from db import pool, reply_begin
from db.messages import Message
from db.pool import Database
from db.reply_begin import NewReply
from errors import Conflict, ServiceUnavailable
from relay.factory import create_relay
from relay.generation.prompt import Prompt
from relay.metrics import Metrics
from relay.ollama.client import OllamaClient
from relay.ollama.upstreams import Upstreams
from relay.service import ReplyService
from relay.stream.cursor import Cursor
from settings import Settings
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line
from tests.faults import Fault


def play(url: str, ollama: ScriptedOllama, act: Callable[..., Coroutine[Any, Any, None]]) -> None:
    """Run ``act`` with the reply service of a process, and a database session of another one."""

    async def run() -> None:
        settings = Settings(database_url=url)
        async with AsyncExitStack() as stack, asyncio.timeout(30):
            database = Database(url, settings.pool_size, settings.acquire_timeout)
            stack.push_async_callback(database.close)
            await database.open()
            model = OllamaClient(ollama.url, settings.max_replies, settings.connect_timeout)
            stack.callback(model.close)
            replies = (await create_relay(stack, database, Upstreams(model), settings, Metrics())).replies
            stack.push_async_callback(replies.drain, 5)
            other = await asyncpg.connect(url)
            stack.push_async_callback(other.close)
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
