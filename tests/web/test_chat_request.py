"""The parser of prompts: what becomes a message, what is passed on to Ollama, and which error names which field."""

from typing import Any

import msgspec
import pytest

from db.messages import Message
from errors import BadRequest, UnprocessableContent
from relay.generation.prompt import Prompt
from web import chat_request
from web.chat_request import check_appid, parse_chat_request


def parse(body: Any, key: str | None = None, max_messages: int = 10, max_depth: int = 10) -> Prompt:
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return parse_chat_request(encoded, "tenant", key, max_messages, max_depth)


def body(**fields: Any) -> dict[str, Any]:
    return {"appID": "a", "model": "m", "messages": []} | fields


def test_a_prompt_has_its_tenant_conversation_model_key_and_messages() -> None:
    prompt = parse(body(messages=[{"role": "user", "content": "hi"}]), key="k")
    assert (prompt.tenant, prompt.appid, prompt.model) == ("tenant", "a", "m")
    assert prompt.messages == [Message("user", "hi", None)]
    assert prompt.idempotency_key == "k"


def test_further_fields_are_kept_byte_for_byte() -> None:
    prompt = parse(b'{"appID":"a","model":"m","messages":[],"options":{"seed": 1e2,"x":"\\u0000"},"stream":true}')
    assert {name: bytes(raw) for name, raw in prompt.options.items()} == {
        "options": b'{"seed": 1e2,"x":"\\u0000"}',
        "stream": b"true",
    }


def test_further_fields_of_a_message_are_kept_as_json() -> None:
    [message] = parse(body(messages=[{"role": "tool", "content": "3", "tool_name": "add"}])).messages
    assert message == Message("tool", "3", '{"tool_name":"add"}')


def test_a_message_that_only_calls_tools_has_an_empty_content() -> None:
    [message] = parse(body(messages=[{"role": "assistant", "tool_calls": []}])).messages
    assert message == Message("assistant", "", '{"tool_calls":[]}')


@pytest.mark.parametrize(
    ("encoded", "sentence"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"appID":"\xff"}', "not JSON"),
        (b'{"appID":"a","x":"\xff"}', "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'"a"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"x":' + b"[" * 10 + b"]" * 10 + b"}", "at most 10 levels"),
        (b'{"x":' * 100_000, "at most 10 levels"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_a_bad_request(encoded: bytes, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        parse(encoded)


def test_nesting_up_to_the_limit_is_accepted() -> None:
    nested: Any = []
    for _ in range(8):
        nested = [nested]
    assert parse(body(options=nested)).options


def test_a_body_with_too_many_values_is_a_bad_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_request, "MAX_JSON_TOKENS", 20)
    assert parse(body(x="," * 100))
    with pytest.raises(BadRequest, match="too many values"):
        parse(body(x=[1] * 20))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"appID": None}, "appID is missing"),
        ({"appID": ""}, "appID is missing"),
        ({"appID": 7}, "appID must be a string"),
        ({"appID": "é" * 156}, "appID is too long: it may have 155"),
        ({"model": None}, "model is missing"),
        ({"model": ["m"]}, "model is missing"),
        ({"messages": None}, "messages must be a list"),
        ({"messages": {}}, "messages must be a list"),
        ({"messages": [{"role": "user", "content": "hi"}] * 11}, "messages has 11 entries; one prompt may have 10"),
        ({"messages": ["hi"]}, r"messages\[0\] must be an object"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, r"messages\[0\].role must be one of system, user"),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "user"}]}, r"messages\[1\].content must be"),
    ],
)
def test_an_invalid_field_is_named(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnprocessableContent, match=sentence):
        parse(body(**changed))


@pytest.mark.parametrize("key", ["", "k" * 256, "a\0b"])
def test_an_invalid_idempotency_key_is_named(key: str) -> None:
    with pytest.raises(UnprocessableContent, match="Idempotency-Key must have 1 to 255 characters"):
        parse(body(), key=key)


@pytest.mark.parametrize("key", [None, "k", "k" * 255, "é\n"])
def test_a_valid_idempotency_key_is_kept(key: str | None) -> None:
    assert parse(body(), key=key).idempotency_key == key


def test_an_appid_of_155_characters_is_accepted() -> None:
    assert check_appid("é" * 155) == "é" * 155
