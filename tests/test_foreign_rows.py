"""What other programs store in a conversation's rows, whatever it is, stops neither its replies nor its deletion."""

from collections.abc import Callable

import pytest

from tests.client import Client
from tests.database import eventually, rows
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program

FOREIGN = [
    "null",
    "5",
    '"text"',
    "[]",
    '[{"images": ["aGk="]}]',
    '{"a": 1e-16000}',
    '{"a": 1e-9999}',
    '{"a": 1e999}',
    '{"a": 1' + "0" * 4_000 + "}",
    '{"images": 5}',
    '{"tool_calls": {}}',
    '{"tool_calls": "x"}',
    '{"thinking": [1]}',
    '{"content": 5, "role": 7}',
    '{"a": "\\u0000"}',
    '{"a": "\\ud800"}',
    '{"a": ' + "[" * 2_000 + "]" * 2_000 + "}",
]
"""JSON that no client can have sent. PostgreSQL's json type takes all of it."""


@pytest.mark.parametrize("role", ["user", "assistant", pytest.param("system", marks=pytest.mark.extended)])
def test_a_conversation_with_foreign_rows_goes_on_survives_a_crash_and_can_be_forgotten(
    start_chatterd: Callable[..., Program], database_url: str, ollama: ScriptedOllama, role: str
) -> None:
    first = start_chatterd(database_url=database_url)
    with Client(first.url) as client:
        client.ask("hi")
        insert = "INSERT INTO chatts (appid, username, message, extra) VALUES ($1, $2, 'foreign', $3::json)"
        for extra in FOREIGN:
            rows(database_url, insert, client.appid, role, extra)
        history = client.history()["messages"]
        assert [message["content"] for message in history[2:]] == ["foreign"] * len(FOREIGN)
        ollama.script(Head(), Lines(line("a ")), Gate())
        path = client.begin("and?")
        with client.follow(path) as stream:
            assert stream.next()
            [sent] = [one for one in ollama.generations if b"and?" in one.body]
            assert [one["content"] for one in sent.json["messages"]].count("foreign") == len(FOREIGN)
            first.kill()
    second = start_chatterd(database_url=database_url)
    with Client(second.url, client.appid) as other:
        ollama.script(Head(), Lines(line("b"), last_line()))
        assert other.view(path)[-1].name == "error", "what may have pictures is not continued"
        ollama.script(Head(), Gate())
        other.begin("more")
        assert other.http.delete("/llmchat", params={"appID": client.appid}).status_code == 204
        eventually("it is forgotten", lambda: other.history()["messages"] == [])


@pytest.mark.parametrize("value", ["null", "5", '"\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"'])
def test_a_conversation_with_foreign_images_is_cut(
    client: Client, ollama: ScriptedOllama, session_database_url: str, value: str
) -> None:
    for turn in range(3):
        client.ask("word " * 60 + str(turn), options={"num_predict": 1})
    extra = f'{{"a": {value}, "images": ["{"A" * 2_000}"]}}'
    foreign = "UPDATE chatts SET extra = $2::json, extra_bytes = NULL WHERE appid = $1 AND username = 'user'"
    rows(session_database_url, foreign, client.appid, extra)
    ollama.script(Head(), Lines(line("a"), last_line()))
    assert client.ask("and?", options={"num_ctx": 200})[-1].json["done"]
    assert client.history()["context"]["left_out"] > 0
