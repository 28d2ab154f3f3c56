"""Limits of requests per minute and of concurrent replies, per tenant and per address: 429 with Retry-After."""

from collections.abc import Callable

import httpx
import pytest

from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line
from tests.program import Program
from tests.raw import head, raw

MEGABYTE = b"x" * 1_000_000


@pytest.fixture
def start_limited(start_chatterd: Callable[..., Program], database_url: str) -> Callable[..., Client]:
    def start(**settings: object) -> Client:
        return Client(start_chatterd(database_url=database_url, **settings).url)

    return start


def too_many(response: httpx.Response) -> str:
    assert response.status_code == 429, response.text
    assert int(response.headers["Retry-After"]) > 0
    return str(response.json()["error"])


def test_requests_beyond_a_tenants_rate_are_429_and_pages_and_probes_are_exempt(
    start_limited: Callable[..., Client],
) -> None:
    client = start_limited(requests_per_minute=3)
    with client.http:
        for path in ["/healthz", "/readyz", "/metrics", "/", "/status", "/docs", "/static/chat/chat.js"] * 2:
            assert client.http.get(path).status_code == 200
        client.ask("hi")
        client.history()
        assert client.http.get("/models").status_code == 200
        for path in ("/models", f"/llmchat?appID={client.appid}", "/nope"):
            assert "3 requests per minute" in too_many(client.http.get(path))
        assert "minute" in too_many(client.http.post("/llmchat", json=client.body("x" * 10_000_000)))
        with raw(str(client.http.base_url)) as connection:  # the body is sent before the response is read
            connection.send(head("/llmprompt", "Content-Length: 10000000") + MEGABYTE * 10)
            assert connection.answer().status == 429
        assert client.http.get("/healthz").status_code == 200


def test_requests_count_for_the_address_forwarded_by_a_trusted_proxy(start_limited: Callable[..., Client]) -> None:
    client = start_limited(address_requests_per_minute=1, trusted_proxies="127.0.0.0/8")
    with client.http:
        for address, status in [
            ("192.0.2.1", 200),
            ("192.0.2.1", 429),
            ("10.9.9.9, 192.0.2.1", 429),
            ("192.0.2.2", 200),
            ("2001:db8::1", 200),
            ("2001:db8::2", 429),
        ]:
            assert client.http.get("/models", headers={"X-Forwarded-For": address}).status_code == status


def test_x_forwarded_for_of_an_untrusted_peer_is_ignored(start_limited: Callable[..., Client]) -> None:
    client = start_limited(address_requests_per_minute=1, trusted_proxies="192.0.2.1")
    with client.http:
        for status, number in ((200, 1), (429, 2), (429, 3)):
            response = client.http.get("/models", headers={"X-Forwarded-For": f"192.0.2.{number}"})
            assert response.status_code == status


@pytest.mark.parametrize("setting", ["max_replies_per_tenant", "max_replies_per_address"])
def test_a_reply_beyond_the_limit_is_429_until_another_has_ended(
    start_limited: Callable[..., Client], ollama: ScriptedOllama, setting: str
) -> None:
    gate = Gate()
    ollama.script(Head(), gate, Lines(last_line("a")))
    client = start_limited(**{setting: 1})
    other = Client(str(client.http.base_url))
    key = {"Idempotency-Key": "k"}
    with client.http, other.http:
        path = client.begin("hi", headers=key)
        assert "1 replies in progress" in too_many(other.http.post("/llmchat", json=other.body("second")))
        assert other.messages() == []
        too_many(other.http.post("/llmprompt", json={"model": "fake", "prompt": "second"}))
        too_many(client.http.post("/llmchat", json=client.body("hi"), headers={"Idempotency-Key": "other"}))
        assert client.begin("hi", headers=key) == path  # a retry is not a second reply
        gate.open()
        assert len(client.view(path)) == 1
        assert other.ask("second")[-1].json["done"] is True
        assert other.http.post("/llmprompt", json={"model": "fake", "prompt": "hi"}).status_code == 200


def test_a_retried_prompt_succeeds_when_the_server_is_full(
    start_limited: Callable[..., Client], ollama: ScriptedOllama
) -> None:
    gate = Gate()
    ollama.script(Head(), gate, Lines(last_line("a")))
    client = start_limited(max_replies=1)
    with client.http:
        path = client.begin("hi", headers={"Idempotency-Key": "k"})
        assert client.begin("hi", headers={"Idempotency-Key": "k"}) == path
        another = client.body("hi") | {"appID": "another"}
        assert client.http.post("/llmchat", json=another).status_code == 503
        gate.open()
        client.view(path)
