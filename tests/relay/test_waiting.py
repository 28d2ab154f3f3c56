"""Prompts that wait: how they are read, and what becomes of them while the database or this process is in trouble."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from relay.stream.cursor import Cursor, TryWrite, write_nothing
from relay.waiting import WaitingPrompt
from tests.client import Client, Stream
from tests.database import eventually, rows
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.fakes.proxy import CuttingProxy
from tests.program import Program

AWAY = ("database", "declared dead", "pool connection floor", "could not be released")
"""Log lines that are allowed during an outage of the database and after it."""


def waiting(client: Client) -> float:
    metrics = client.http.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in metrics if line.startswith("chatterd_prompts_waiting "))


def wait_behind(stack: ExitStack, program: Program, client: Client, text: str) -> Stream:
    """Send a prompt that has to wait."""
    count = waiting(client)
    other = stack.enter_context(Client(program.url, client.appid))
    stream = stack.enter_context(other.prompt(text, options={"num_predict": 1}))
    eventually("the prompt waits", lambda: waiting(client) == count + 1)
    return stream


def words(stream: Stream) -> str:
    return "".join(event.json["message"]["content"] for event in stream.rest())


class RecordingCursor(Cursor):
    """Records for how long it may wait."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def next(self, seconds: float, try_write: TryWrite = write_nothing) -> tuple[int, list[bytes]] | None:
        self.seconds.append(seconds)
        return 0, []


def test_the_silence_at_the_turn_is_no_longer_than_the_heartbeats_interval() -> None:
    async def act() -> list[float]:
        cursor, turn = RecordingCursor(), asyncio.Event()

        async def take_turn() -> Cursor:
            await turn.wait()
            return cursor

        prompt = WaitingPrompt()
        prompt.turn = asyncio.create_task(take_turn())
        asyncio.get_running_loop().call_later(0.05, turn.set)
        await prompt.next(10)
        await prompt.next(10)
        return cursor.seconds

    at_the_turn, later = asyncio.run(act())
    assert at_the_turn < later == 10


def test_an_abandoned_reply_gives_way_at_a_full_server(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url, max_replies=1)
    ollama.script(Head(), Lines(line("half ")), Gate("never"))
    with Client(program.url) as client, Client(program.url) as another:
        with client.prompt("one") as stream:
            assert stream.next()
            assert another.http.post("/llmchat", json=another.body("hi")).status_code == 503
        assert client.ask("two")[-1].json["done"] is True
        assert client.messages()[1] == ("assistant", "half ")


@pytest.mark.extended
def test_a_prompt_whose_turn_comes_at_a_full_server_goes_on_waiting(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    owner, full = start_chatterd(database_url=database_url), start_chatterd(database_url=database_url, max_replies=1)
    ollama.script(Head(), first := Gate("the conversation's reply"), Lines(last_line("a")))
    ollama.script(Head(), second := Gate("the other reply"), Lines(last_line("b")))
    with Client(owner.url) as client, Client(full.url) as another, ExitStack() as stack:
        path = client.begin("one")
        ollama.arrival(0).wait()
        same = stack.enter_context(Client(full.url, client.appid))
        stream = wait_behind(stack, full, same, "two")
        another.begin("another conversation")
        ollama.arrival(1).wait()
        first.open()
        assert client.view(path)[-1].json["done"] is True
        second.open()
        assert words(stream) == "w0 "


@pytest.mark.extended
@pytest.mark.expects_log(*AWAY)
def test_a_prompt_that_was_begun_although_the_answer_was_lost_is_begun_once(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    with CuttingProxy(database_url) as proxy:
        program = start_chatterd(database_url=proxy.url)
        ollama.script(Head(), gate := Gate(), Lines(last_line("a")))
        with Client(program.url) as client, ExitStack() as stack:
            client.begin("one")
            stream = wait_behind(stack, program, client, "these words are lost")
            lost = proxy.lose(b"these words are lost")
            gate.open()
            lost.wait()
            assert words(stream) == "w0 "
            expected = [("user", "one"), ("assistant", "a"), ("user", "these words are lost"), ("assistant", "w0 ")]
            assert client.messages() == expected
    assert len(ollama.generations) == 2


@pytest.mark.extended
@pytest.mark.expects_log(*AWAY)
def test_prompts_of_one_conversation_share_the_time_for_which_the_database_may_be_away(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    patience = 3.0
    with CuttingProxy(database_url) as proxy:
        program = start_chatterd(database_url=proxy.url, db_retry_timeout=patience, acquire_timeout=0.2)
        ollama.script(Head(), Gate("never"))
        with Client(program.url) as client, ExitStack() as stack:
            client.begin("one")
            streams = [wait_behind(stack, program, client, text) for text in ("two", "three", "four")]
            proxy.cut()
            [event] = streams[0].rest()
            assert (event.id, event.name) == (0, "error")
            first = time.monotonic()
            assert [[event.name for event in stream.rest()] for stream in streams[1:]] == [["error"]] * 2
            assert time.monotonic() - first < patience
            proxy.restore()
    assert [row["message"] for row in rows(database_url, "SELECT message FROM chatts WHERE username = 'user'")] == [
        "one"
    ]


def test_the_memory_of_prompts_that_wait_is_limited(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url, max_total_body_bytes=1_000_000)
    ollama.script(Head(), Gate("never"))
    with Client(program.url) as client:
        path = client.begin("one")
        with ExitStack() as stack:
            wait_behind(stack, program, client, "a" * 300_000)
            with client.http.stream("POST", "/llmchat", json=client.body("b" * 300_000)) as refused:
                assert refused.status_code == 503 and refused.headers["Retry-After"]
        eventually("it does not wait any more", lambda: waiting(client) == 0)
        with ExitStack() as stack:
            wait_behind(stack, program, client, "c" * 300_000)
        client.http.delete(path)


def test_prompts_that_wait_begin_after_llmprep_in_the_new_conversation(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url)
    ollama.script(Head(), Gate("never"))
    ollama.script(Head(), gate := Gate(), Lines(last_line("w0 ")))
    with Client(program.url) as client, ExitStack() as stack:
        client.begin("one")
        streams = [wait_behind(stack, program, client, text) for text in ("two", "three", "four")]
        system = {"role": "system", "content": "Be brief."}
        assert client.http.post("/llmprep", json=client.body() | {"messages": [system]}).status_code == 200
        gate.open()
        assert [words(stream) for stream in streams] == ["w0 "] * 3
        asked = [("user", text) for text in ("two", "three", "four")]
        answered = [message for question in asked for message in (question, ("assistant", "w0 "))]
        assert client.messages() == [("system", "Be brief."), *answered]
