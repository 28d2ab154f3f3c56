"""A POST with ``Last-Event-ID`` is a reconnect: eight well-known SSE libraries repeat a POST with it."""

import pytest

from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line


def test_it_goes_on_with_the_reply_that_the_same_prompt_began(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("a"), line("b")), gate := Gate(), Lines(last_line("c")))
    with client.prompt("hi") as stream:
        path = stream.response.headers["Content-Location"]
        assert [stream.next(), stream.next()][-1]
    with client.prompt("hi", headers={"Last-Event-ID": "0"}) as stream:
        assert stream.response.headers["Content-Location"] == path
        gate.open()
        assert [event.id for event in stream.rest()] == [1, 2]
    assert client.messages() == [("user", "hi"), ("assistant", "abc")]
    assert len(ollama.generations) == 1


def test_a_reply_of_which_all_was_seen_is_204(client: Client) -> None:
    """Six of the libraries repeat a POST even after a clean end."""
    last = client.ask("hi")[-1].id
    for _ in range(2):
        answer = client.http.post("/llmchat", json=client.body("hi"), headers={"Last-Event-ID": str(last)})
        assert (answer.status_code, answer.content) == (204, b"")
    assert len(client.messages()) == 2


def test_with_an_idempotency_key_it_goes_on_with_the_reply_of_the_key(client: Client, ollama: ScriptedOllama) -> None:
    key = {"Idempotency-Key": "k"}
    events = client.ask("hi", headers=key)
    client.ask("another prompt")
    assert client.ask("hi", headers=key | {"Last-Event-ID": "1"}) == events[2:]
    unknown = {"Idempotency-Key": "unknown", "Last-Event-ID": "1"}
    assert client.http.post("/llmchat", json=client.body("x"), headers=unknown).status_code == 409
    assert len(ollama.generations) == 2


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "other"}]},
        {"messages": [{"role": "user", "content": "hi"}] * 2},
        {"messages": [{"role": "user", "content": "hi", "images": ["aGk="]}]},
        {"messages": [{"role": "system", "content": "hi"}]},
        {"model": "other"},
    ],
    ids=str,
)
def test_another_prompt_is_409_and_records_nothing(client: Client, ollama: ScriptedOllama, body: object) -> None:
    client.ask("hi")
    rejected = client.http.post("/llmchat", json=client.body("hi") | dict(body), headers={"Last-Event-ID": "1"})  # type: ignore[call-overload]
    assert rejected.status_code == 409 and "Last-Event-ID" in rejected.json()["error"]
    assert "Location" not in rejected.headers
    assert len(client.messages()) == 2 and len(ollama.generations) == 1


def test_a_prompt_that_was_never_recorded_is_409(client: Client, ollama: ScriptedOllama) -> None:
    assert client.http.post("/llmchat", json=client.body("hi"), headers={"Last-Event-ID": "4"}).status_code == 409
    assert client.messages() == [] and not ollama.generations


def test_the_prompts_before_the_newest_are_not_found(client: Client) -> None:
    client.ask("one")
    client.ask("two")
    assert client.http.post("/llmchat", json=client.body("one"), headers={"Last-Event-ID": "1"}).status_code == 409


def test_several_messages_and_further_fields_are_compared_as_sent(client: Client) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi", "images": ["aGk="], "x": 1.0}]
    events = client.ask(messages=messages)
    assert client.ask(messages=messages, headers={"Last-Event-ID": "2"}) == events[3:]


def test_an_empty_list_of_messages_finds_the_newest_reply(client: Client) -> None:
    client.ask("hi", options={"num_predict": 2})
    events = client.ask(options={"num_predict": 2})
    assert client.ask(headers={"Last-Event-ID": "0"}) == events[1:]


def test_an_id_that_is_no_number_is_400(client: Client) -> None:
    assert client.http.post("/llmchat", json=client.body("hi"), headers={"Last-Event-ID": "x"}).status_code == 400
    assert client.messages() == []


def test_with_prefer_respond_async_it_responds_with_the_location(client: Client) -> None:
    path = client.begin("hi")
    client.view(path)
    assert client.begin("hi", headers={"Last-Event-ID": "1"}) == path
    assert len(client.messages()) == 2
