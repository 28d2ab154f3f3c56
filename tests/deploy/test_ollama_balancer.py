"""deploy/haproxy-ollama.cfg in use: a real HAProxy between clients, or the program, and two scripted Ollamas."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.balancers import DEPLOY, OllamaBalancer, free_ports
from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import Close, Gate, Head, Lines, ScriptedOllama, Words, failure, last_line, line
from tests.program import Program

pytestmark = pytest.mark.needs("haproxy")

KEY = "X-Conversation-Key"
MAX_CONNECTIONS = 4
"""``maxconn`` of each server in the file."""

LARGEST_RETRIED = 200_000
"""Bytes of a request that still fits into the buffer that the file gives it."""


@pytest.fixture(scope="module")
def _ollamas() -> Iterator[list[ScriptedOllama]]:
    with ScriptedOllama() as first, ScriptedOllama() as second:
        yield [first, second]


@pytest.fixture
def ollamas(_ollamas: list[ScriptedOllama]) -> list[ScriptedOllama]:
    for ollama in _ollamas:
        ollama.forget()
    return _ollamas


@pytest.fixture
def balancer(ollamas: list[ScriptedOllama]) -> Iterator[OllamaBalancer]:
    with OllamaBalancer(free_ports(1)[0], [ollama.port for ollama in ollamas]) as balancer:
        yield balancer


def key(conversation: object) -> str:
    return hashlib.sha256(str(conversation).encode()).hexdigest()


def chat(balancer: OllamaBalancer, conversation: object = None, content: str = "hi", model: str = "fake") -> str:
    """Request a reply as chatterd does, and return its text."""
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    headers = {KEY: key(conversation)} if conversation is not None else {}
    answer = httpx.post(f"{balancer.url}/api/chat", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return "".join(json.loads(one)["message"]["content"] for one in answer.text.splitlines())


def counts(ollamas: list[ScriptedOllama]) -> list[int]:
    return [len(ollama.generations) for ollama in ollamas]


def conversation_of(balancer: OllamaBalancer, ollamas: list[ScriptedOllama], number: int) -> int:
    """Return a conversation whose requests lead to that Ollama."""
    for conversation in range(100):
        before = counts(ollamas)
        chat(balancer, conversation)
        if counts(ollamas)[number] > before[number]:
            return conversation
    raise AssertionError("all conversations lead to the same Ollama")


def lines_for_routing() -> list[str]:
    """Return the commented lines of the file that route by model."""
    lines = (DEPLOY / "haproxy-ollama.cfg").read_text().splitlines()
    backend = lines[lines.index("#backend large_models") :]
    return [*(one for one in lines if "txn.model" in one), *backend]


@contextmanager
def in_background(count: int, call: Callable[[], str]) -> Iterator[list["Future[str]"]]:
    """Call a function so many times at once."""
    with ThreadPoolExecutor(count) as pool:
        yield [pool.submit(call) for _ in range(count)]


def test_haproxy_accepts_the_shipped_file() -> None:
    done = subprocess.run(["haproxy", "-c", "-f", str(DEPLOY / "haproxy-ollama.cfg")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


# Which Ollama.


def test_a_conversation_stays_with_its_ollama(balancer: OllamaBalancer, ollamas: list[ScriptedOllama]) -> None:
    for _ in range(5):
        assert chat(balancer, "a") == "w0 w1 w2 w3 w4 "
    assert sorted(counts(ollamas)) == [0, 5]


def test_conversations_are_spread(balancer: OllamaBalancer, ollamas: list[ScriptedOllama]) -> None:
    for conversation in range(40):
        chat(balancer, conversation)
    assert min(counts(ollamas)) >= 10


def test_chats_and_raw_prompts_of_a_conversation_go_to_the_same_ollama(
    balancer: OllamaBalancer, ollamas: list[ScriptedOllama]
) -> None:
    chat(balancer, "a")
    for ollama in ollamas:
        ollama.default = (Head(), Lines(last_line()))
    body = {"model": "fake", "prompt": "w0 ", "raw": True}
    assert httpx.post(f"{balancer.url}/api/generate", json=body, headers={KEY: key("a")}).status_code == 200
    assert sorted(counts(ollamas)) == [0, 2]


def test_questions_about_the_model_of_a_conversation_go_to_the_ollama_that_has_it(
    balancer: OllamaBalancer, ollamas: list[ScriptedOllama]
) -> None:
    def questions() -> list[int]:
        return [sum(probe.path == "/api/ps" for probe in ollama.probes) for ollama in ollamas]

    for number in range(20):
        chat(balancer, number)
        assert httpx.get(f"{balancer.url}/api/ps", headers={KEY: key(number)}).status_code == 200
        assert questions() == counts(ollamas)


def test_requests_without_a_key_are_spread(balancer: OllamaBalancer, ollamas: list[ScriptedOllama]) -> None:
    for _ in range(10):
        chat(balancer)
    assert min(counts(ollamas)) >= 3


def test_a_model_can_be_routed_to_the_ollamas_that_have_it(ollamas: list[ScriptedOllama]) -> None:
    edits = {one: one.replace("#", "", 1) for one in lines_for_routing()}
    with OllamaBalancer(free_ports(1)[0], [ollama.port for ollama in ollamas], edits) as balancer:
        for conversation in range(10):
            chat(balancer, conversation, model="qwen3:235b")
        assert counts(ollamas) == [0, 10]
        chat(balancer, "pictures", model="qwen3:235b", content="x" * 1_000_000)
        assert counts(ollamas) == [0, 11]
        for conversation in range(20):
            chat(balancer, conversation, model="fake")
        assert counts(ollamas)[0] > 0


# What one that is gone means.


def test_another_ollama_takes_over_and_gives_back(balancer: OllamaBalancer, ollamas: list[ScriptedOllama]) -> None:
    conversation = conversation_of(balancer, ollamas, 0)
    ollamas[0].stop_listening()
    before = counts(ollamas)
    for _ in range(3):
        chat(balancer, conversation)  # the refused connection is not seen, whether the check has noticed or not
    assert counts(ollamas) == [before[0], before[1] + 3]
    eventually("the check has noticed", lambda: "Server replies/ollama-1 is DOWN" in balancer.output)
    ollamas[0].listen_again()
    eventually("it is up again", lambda: "Server replies/ollama-1 is UP" in balancer.output)
    chat(balancer, conversation)
    assert counts(ollamas) == [before[0] + 1, before[1] + 3]


@pytest.mark.parametrize("answer", [Close(), failure(502, "bad gateway"), failure(503, "server busy")])
@pytest.mark.parametrize("content", ["hi", "x" * LARGEST_RETRIED], ids=["short", "long"])
def test_a_request_without_an_answer_is_sent_to_another(
    balancer: OllamaBalancer, ollamas: list[ScriptedOllama], answer: Close, content: str
) -> None:
    conversation = conversation_of(balancer, ollamas, 0)
    before = counts(ollamas)
    ollamas[0].script(answer)
    assert chat(balancer, conversation, content) == "w0 w1 w2 w3 w4 "
    assert counts(ollamas) == [before[0] + 1, before[1] + 1]
    assert ollamas[1].requests[-1].body == ollamas[0].requests[-1].body
    assert ollamas[1].requests[-1].json["messages"][-1]["content"] == content


def test_a_request_that_is_too_long_to_keep_is_answered_with_an_error(
    balancer: OllamaBalancer, ollamas: list[ScriptedOllama]
) -> None:
    body = {"model": "fake", "messages": [{"role": "user", "content": "x" * 1_000_000}]}
    for ollama in ollamas:
        ollama.default = (Close(),)
    answer = httpx.post(f"{balancer.url}/api/chat", json=body, headers={KEY: key("a")})
    assert (answer.status_code, list(answer.json())) == (502, ["error"])
    assert sum(counts(ollamas)) == 1  # chatterd sends it again


def test_an_error_of_the_request_is_passed_on(balancer: OllamaBalancer, ollamas: list[ScriptedOllama]) -> None:
    for status in (400, 404, 500):
        for ollama in ollamas:
            ollama.default = (failure(status, "no"),)
        before = sum(counts(ollamas))
        answer = httpx.post(f"{balancer.url}/api/chat", json={"model": "fake", "messages": []})
        assert (answer.status_code, answer.json()) == (status, {"error": "no"})
        assert sum(counts(ollamas)) == before + 1


def test_a_broken_answer_breaks_for_the_client_too(balancer: OllamaBalancer, ollamas: list[ScriptedOllama]) -> None:
    for ollama in ollamas:
        ollama.default = (Head(), Lines(line("w0 ")), Close())
    with pytest.raises(httpx.RemoteProtocolError):  # chatterd continues the reply; a clean end it would believe
        chat(balancer, "a")


def test_the_streams_of_an_ollama_that_is_down_are_closed(
    balancer: OllamaBalancer, ollamas: list[ScriptedOllama]
) -> None:
    conversation = conversation_of(balancer, ollamas, 0)
    gate = Gate()
    ollamas[0].script(Words(hold={1: gate}))
    with in_background(1, lambda: chat(balancer, conversation)) as [reply]:
        gate.reached.wait()
        ollamas[0].stop_listening()  # as if its machine had gone: the stream stands, and nothing comes
        assert isinstance(reply.exception(timeout=30), httpx.RemoteProtocolError)
        assert ollamas[0].requests[-1].closed.wait() is None


def test_without_ollamas_the_error_has_ollamas_form(balancer: OllamaBalancer, ollamas: list[ScriptedOllama]) -> None:
    for ollama in ollamas:
        ollama.stop_listening()
    for path in ("/api/chat", "/api/show"):
        answer = httpx.post(f"{balancer.url}{path}", json={"model": "fake", "messages": []})
        assert (answer.status_code, answer.json()) == (503, {"error": "No Ollama can be reached."})
    assert httpx.get(f"{balancer.url}/api/version").status_code == 503


# The queue.


def test_an_ollama_gets_no_more_requests_than_it_works_on(
    balancer: OllamaBalancer, ollamas: list[ScriptedOllama]
) -> None:
    conversation = conversation_of(balancer, ollamas, 0)
    ollamas[0].requests.clear()
    gate = Gate()
    ollamas[0].default = (Words(hold={0: gate}),)
    waiting = 3
    with in_background(MAX_CONNECTIONS + waiting, lambda: chat(balancer, conversation)) as replies:
        eventually("it is full", lambda: len(ollamas[0].requests) == MAX_CONNECTIONS)
        assert httpx.get(f"{balancer.url}/api/version").status_code == 200  # short requests do not wait
        assert httpx.get(f"{balancer.url}/api/tags").status_code == 200
        assert len(ollamas[0].requests) == MAX_CONNECTIONS
        gate.open()
        assert {reply.result(30) for reply in replies} == {"w0 w1 w2 w3 w4 "}
    assert len(ollamas[0].requests) == MAX_CONNECTIONS + waiting


def test_who_waits_for_an_ollama_that_dies_goes_to_another(
    balancer: OllamaBalancer, ollamas: list[ScriptedOllama]
) -> None:
    conversation = conversation_of(balancer, ollamas, 0)
    before = counts(ollamas)
    ollamas[0].default = (Words(hold={1: Gate()}),)
    waiting = 3
    with in_background(MAX_CONNECTIONS + waiting, lambda: chat(balancer, conversation)) as replies:
        eventually("it is full", lambda: counts(ollamas)[0] == before[0] + MAX_CONNECTIONS)
        ollamas[0].stop_listening()
        ollamas[0].cut_connections()
        errors = [reply.exception(30) for reply in replies]
    assert sum(isinstance(error, httpx.RemoteProtocolError) for error in errors) == MAX_CONNECTIONS
    assert errors.count(None) == waiting
    assert counts(ollamas)[1] == before[1] + waiting


def test_a_client_that_leaves_the_queue_is_forgotten(balancer: OllamaBalancer, ollamas: list[ScriptedOllama]) -> None:
    conversation = conversation_of(balancer, ollamas, 0)
    ollamas[0].requests.clear()
    gate = Gate()
    ollamas[0].default = (Words(hold={0: gate}),)
    with in_background(MAX_CONNECTIONS, lambda: chat(balancer, conversation)) as replies:
        eventually("it is full", lambda: len(ollamas[0].requests) == MAX_CONNECTIONS)
        body = {"model": "fake", "messages": [], "options": {"seed": 1}}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{balancer.url}/api/chat", json=body, headers={KEY: key(conversation)}, timeout=0.5)
        gate.open()
        assert {reply.result(30) for reply in replies} == {"w0 w1 w2 w3 w4 "}
    chat(balancer, conversation)
    assert len(ollamas[0].requests) == MAX_CONNECTIONS + 1
    assert not any("options" in request.json for request in ollamas[0].requests)


def test_a_client_that_leaves_stops_the_model(balancer: OllamaBalancer, ollamas: list[ScriptedOllama]) -> None:
    for ollama in ollamas:
        ollama.default = (Gate(), Head(), Lines(last_line()))  # silent: the prompt is being evaluated
    body = {"model": "fake", "messages": []}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{balancer.url}/api/chat", json=body, timeout=0.5)
    [request] = [request for ollama in ollamas for request in ollama.generations]
    request.closed.wait()


def test_each_line_is_passed_on_at_once(balancer: OllamaBalancer, ollamas: list[ScriptedOllama]) -> None:
    gate = Gate()
    for ollama in ollamas:
        ollama.default = (Head(), Lines(line("w0 ")), gate, Lines(last_line("w1 ")))
    body = {"model": "fake", "messages": []}
    with httpx.stream("POST", f"{balancer.url}/api/chat", json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines))["message"]["content"] == "w0 "
        gate.open()
        assert json.loads(next(lines))["done"]


# With the program.


@pytest.fixture
def client(balancer: OllamaBalancer, new_database: Callable[[], str]) -> Iterator[Client]:
    settings = {"database_url": new_database(), "ollama_host": balancer.url, "embedded_model": False}
    with Program(**settings) as chatterd, Client(chatterd.url) as client:
        yield client


def test_the_prompts_of_a_conversation_reach_the_same_ollama(client: Client, ollamas: list[ScriptedOllama]) -> None:
    for _ in range(4):
        client.ask("hi")
    assert sorted(counts(ollamas)) == [0, 4]
    [seen] = {request.headers[KEY.lower()] for ollama in ollamas for request in ollama.requests}
    assert client.appid not in seen and len(seen) >= 16


def test_a_prompt_whose_ollama_dies_before_it_answers_is_answered_by_another(
    client: Client, ollamas: list[ScriptedOllama]
) -> None:
    for ollama in ollamas:
        ollama.script(Close())
    ollamas[0].script(Words())
    ollamas[1].script(Words())
    events = client.ask("hi")
    assert "".join(event.json["message"]["content"] for event in events) == "w0 w1 w2 w3 w4 "


def test_a_reply_whose_ollama_dies_is_continued_by_another(client: Client, ollamas: list[ScriptedOllama]) -> None:
    gate = Gate()
    for ollama in ollamas:
        ollama.default = (Words(hold={2: gate}),)
    with client.prompt("hi") as stream:
        first = [stream.next(), stream.next()]
        [dying] = [ollama for ollama in ollamas if ollama.requests]
        for ollama in ollamas:
            ollama.default = (Words(),)
        dying.stop_listening()
        dying.cut_connections()
        events = [event for event in first if event] + stream.rest()
    assert "".join(event.json["message"]["content"] for event in events) == "w0 w1 w2 w3 w4 "
    assert [event.id for event in events] == list(range(len(events)))
    assert events[-1].json["done"]
