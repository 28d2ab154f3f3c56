"""POST /llmchat and /llmprompt beyond a limit: the status, the error, and no trace of what was rejected."""

from typing import Any

import pytest
import ujson

from relay.generation.attempt import TOO_LONG
from tests.client import Client
from tests.fakes.ollama import Body, Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.limits import REPLY_BYTES

# Prompts and replies.


def test_too_many_messages_are_422(tight: Client) -> None:
    response = tight.http.post("/llmchat", json=tight.body("1", "2", "3", "4"))
    assert response.status_code == 422
    assert "messages has 4" in response.json()["error"]
    assert tight.messages() == []
    assert tight.ask("1", "2", "3")[-1].json["done"] is True


@pytest.mark.parametrize("wide", ["[],", "{},", '"a",', "1,"])
def test_json_with_too_many_values_is_400(tight: Client, wide: str) -> None:
    body = ujson.dumps(tight.body("hi"))[:-1] + f', "options": [{wide * 600_000}0]}}'
    json = {"Content-Type": "application/json"}
    for path in ("/llmchat", "/llmprompt"):
        response = tight.http.post(path, content=body, headers=json)
        assert (response.status_code, response.json()) == (
            400,
            {"error": "The body has too many values. Send it in parts."},
        )


def test_commas_and_brackets_in_strings_do_not_count_as_values(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("ok"), last_line()))
    assert client.ask('[{,"\\' * 200_000, truncate=True)[-1].json["done"]


@pytest.mark.parametrize("deep", ["[" * 6 + "]" * 6, "[" * 5000 + "]" * 5000, '{"a":' * 100_000])
def test_json_nested_too_deeply_is_400(tight: Client, deep: str) -> None:
    body = ujson.dumps(tight.body("hi"))[:-1] + f', "options": {deep}}}'
    response = tight.http.post("/llmchat", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert "too deeply" in response.json()["error"]
    assert tight.ask("hi", format=[[[[[]]]], [], [], [], []])[-1].json["done"] is True


@pytest.mark.parametrize("path", ["/llmchat", "/llmprompt"])
def test_a_prompt_with_too_many_characters_is_413_and_images_do_not_count(tight: Client, path: str) -> None:
    message = {"role": "user", "content": "é" * 60, "images": ["a" * 5000]}
    prompts: dict[str, dict[str, Any]] = {
        "/llmchat": {"appID": "a" * 10, "model": "fake", "prompt": "é" * 60, "messages": [message]},
        "/llmprompt": {"appID": "a" * 10, "model": "fake", "prompt": "é" * 60, "images": ["a" * 5000]},
    }
    body = prompts[path]
    for more in ({"system": "s" * 100}, {"options": {"images": ["a" * 200]}}, {"Images": ["a" * 200]}):
        response = tight.http.post(path, json=body | more)
        assert response.status_code == 413
        assert "200" in response.json()["error"]
    elsewhere = {"/llmchat": "/llmprompt", "/llmprompt": "/llmchat"}[path]  # where Ollama reads no images
    assert tight.http.post(path, json=prompts[elsewhere] | body).status_code == 413
    assert tight.http.post(path, json=body, headers={"Prefer": "respond-async"}).status_code in (200, 202)


def test_a_prompt_for_llmprompt_that_is_not_utf_8_is_400(tight: Client) -> None:
    headers = {"Content-Type": "application/json"}
    for value in (b'"\xff"', b'{"x":"\xed\xa0\x80"}', b'"' + b"a" * 100_000 + b'\xc3"'):
        response = tight.http.post("/llmprompt", content=b'{"model":"fake","prompt":' + value + b"}", headers=headers)
        assert response.status_code == 400
        assert "not valid UTF-8" in response.json()["error"]


@pytest.mark.parametrize("long", [line("x" * 900), b"", b"x" * 10_000])
def test_a_reply_beyond_the_limit_ends_with_an_error_and_its_text_is_stored(
    tight: Client, ollama: ScriptedOllama, long: bytes
) -> None:
    ollama.script(Head(), Lines(line("text")), *[Body(long + b"\n" * 2000)] * 1000, Gate())
    *_, last = tight.ask("hi")
    assert (last.name, last.json) == (
        "error",
        {"error": TOO_LONG.format(REPLY_BYTES)},
    )
    ollama.arrival(0).wait().closed.wait()
    assert tight.messages()[1][1].startswith("text")
    assert tight.history()["messages"][1]["status"] == "truncated"


# Viewers.


def test_a_viewer_beyond_the_limit_is_503_and_its_prompt_is_not_stored(tight: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    other = Client(str(tight.http.base_url))
    with other.http, tight.prompt("hi") as stream:
        stream.next()
        path = stream.response.headers["Content-Location"]
        with tight.follow(path) as second:
            second.next()
            for response in (other.http.get(path), other.http.post("/llmchat", json=other.body("second"))):
                assert response.status_code == 503
                assert int(response.headers["Retry-After"]) > 0
                assert "streaming to as many" in response.json()["error"]
            assert other.messages() == []
            other.begin("third")
            gate.open()
            second.rest()
        stream.rest()
        assert len(other.view(path)) == 2
