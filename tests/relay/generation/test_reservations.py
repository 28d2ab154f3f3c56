"""The memory reserved for requests to Ollama is given back however the preparation of a request ends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from db import reply_begin
from db.messages import Message
from db.reply_begin import NewReply
from relay import factory
from relay.generation import generation
from relay.generation.attempt import OllamaCall
from relay.generation.continuation import next_call
from relay.generation.outcome import AttemptResult
from relay.generation.prompt import Prompt
from relay.memory_budget import MemoryBudget
from relay.service import ReplyService
from relay.stream.cursor import Cursor
from settings import Settings
from tests.fakes.ollama import Gate, ScriptedOllama, failure
from tests.relay.in_process import open_service

SIZE = 200_000
"""Bytes of a prompt that has to wait for memory."""


class Process:
    """The reply service of a process, what it shares memory with, and a database session of another process.

    :ivar memory: for requests to Ollama.
    """

    def __init__(self, replies: ReplyService, memory: MemoryBudget) -> None:
        self.replies = replies
        self.memory = memory


def play(
    url: str,
    ollama: ScriptedOllama,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Process, asyncpg.Connection], Awaitable[None]],
) -> None:
    """Run ``act`` with the service of a process, and check that nothing stays reserved."""
    budgets: list[MemoryBudget] = []

    def create_budget(limit: int, small: int) -> MemoryBudget:
        budgets.append(MemoryBudget(limit, small))
        return budgets[-1]

    async def run() -> None:
        settings = Settings(database_url=url, max_total_body_bytes=10 * SIZE)
        async with (
            asyncio.timeout(30),
            open_service(ollama, settings) as (replies, _, other),
        ):
            [memory] = budgets
            await act(Process(replies, memory), other)
            assert memory.used == 0

    monkeypatch.setattr(factory, "MemoryBudget", create_budget)
    asyncio.run(run())


def prompt(*messages: Message) -> Prompt:
    return Prompt("", "c", "fake", list(messages), {})


async def end_of(cursor: Cursor) -> bytes:
    """Read a reply to its end; return its last line."""
    last = b""
    while (page := await cursor.next(10)) is not None:
        last = [last, *page[1]][-1]
    return last


async def status(other: asyncpg.Connection) -> str:
    value: str = await other.fetchval("SELECT status FROM replies ORDER BY started DESC LIMIT 1")
    return value


def test_what_is_reserved_for_a_message_that_was_deleted_is_given_back(
    database_url: str, ollama: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(at: Process, other: asyncpg.Connection) -> None:
        await other.execute("INSERT INTO chatts (appid, username, message) VALUES ('c', 'user', 'hi')")
        await other.execute(
            "INSERT INTO chatts (appid, username, message) VALUES ('c', 'assistant', $1)", "words " * SIZE
        )
        ollama.stop_listening()
        cursor = await at.replies.begin(prompt())
        await other.execute("DELETE FROM chatts WHERE username = 'assistant'")
        assert b"was deleted" in await end_of(cursor)
        ollama.listen_again()

    play(database_url, ollama, monkeypatch, act)


def test_a_reply_that_is_stopped_while_its_request_is_made_gives_the_memory_back(
    database_url: str, ollama: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is complete in the same turn of the event loop in which the reply is stopped."""

    async def act(at: Process, other: asyncpg.Connection) -> None:
        new = NewReply(uuid4(), "", "c", "fake", "{}", 1, None, [Message("user", "x" * SIZE)], 0, 0)

        async def stop(*arguments: Any) -> OllamaCall | AttemptResult:
            assert at.memory.used > SIZE
            assert await at.replies.stop("", new.id)
            return await next_call(*arguments)

        monkeypatch.setattr(generation, "next_call", stop)
        await reply_begin.begin(other, [new])  # by a process that does not live
        await at.replies.adopt_from_dead(always_search=True)
        await end_of(await at.replies.follow("", new.id, 0))
        assert await status(other) == "stopped"

    play(database_url, ollama, monkeypatch, act)


def test_a_reply_is_stopped_while_it_waits_for_memory_to_explain_a_refusal(
    database_url: str, ollama: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    ollama.script(gate, failure(400, "no image"))

    async def act(at: Process, other: asyncpg.Connection) -> None:
        cursor = await at.replies.begin(prompt(Message("user", "look", '{"images":["' + "x" * SIZE + '"]}')))
        await asyncio.to_thread(gate.reached.wait)
        filled = [await at.memory.reserve(5 * SIZE) for _ in range(2)]
        gate.open()
        async with asyncio.timeout(10):
            while not at.memory.contended:
                await asyncio.sleep(0.01)
        assert await at.replies.stop("", cursor.id)
        await end_of(cursor)
        assert await status(other) == "stopped"
        for one in filled:
            one.release()

    play(database_url, ollama, monkeypatch, act)
