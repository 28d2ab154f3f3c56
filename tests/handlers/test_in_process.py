"""Handlers in the test's own process and event loop, with database and scripted Ollama: a template for such tests."""

import asyncio
import gc
import socket
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import ujson
from tornado.http1connection import HTTP1Connection
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.ioloop import IOLoop
from tornado.simple_httpclient import HTTPStreamClosedError
from tornado.web import Application

from auth.origins import AllowedOrigins
from auth.rate_limit import network_of
from db import messages, processes
from db.pool import Database
from handlers import create_application
from handlers.llmprompt import GenerateHandler
from relay.factory import create_relay
from relay.generation import attempt
from relay.metrics import Metrics
from relay.ollama.client import OllamaClient, StreamingCall
from relay.ollama.upstreams import Upstreams
from relay.outgoing import RequestBody
from relay.reporting import sampler
from settings import Settings
from tests.fakes.ollama import Body, Close, Gate, Head, Lines, ScriptedOllama, Send, Step, failure, last_line, line
from tests.raw import head
from web.services import Services, create_services

Steps = Generator[Any, Any, None]


async def until(condition: Callable[[], bool]) -> None:
    """Poll until a condition holds.

    :raises TimeoutError: it did not hold within 10 seconds.
    """
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def services(io_loop: IOLoop, database_url: str, ollama: ScriptedOllama) -> Iterator[Services]:
    """All components but the HTTP server, created as in ``server.py``."""
    asyncio.set_event_loop(io_loop.asyncio_loop)  # type: ignore[attr-defined]  # the fixture of the database ran another loop
    settings = Settings(database_url=database_url, heartbeat_interval=0.05, client_write_timeout=0.5)
    database = Database(database_url, settings.pool_size, settings.acquire_timeout)
    stack = AsyncExitStack()

    async def start() -> Services:
        await database.open()
        model = OllamaClient(ollama.url, settings.max_replies, settings.connect_timeout)
        metrics = Metrics()
        relay = await create_relay(stack, database, Upstreams(model), settings, metrics)
        return create_services(settings, database, Upstreams(model), relay, metrics, None, AllowedOrigins())

    async def stop() -> None:
        await created.replies.drain(0)
        await stack.aclose()
        created.upstreams.ollama.close()
        await database.close()

    created = io_loop.run_sync(start)
    yield created
    io_loop.run_sync(stop)


@pytest.fixture
def app(services: Services) -> Application:
    """The application that pytest-tornado serves at ``base_url``."""
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

    async def stored() -> list[str]:
        async with services.database.acquire() as connection:
            return [one.message.content for one in await messages.read_page(connection, "", "a", 10, None)]

    contents = yield stored()
    assert contents == ["hi", "w0 w1 w2 w3 w4 "]


@pytest.mark.gen_test
def test_events_are_sent_as_they_are_committed(
    http_client: AsyncHTTPClient, base_url: str, ollama: ScriptedOllama
) -> Steps:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    received: list[bytes] = []

    def receive(chunk: bytes) -> None:
        received.append(chunk)
        if b": waiting" in chunk and b'"content":"a"' in b"".join(received):
            gate.open()

    yield http_client.fetch(prompt(base_url, streaming_callback=receive))
    body = b"".join(received)
    assert body.index(b'"content":"a"') < body.rindex(b": waiting") < body.index(b'"content":"b"')


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
    monkeypatch.setattr(attempt, "DONE_GRACE", 0.01)
    ollama.script(Head(), Lines(last_line("z")), Gate())
    yield http_client.fetch(prompt(base_url))
    yield ollama.generations[0].closed


