"""``/llmprep``, ``/getchatts`` and ``/postchatt``, the routes of the tutorial's course beside ``/llmchat``."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from db import reply_begin
from db.messages import Message
from db.reply_begin import NewReply
from tests.client import Client
from tests.database import execute
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program


def prepare(client: Client, *messages: tuple[str, str], slash: str = "") -> None:
    body = client.body() | {
        "messages": [{"role": role, "content": content} for role, content in messages],
        "stream": False,
    }
    answer = client.http.post(f"/llmprep{slash}", json=body)
    assert (answer.status_code, answer.json()) == (200, {})


@pytest.mark.parametrize("slash", ["", "/"])
def test_llmprep_replaces_the_conversation_and_asks_no_model(
    client: Client, ollama: ScriptedOllama, slash: str
) -> None:
    client.ask("old")
    prepare(client, ("system", "Be brief."), ("user", "x"), slash=slash)
    assert client.messages() == [("system", "Be brief."), ("user", "x")]
    assert len(ollama.generations) == 1
    client.ask("hi", options={"num_predict": 1})
    sent = [message["content"] for message in ollama.generations[1].json["messages"]]
    assert sent == ["Be brief.", "x", "hi"]


def test_llmprep_stops_the_running_reply_first(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("half ")), gate := Gate("never"))
    path = client.begin("old")
    gate.reached.wait()
    prepare(client, ("system", "new"))
    assert client.messages() == [("system", "new")]
    assert ollama.arrival(0).wait().closed.wait() is None
    assert client.http.get(path).status_code == 404


def test_llmprep_forgets_a_prompt_that_is_recorded_at_the_same_time(client: Client, session_database_url: str) -> None:
    """Its reply belongs to no living process: it is adopted, and then stopped."""
    new = NewReply(uuid4(), "", client.appid, "fake", "{}", 1, None, [Message("user", "old")], 0, 0)
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"

    async def act() -> None:
        connection = await asyncpg.connect(session_database_url)
        try:
            async with asyncio.timeout(30), asyncio.TaskGroup() as group, connection.transaction():
                await reply_begin.begin(connection, [new])
                group.create_task(asyncio.to_thread(prepare, client, ("system", "new")))
                while not await connection.fetchval(waiting):
                    await asyncio.sleep(0.005)
        finally:
            await connection.close()

    asyncio.run(act())
    assert client.messages() == [("system", "new")]


def test_a_text_that_cannot_be_stored_leaves_the_conversation_as_it_was(client: Client) -> None:
    client.ask("old")
    before = client.history()
    body = client.body("new\0")
    assert client.http.post("/llmprep", json=body).status_code == 406
    assert client.history() == before
    client.ask("next")


def test_llmprep_of_a_reply_whose_process_is_dead(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    owner, other = start_chatterd(database_url=database_url), start_chatterd(database_url=database_url)
    ollama.script(Head(), Lines(line("half ")), gate := Gate("never"))
    with Client(owner.url) as client, Client(other.url, client.appid) as elsewhere:
        client.begin("old")
        gate.reached.wait()
        owner.kill()
        prepare(elsewhere, ("system", "new"))
        assert elsewhere.messages() == [("system", "new")]


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [("appID", None, 422), ("model", None, 422), ("messages", "x", 422), ("messages", [{"role": "x"}], 422)],
)
def test_llmprep_rejects_what_llmchat_rejects(client: Client, field: str, value: Any, status: int) -> None:
    client.ask("old", options={"num_predict": 1})
    answer = client.http.post("/llmprep", json=client.body("new") | {field: value})
    assert answer.status_code == status and field in answer.json()["error"]
    assert len(client.messages()) == 2


def test_llmprep_with_a_nul_character_changes_nothing(client: Client) -> None:
    client.ask("old", options={"num_predict": 1})
    assert client.http.post("/llmprep", json=client.body("a\0b")).status_code == 406
    assert len(client.messages()) == 2


@pytest.fixture
def chatts(start_chatterd: Callable[..., Program], database_url: str) -> Client:
    return Client(start_chatterd(database_url=database_url).url)


@pytest.mark.parametrize(("slash", "field"), [("", "name"), ("/", "username")])
def test_messages_without_an_appid_are_posted_and_read(chatts: Client, slash: str, field: str) -> None:
    with chatts:
        chatts.ask("of a conversation", options={"num_predict": 1})
        for text in ("one", 'two "é😀"'):
            answer = chatts.http.post(f"/postchatt{slash}", json={field: "Zoë", "message": text})
            assert (answer.status_code, answer.json()) == (200, {})
        answer = chatts.http.get(f"/getchatts{slash}")
    assert answer.status_code == 200
    assert [(name, message) for name, message, _, _ in answer.json()] == [("Zoë", "one"), ("Zoë", 'two "é😀"')]
    for _, _, id, time in answer.json():
        assert UUID(id) and datetime.fromisoformat(time).tzinfo is not None


def test_getchatts_is_in_the_order_of_time(chatts: Client, database_url: str) -> None:
    with chatts:
        execute(
            database_url,
            f"""
            INSERT INTO chatts (username, message, id, time) VALUES
            ('b', 'later', '{uuid4()}', '2025-09-02 10:00Z'), ('a', 'earlier', '{uuid4()}', '2025-09-01 10:00Z')
            """,
        )
        assert [row[1] for row in chatts.http.get("/getchatts").json()] == ["earlier", "later"]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"message": "x"}, 422, "name"),
        ({"name": "x"}, 422, "message"),
        ({"name": 1, "message": "x"}, 422, "name"),
        ({"name": "x", "message": None}, 422, "message"),
        ({"name": "é" * 128, "message": "x"}, 400, "name"),
        ({"name": "x", "message": "a\0"}, 406, "NUL"),
        ([], 400, "object"),
    ],
    ids=str,
)
def test_postchatt_rejects(client: Client, body: Any, status: int, named: str) -> None:
    answer = client.http.post("/postchatt", json=body)
    assert answer.status_code == status and named in answer.json()["error"]


def test_a_prompt_after_llmprep_begins_while_a_watched_reply_is_stopped(client: Client, ollama: ScriptedOllama) -> None:
    """An app that is opened again while its first instance still shows a reply."""
    ollama.script(Head(), Lines(line("a")), Gate("never"))
    ollama.script(Head(), Lines(last_line("b")))
    with client.prompt("one") as first:
        assert first.next()
        with Client(str(client.http.base_url), client.appid) as again:
            prepare(again, ("system", "new"))
            assert [event.json["message"]["content"] for event in again.ask("two")] == ["b"]
        assert client.messages() == [("system", "new"), ("user", "two"), ("assistant", "b")]
