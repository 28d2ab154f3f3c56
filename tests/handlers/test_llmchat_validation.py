"""POST /llmchat with invalid input: the status, the error that names the field, and no stored message."""

import json
from typing import Any

import pytest

from tests.client import Client

VALID = {"role": "user", "content": "hi"}


def rejected(client: Client, status: int, **request: Any) -> str:
    """Send a request that must be rejected; return its error."""
    response = client.http.post("/llmchat", **request)
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert response.headers["X-Request-ID"]
    assert list(response.json()) == ["error"]
    assert client.messages() == []
    return str(response.json()["error"])


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
def test_another_content_type_is_415(client: Client, content_type: str) -> None:
    body = b'{"appID":"a","model":"m","messages":[]}'
    assert "application/json" in rejected(client, 415, content=body, headers={"Content-Type": content_type})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"appID":"a",}',
        b'"\xff"',
        b"[]",
        b"null",
        b"1",
        b'{"appID":"\xff","model":"m","messages":[]}',
        b'{"appID":"a","model":"m","messages":[],"options":{"x":"\xff"}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"appID":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_body_that_is_not_a_json_object_is_400(client: Client, body: bytes) -> None:
    assert "body" in rejected(client, 400, content=body, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"appID": None}, "appID"),
        ({"appID": ""}, "appID"),
        ({"appID": 7}, "appID"),
        ({"appID": ["a"]}, "appID"),
        ({"appID": "é" * 156}, "appID"),
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": {}}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": {"role": "user", "content": "hi"}}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [VALID, None]}, "messages[1]"),
        ({"messages": [VALID, {"content": "hi"}]}, "messages[1].role"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": None, "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content"),
    ],
)
def test_an_invalid_field_is_422_and_named(client: Client, change: dict[str, Any], field: str) -> None:
    assert field in rejected(client, 422, json=client.body("hi") | change)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"appID": "\ud83d"}, "appID"),
        ({"messages": [VALID, {"role": "user", "content": "a \ud83d"}]}, "messages[1].content"),
        ({"options": {"stop": ["\ude00"]}}, "options.stop[0]"),
    ],
)
def test_half_a_surrogate_pair_is_422_and_its_field_named(client: Client, change: dict[str, Any], field: str) -> None:
    content = json.dumps(client.body("hi") | change).encode()
    error = rejected(client, 422, content=content, headers={"Content-Type": "application/json"})
    assert error.startswith(f"{field} contains half of a surrogate pair")


@pytest.mark.parametrize("field", ["appID", "model", "messages"])
def test_a_missing_field_is_422_and_named(client: Client, field: str) -> None:
    body = client.body("hi")
    del body[field]
    assert field in rejected(client, 422, json=body)


def test_an_appid_of_155_characters_is_accepted(client: Client) -> None:
    client.appid = "é" * 142 + client.appid[-13:]
    assert len(client.appid) == 155
    assert client.ask("hi")[-1].json["done"] is True


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_an_idempotency_key_beyond_255_characters_is_422(client: Client, key: str) -> None:
    assert "Idempotency-Key" in rejected(client, 422, json=client.body("hi"), headers={"Idempotency-Key": key})


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [VALID, {"role": "user", "content": "a\0b"}]},
        {"messages": [VALID, {"role": "user", "content": "a", "tool_name": "\0"}]},
        {"model": "a\0b"},
    ],
)
def test_text_that_the_database_cannot_store_is_406(client: Client, change: dict[str, Any]) -> None:
    assert "it contains a NUL character" in rejected(client, 406, json=client.body("hi") | change)


def test_a_nul_in_the_appid_is_406(client: Client) -> None:
    assert "it contains a NUL character" in rejected(client, 406, json=client.body("hi") | {"appID": "a\0b"})
    assert client.http.get("/llmchat", params={"appID": "a\0b"}).status_code == 406


def test_a_method_that_is_not_implemented_is_405_with_allow(client: Client) -> None:
    for method, path, allowed in [
        ("PUT", "/llmchat", {"GET", "POST", "DELETE"}),
        ("POST", "/llmchat/0", {"GET", "DELETE"}),
        ("GET", "/llmprompt", {"POST"}),
        ("POST", "/models", {"GET", "HEAD"}),
        ("DELETE", "/healthz", {"GET", "HEAD"}),
        ("POST", "/readyz", {"GET", "HEAD"}),
    ]:
        response = client.http.request(method, path)
        assert response.status_code == 405, path
        assert set(response.headers["Allow"].split(", ")) == allowed
        assert "error" in response.json()


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT"])
def test_an_unknown_path_is_404(client: Client, method: str) -> None:
    response = client.http.request(method, "/nope")
    assert response.status_code == 404
    assert "error" in response.json()