@pytest.mark.gen_test
def test_any_number_of_status_watchers_share_one_query(
    http_client: AsyncHTTPClient, base_url: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> Steps:
    monkeypatch.setattr(sampler, "INTERVAL", 0.01)
    monkeypatch.setattr(sampler, "CHECK_INTERVAL", 1_000.0)
    queries: list[None] = []
    list_processes = processes.list_processes

    def count_queries(connection: Any) -> Any:
        queries.append(None)
        return list_processes(connection)

    monkeypatch.setattr(processes, "list_processes", count_queries)
    yield services.status.wait(services.status.count + 1)
    assert not queries
    events = [0, 0, 0]

    def watcher(number: int) -> Callable[[bytes], None]:
        def receive(chunk: bytes) -> None:
            events[number] += chunk.count(b"event: message")
            if min(events) > 5:
                services.status.ended = True

        return receive

    requests = (HTTPRequest(base_url + "/status/events", streaming_callback=watcher(number)) for number in range(3))
    yield asyncio.gather(*(http_client.fetch(request) for request in requests))
    assert len(queries) == 1


@pytest.mark.gen_test
def test_a_status_watcher_that_does_not_read_is_dropped(
    http_client: AsyncHTTPClient, base_url: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> Steps:
    monkeypatch.setattr(sampler, "INTERVAL", 0.01)
    monkeypatch.setattr(sampler.StatusSampler, "newest", b'"' + 1_000_000 * b"x" + b'"')
    address = urlsplit(base_url)
    with socket.create_connection((address.hostname, address.port)) as unread:
        unread.sendall(b"GET /status/events HTTP/1.1\r\nHost: x\r\n\r\n")

        def dropped() -> bool:
            return not services.status.watchers

        yield until(lambda: not dropped())
        yield until(dropped)


@pytest.mark.gen_test
def test_any_number_of_probes_share_one_statement(services: Services, monkeypatch: pytest.MonkeyPatch) -> Steps:
    statements: list[None] = []
    ping = Database.ping

    async def count(database: Database) -> None:
        statements.append(None)
        await ping(database)

    monkeypatch.setattr(Database, "ping", count)
    for round in (1, 2):
        states = yield asyncio.gather(*(services.health.ping(10) for _ in range(100)))
        assert {(reason, ollama.name) for reason, ollama in states} == {(None, "ok")}
        assert len(statements) == round


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "steps",
    [(), (failure(404, "no such model"),), (Send(b""), Close()), (Head(), Body(b"{}\n"), Close()), (Gate("never"),)],
    ids=["complete", "error", "no response", "cut off", "silence"],
)
def test_nothing_holds_the_body_of_llmprompt_when_its_response_has_ended(
    http_client: AsyncHTTPClient,
    base_url: str,
    services: Services,
    ollama: ScriptedOllama,
    monkeypatch: pytest.MonkeyPatch,
    steps: tuple[Step, ...],
) -> Steps:
    """A reference cycle would hold it until Python's cyclic garbage collector runs, which ignores sizes."""
    handlers: list[weakref.ref[GenerateHandler]] = []
    calls: list[weakref.ref[StreamingCall]] = []
    initialize, respond = GenerateHandler.initialize, GenerateHandler._respond

    def note_handler(handler: GenerateHandler) -> None:
        handlers.append(weakref.ref(handler))
        initialize(handler)

    async def note_call(handler: GenerateHandler, call: StreamingCall) -> None:
        calls.append(weakref.ref(call))
        await respond(handler, call)

    monkeypatch.setattr(GenerateHandler, "initialize", note_handler)
    monkeypatch.setattr(GenerateHandler, "_respond", note_call)
    object.__setattr__(services.settings, "first_line_timeout", 0.3)
    if steps:
        ollama.script(*steps)
    request = HTTPRequest(
        base_url + "/llmprompt",
        method="POST",
        headers={"Content-Type": "application/json"},
        body=ujson.dumps({"model": "fake", "prompt": "x" * 1_000_000}),
    )
    gc.collect()
    gc.disable()
    try:
        with suppress(HTTPStreamClosedError):
            yield http_client.fetch(request, raise_error=False)
        yield until(lambda: [ref() for ref in handlers] + [ref() for ref in calls] == [None, None])
    finally:
        gc.enable()
    assert services.body_limits.senders.charged == 0


@pytest.mark.gen_test
def test_ollama_is_not_asked_for_a_client_that_left_while_its_body_was_parsed(
    http_client: AsyncHTTPClient, base_url: str, ollama: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> Steps:
    relayed: list[GenerateHandler] = []
    relay = GenerateHandler._relay

    async def relay_later(handler: GenerateHandler, client: OllamaClient, body: RequestBody) -> None:
        stream = cast(HTTP1Connection, handler.request.connection).stream
        relayed.append(handler)
        await until(stream.closed)
        await relay(handler, client, body)
        assert handler.log_fields == {"abort_reason": "client left"}
        relayed.append(handler)

    monkeypatch.setattr(GenerateHandler, "_relay", relay_later)
    address = urlsplit(base_url)
    with socket.create_connection((address.hostname, address.port)) as leaving:
        leaving.sendall(head("/llmprompt", "Content-Length: 2") + b"{}")
        yield until(lambda: len(relayed) == 1)
    yield until(lambda: len(relayed) == 2)
    assert ollama.requests == []


@pytest.mark.gen_test
def test_a_response_goes_on_while_its_sender_has_used_up_its_share_of_memory(
    http_client: AsyncHTTPClient, base_url: str, services: Services, ollama: ScriptedOllama
) -> Steps:
    """A client that keeps up with Ollama is not behind, whatever the sender's other requests take."""
    gate, senders = Gate(), services.body_limits.senders
    ollama.script(Head(), Body(b"a"), gate, Body(b"b" * 10_000))
    headers = {"Content-Type": "application/json"}
    response = http_client.fetch(base_url + "/llmprompt", method="POST", headers=headers, body="{}")
    yield asyncio.to_thread(gate.reached.wait)
    uploads = senders.charge(network_of("127.0.0.1"))
    size = services.settings.max_total_body_bytes
    while size := size // 2:
        uploads.grow(size)
    gate.open()
    assert (yield response).body == b"a" + b"b" * 10_000
    uploads.release()
    assert senders.charged == 0
