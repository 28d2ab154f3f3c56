"""Numbers in JSON bodies, on every route that takes one: those that no double holds are refused, others are kept."""

import httpx
import pytest

from tests.client import Client
from tests.fakes.ollama import Head, Lines, ScriptedOllama, last_line, line

JSON = {"Content-Type": "application/json"}
MESSAGE = b'"messages":[{"role":"user","content":"hi","x":%b}]'

BODIES = {
    "/llmchat": [
        b'{"appID":"a","model":"fake","messages":[],"options":{"x":%b}}',
        b'{"appID":"a","model":"fake",' + MESSAGE + b"}",
    ],
    "/llmprep": [b'{"appID":"a","model":"fake",' + MESSAGE + b"}"],
    "/postchatt": [b'{"name":"a","message":"b","x":%b}'],
    "/sign-in": [b'{"token":"a","x":%b}'],
}
"""Bodies with a number at a place that the route does not read."""

CASES = [(path, body) for path, bodies in BODIES.items() for body in bodies]


def post(client: Client, path: str, body: bytes) -> httpx.Response:
    return client.http.post(path, content=body, headers=JSON)


@pytest.mark.parametrize("number", [b"1e400", b"1e-9999", b"[[1e-16000]]", b"9" * 500, b'{"a":[0,18e307]}'])
@pytest.mark.parametrize(("path", "body"), CASES)
def test_a_number_that_no_double_holds_is_422_on_every_route(
    client: Client, path: str, body: bytes, number: bytes
) -> None:
    response = post(client, path, body % number)
    assert response.status_code == 422
    assert "is a number out of range" in response.json()["error"]
    assert "x" in response.json()["error"].split(" ")[0]
    assert client.http.get("/llmchat", params={"appID": "a"}).json()["messages"] == []


def test_half_a_million_numbers_near_the_end_of_the_range_are_kept_as_they_were_sent(
    client: Client, ollama: ScriptedOllama
) -> None:
    ollama.script(Head(), Lines(line("ok"), last_line()))
    numbers = b"[" + b"17e307," * 490_000 + b"1]"
    body = b'{"appID":"a","model":"fake",' + MESSAGE % numbers + b"}"
    assert b'"done":true' in post(client, "/llmchat", body).content
    [generation] = ollama.generations
    assert numbers in generation.body
    newest = client.http.get("/llmchat", params={"appID": "a"}).json()
    assert numbers in client.http.get("/llmchat", params={"appID": "a", "before": newest["before"]}).content


def test_numbers_of_a_tool_call_are_kept_as_the_model_sent_them(client: Client, ollama: ScriptedOllama) -> None:
    call = b'{"function":{"name":"f","arguments":{"b":1.50,"a":17e307}}}'
    ollama.script(
        Head(), Lines(line("").replace(b'"content":""', b'"content":"","tool_calls":[' + call + b"]"), last_line())
    )
    assert client.ask("hi")[-1].json["done"]
    assert call in client.http.get("/llmchat", params={"appID": client.appid}).content
