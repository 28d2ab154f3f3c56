"""Handlers in the test's own process and loop, on real parts: the example to copy for a handler's tests."""

import asyncio
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
import ujson
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.ioloop import IOLoop
from tornado.web import Application

from auth.origins import AllowedOrigins
from db import messages, processes
from db.pool import Database
from handlers import create_application
from relay.factory import create_relay
from relay.generation import generation
from relay.metrics import Metrics
from relay.ollama.client import OllamaClient
from relay.reporting import sampler
from settings import Settings
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from web.services import Services, create_services

Steps = Generator[Any, Any, None]


@pytest.fixture
def services(io_loop: IOLoop, database_url: str, ollama: ScriptedOllama) -> Iterator[Services]:
    """All parts of a chatterd but its sockets, wired as ``server.py`` does it."""
    asyncio.set_event_loop(io_loop.asyncio_loop)  # type: ignore[attr-defined]  # what made the database has run a loop of its own meanwhile
    settings = Settings(database_url=database_url, heartbeat_interval=0.05, client_write_timeout=0.5)
    database = Database(database_url, settings.pool_size, settings.acquire_timeout)
    stack = AsyncExitStack()

    async def start() -> Services:
        await database.open()
        model = OllamaClient(ollama.url, settings.max_replies, settings.connect_timeout)
        metrics = Metrics()
        relay = await create_relay(stack, database, model, settings, metrics)
        return create_services(settings, database, model, relay, metrics, None, AllowedOrigins())

    async def stop() -> None:
        await made.replies.drain(0)
        await stack.aclose()
        made.ollama.close()
        await database.close()

    made = io_loop.run_sync(start)
    yield made
    io_loop.run_sync(stop)


@pytest.fixture
def app(services: Services) -> Application:
    """What pytest-tornado serves at ``base_url``."""
    return create_application(services)


def prompt(base_url: str, **more: Any) -> HTTPRequest:
    body = {"appID": "a", "model": "fake", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"Content-Type": "application/json"}
    return HTTPRequest(base_url + "/llmchat", method="POST", headers=headers, body=ujson.dumps(body), **more)


@pytest.mark.gen_test
def test_a_prompt_and_its_reply_are_stored(http_client: AsyncHTTPClient, base_url: str, services: Services) -> Steps:
    response: HTTPResponse = yield http_client.fetch(prompt(base_url))
    assert response.code == 200
    assert response.body.count(b"data: ") == 6

    async def recorded() -> list[str]:
        async with services.database.acquire() as connection:
            return [one.message.content for one in await messages.read_page(connection, "", "a", 10, None)]

    contents = yield recorded()
    assert contents == ["hi", "w0 w1 w2 w3 w4 "]


@pytest.mark.gen_test
def test_events_are_sent_as_they_are_committed(
    http_client: AsyncHTTPClient, base_url: str, ollama: ScriptedOllama
) -> Steps:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    seen: list[bytes] = []

    def take(chunk: bytes) -> None:
        seen.append(chunk)
        if b": waiting" in chunk and b'"content":"a"' in b"".join(seen):
            gate.open()

    yield http_client.fetch(prompt(base_url, streaming_callback=take))
    whole = b"".join(seen)
    assert whole.index(b'"content":"a"') < whole.rindex(b": waiting") < whole.index(b'"content":"b"')


@pytest.mark.gen_test
def test_a_draining_server_rejects_prompts(http_client: AsyncHTTPClient, base_url: str, services: Services) -> Steps:
    services.replies.draining = True
    response: HTTPResponse = yield http_client.fetch(prompt(base_url), raise_error=False)
    assert (response.code, list(ujson.loads(response.body))) == (503, ["error"])
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.gen_test
def test_a_response_that_ollama_keeps_open_after_done_is_closed(
    http_client: AsyncHTTPClient, base_url: str, ollama: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> Steps:
    monkeypatch.setattr(generation, "DONE_GRACE", 0.01)
    ollama.script(Head(), Lines(last_line("z")), Gate())
    yield http_client.fetch(prompt(base_url))
    yield ollama.requests[0].closed


@pytest.mark.gen_test
def test_any_number_of_status_watchers_share_one_query(
    http_client: AsyncHTTPClient, base_url: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> Steps:
    monkeypatch.setattr(sampler, "INTERVAL", 0.01)
    monkeypatch.setattr(sampler, "CHECK_INTERVAL", 1_000.0)
    looks: list[None] = []
    list_processes = processes.list_processes

    def count_looks(connection: Any) -> Any:
        looks.append(None)
        return list_processes(connection)

    monkeypatch.setattr(processes, "list_processes", count_looks)
    yield services.status.wait(services.status.count + 1)
    assert not looks
    told = [0, 0, 0]

    def watcher(number: int) -> Callable[[bytes], None]:
        def take(chunk: bytes) -> None:
            told[number] += chunk.count(b"event: message")
            if min(told) > 5:
                services.status.ended = True

        return take

    requests = (HTTPRequest(base_url + "/status/events", streaming_callback=watcher(number)) for number in range(3))
    yield asyncio.gather(*(http_client.fetch(request) for request in requests))
    assert len(looks) == 1


@pytest.mark.gen_test
def test_a_status_watcher_that_does_not_read_is_dropped(
    http_client: AsyncHTTPClient, base_url: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> Steps:
    monkeypatch.setattr(sampler, "INTERVAL", 0.01)
    monkeypatch.setattr(sampler.StatusSampler, "newest", b'"' + 1_000_000 * b"x" + b'"')
    address = urlsplit(base_url)
    with socket.create_connection((address.hostname, address.port)) as stuck:
        stuck.sendall(b"GET /status/events HTTP/1.1\r\nHost: x\r\n\r\n")

        def dropped() -> bool:
            return not services.status.watchers

        async def until(holds: Callable[[], bool]) -> None:
            async with asyncio.timeout(10):
                while not holds():
                    await asyncio.sleep(0.01)

        yield until(lambda: not dropped())
        yield until(dropped)
