"""Valid requests for every route, the input of the mutations. Without I/O."""

import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from uuid import UUID

from tests.hostile.odd_json import mutated, write
from tests.hostile.request import JSON, Request

FORGED = "smuggled"
"""The appID of forged requests, which must not be executed."""


def prompt(appid: str) -> dict[str, Any]:
    """Return the body of a prompt."""
    return {
        "appID": appid,
        "model": "fake",
        "messages": [{"role": "user", "content": "hi"}],
        "options": {"temperature": 0.5, "stop": ["x"]},
        "stream": True,
    }


def ask(chance: random.Random, appid: str, replies: list[str]) -> Request:
    """POST a prompt."""
    body = prompt(appid)
    if chance.random() < 0.3:
        tool = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
        body["messages"] += [tool, {"role": "tool", "content": "1", "tool_name": "f"}]
    request = Request(b"POST", b"/llmchat", [JSON], _body(chance, body))
    if chance.random() < 0.3:
        request.set(b"Prefer", b"respond-async")
    if chance.random() < 0.3:
        request.set(b"Idempotency-Key", appid.encode())
    return request


def generate(chance: random.Random, appid: str, replies: list[str]) -> Request:
    """POST a request that is passed on to Ollama."""
    body = {"model": "fake", "prompt": appid, "options": {"seed": 1}, "images": []}
    return Request(b"POST", b"/llmprompt", [JSON], _body(chance, body))


def read(chance: random.Random, appid: str, replies: list[str]) -> Request:
    """GET a conversation."""
    query = f"appID={quote(appid)}&limit={chance.choice([1, 500])}&before={chance.choice([1, 10**17])}"
    return Request(b"GET", b"/llmchat?" + query.encode())


def forget(chance: random.Random, appid: str, replies: list[str]) -> Request:
    """DELETE a conversation."""
    return Request(b"DELETE", f"/llmchat?appID={quote(appid)}{chance.choice(['', '&from=1'])}".encode())


def follow(chance: random.Random, appid: str, replies: list[str]) -> Request:
    """GET a reply."""
    request = Request(b"GET", chance.choice([*replies, f"/llmchat/{UUID(int=0)}"]).encode())
    if chance.random() < 0.5:
        request.set(b"Last-Event-ID", b"%d" % chance.choice([0, 3, 99]))
    return request


def stop(chance: random.Random, appid: str, replies: list[str]) -> Request:
    """DELETE a reply."""
    return Request(b"DELETE", chance.choice([*replies, f"/llmchat/{UUID(int=0)}"]).encode())


def look(chance: random.Random, appid: str, replies: list[str]) -> Request:
    """GET or HEAD a route without parameters."""
    paths = "/ /docs /status /static/openapi.json /static/../server.py /models /healthz /readyz /nope"
    return Request(chance.choice([b"GET", b"GET", b"HEAD"]), chance.choice(paths.split()).encode())


Maker = Callable[[random.Random, str, list[str]], Request]

MAKERS: dict[Maker, int] = {ask: 8, generate: 3, read: 2, forget: 1, follow: 2, stop: 1, look: 2}
"""The weights of the requests."""


def any_request(chance: random.Random, appid: str, replies: list[str]) -> Request:
    """Return a random request."""
    [make] = chance.choices([*MAKERS], [*MAKERS.values()])
    request = make(chance, appid, replies)
    if request.body and chance.random() < 0.2:
        request.framing = "chunked"
    return request


def forged() -> bytes:
    """Return a complete prompt that must never be executed."""
    body = write(prompt(FORGED))
    return Request(b"POST", b"/llmchat", [JSON], body).data


def last(name: str) -> bytes:
    """Return the last request of a connection; its ``X-Request-ID`` identifies the answer."""
    fields = [(b"X-Request-ID", name.encode()), (b"Connection", b"close")]
    return Request(b"GET", b"/healthz", fields).data


def _body(chance: random.Random, body: dict[str, Any]) -> bytes:
    return mutated(chance, body) if chance.random() < 0.5 else json.dumps(body).encode()
