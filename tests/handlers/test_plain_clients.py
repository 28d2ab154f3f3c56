"""The prompts of plain clients, which can neither follow nor stop a reply: never refused because a reply runs."""

import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import settings
from tests.client import Client, Event, Stream
from tests.database import eventually, reply_row, rows
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program
from tests.raw import drop_all_packets, head, raw
from tests.tokens import TokenFile

LEFT = "client left"


def text(events: list[Event]) -> str:
    return "".join(event.json["message"]["content"] for event in events)


def waiting(client: Client) -> float:
    """Return the number of prompts that wait in the client's process."""
    metrics = client.http.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in metrics if line.startswith("chatterd_prompts_waiting "))


@contextmanager
def waiting_prompt(client: Client, text: str, **fields: Any) -> Iterator[Stream]:
    """POST a prompt that has to wait, with a client of its own."""
    count = waiting(client)
    with Client(str(client.http.base_url), client.appid) as other, other.prompt(text, **fields) as stream:
        eventually("the prompt waits", lambda: waiting(client) == count + 1)
        yield stream


def running(client: Client) -> Any:
    return client.history()["reply"]


def test_an_abandoned_reply_is_stopped_for_the_next_prompt(client: Client, ollama: ScriptedOllama) -> None:
    """An app that was closed in mid-reply, and opened again."""
    ollama.script(Head(), Lines(line("half ")), Gate("never"))
    with client.prompt("one") as stream:
        path = stream.response.headers["Content-Location"]
        assert text([stream.next() or pytest.fail("no event")]) == "half "
    assert client.ask("two")[-1].json["done"] is True
    assert client.messages()[:3] == [("user", "one"), ("assistant", "half "), ("user", "two")]
    assert client.view(path)[-1].json["done_reason"] == "stopped"
    assert [message["content"] for message in ollama.generations[1].json["messages"]] == ["one", "half ", "two"]


def test_a_prompt_waits_while_the_running_reply_is_watched(client: Client, ollama: ScriptedOllama) -> None:
    """An app that sends while its own first request runs; two devices with one app."""
    ollama.script(Head(), Lines(line("a")), gate := Gate(), Lines(last_line("b")))
    with client.prompt("one") as first, waiting_prompt(client, "two", options={"num_predict": 1}) as second:
        reserved = second.response.headers["Content-Location"]
        assert client.http.get(reserved).status_code == 404
        assert client.messages() == [("user", "one")]
        gate.open()
        assert text(first.rest()) == "ab"
        assert [event.id for event in second.rest()] == [0, 1]
    assert client.messages() == [("user", "one"), ("assistant", "ab"), ("user", "two"), ("assistant", "w0 ")]
    assert text(client.view(reserved)) == "w0 "


def test_a_prompt_takes_its_turn_when_the_last_viewer_leaves(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("a")), Gate("never"))
    with ExitStack() as first:
        stream = first.enter_context(client.prompt("one"))
        assert stream.next()
        with waiting_prompt(client, "two", options={"num_predict": 1}) as second:
            first.close()
            assert text(second.rest()) == "w0 "
    assert client.messages()[1] == ("assistant", "a")


@pytest.mark.parametrize("headers", [{"Prefer": "respond-async"}, {"Idempotency-Key": "key"}], ids=str)
def test_the_reply_of_a_client_that_can_follow_it_is_never_superseded(
    client: Client, ollama: ScriptedOllama, headers: dict[str, str]
) -> None:
    """Hidden tabs, long polls and the moment between 202 and EventSource leave such replies without viewers."""
    ollama.script(Head(), Lines(line("a")), gate := Gate(), Lines(last_line("b")))
    with client.http.stream("POST", "/llmchat", json=client.body("one"), headers=headers) as response:
        path = response.headers.get("Location") or response.headers["Content-Location"]
    gate.reached.wait()
    with waiting_prompt(client, "two", options={"num_predict": 1}) as second:
        gate.open()
        assert text(second.rest()) == "w0 "
    assert text(client.view(path)) == "ab"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux closes the connection")
def test_an_app_whose_phone_has_lost_its_network_does_not_hold_up_the_next_prompt(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url, client_write_timeout=1, heartbeat_interval=0.1)
    ollama.script(Head(), Lines(line("half ")), Gate("never"))
    address = urlsplit(program.url)
    with Client(program.url) as client, socket.create_connection((address.hostname, address.port)) as phone:
        body = json.dumps(client.body("one")).encode()
        head = f"POST /llmchat HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        phone.sendall(head.encode() + b"\r\n\r\n" + body)
        received = b""
        while b"half " not in received:
            received += phone.recv(65_536)
        drop_all_packets(phone)
        assert client.ask("two")[-1].json["done"] is True
        assert client.messages()[1] == ("assistant", "half ")


@pytest.mark.extended
def test_the_longest_timeout_of_writing_is_accepted(start_chatterd: Callable[..., Program], database_url: str) -> None:
    with Client(start_chatterd(database_url=database_url, client_write_timeout=settings.MAX_SECONDS).url) as client:
        assert client.ask("hi")[-1].json["done"] is True


def test_a_reply_that_others_follow_is_not_superseded(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("a")), gate := Gate(), Lines(last_line("b")))
    with ExitStack() as first, Client(str(client.http.base_url), client.appid) as page:
        stream = first.enter_context(client.prompt("one"))
        assert stream.next()
        with page.follow(stream.response.headers["Content-Location"]) as follower:
            assert follower.next()
            first.close()
            with waiting_prompt(client, "two", options={"num_predict": 1}) as second:
                gate.open()
                assert text(follower.rest()) == "b"
                assert text(second.rest()) == "w0 "


def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("a")), gate := Gate(), Lines(last_line("b")))
    with client.prompt("one") as first:
        with waiting_prompt(client, "two") as second:
            reserved = second.response.headers["Content-Location"]
        eventually("it does not wait any more", lambda: waiting(client) == 0)
        gate.open()
        assert text(first.rest()) == "ab"
    assert client.messages() == [("user", "one"), ("assistant", "ab")]
    assert client.http.get(reserved).status_code == 404
    assert len(ollama.generations) == 1


def test_a_client_that_sent_one_more_byte_and_left_is_noticed_by_heartbeats(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, session_database_url: str
) -> None:
    """Tornado, which has received something to process later, does not read the end of the connection."""
    program = start_chatterd(database_url=session_database_url, heartbeat_interval=0.1)
    ollama.script(Head(), Lines(line("a")), Gate("never"))
    with Client(program.url) as client, raw(program.url) as viewer, raw(program.url) as waiter:
        body = json.dumps(client.body("hi")).encode()
        request = head("/llmchat", f"Content-Length: {len(body)}") + body + b"G"
        viewer.send(request)
        eventually("the reply runs", lambda: running(client))
        waiter.send(request)
        eventually("the other prompt waits", lambda: waiting(client) == 1)
        waiter.hang_up()
        eventually("it does not wait any more", lambda: waiting(client) == 0)
        viewer.hang_up()
        eventually("both are gone", lambda: program.log.count(f'abort_reason="{LEFT}"') == 2)


def test_prompts_begin_in_the_order_of_their_arrival(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("a")), gate := Gate(), Lines(last_line("b")))
    numbers = [str(number) for number in range(2, 7)]
    with ExitStack() as stack:
        first = stack.enter_context(client.prompt("1"))
        streams = [
            stack.enter_context(waiting_prompt(client, number, options={"num_predict": 1})) for number in numbers
        ]
        left = stack.enter_context(ExitStack())
        left.enter_context(waiting_prompt(client, "left"))
        left.close()
        gate.open()
        first.rest()
        assert [text(stream.rest()) for stream in streams] == ["w0 "] * 5
    assert [content for role, content in client.messages() if role == "user"] == ["1", *numbers]


def test_a_prompt_that_waits_gets_heartbeats_and_is_no_viewer(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url, heartbeat_interval=0.05)
    ollama.script(Head(), gate := Gate(), Lines(last_line("a")))
    with Client(program.url) as client:
        path = client.begin("one")
        with waiting_prompt(client, "two", options={"num_predict": 1}) as second:
            assert [second.comment() for _ in range(3)] == [": waiting"] * 3
            gate.open()
            assert text(second.rest()) == "w0 "
        assert reply_row(database_url, path)["status"] == "done"


def test_the_number_of_prompts_that_wait_is_limited(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url, max_waiting_prompts=1)
    ollama.script(Head(), gate := Gate(), Lines(last_line("a")))
    with Client(program.url) as client:
        client.begin("one")
        with waiting_prompt(client, "two") as second:
            refused = client.http.post("/llmchat", json=client.body("three"))
            assert refused.status_code == 503 and refused.headers["Retry-After"]
            gate.open()
            second.rest()
        assert [content for role, content in client.messages() if role == "user"] == ["one", "two"]


@pytest.mark.extended
def test_the_prompts_of_one_tenant_that_wait_take_no_memory_of_others(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str, tmp_path: Path
) -> None:
    tokens = TokenFile(tmp_path / "tokens")
    for tenant in ("alice", "bob"):
        tokens.add(tenant, tenant)
    size = 400_000
    program = start_chatterd(
        database_url=database_url,
        auth="token",
        token_file=tokens.path,
        max_body_bytes=size * 2,
        max_total_body_bytes=size * 5,
    )
    streams: list[Stream] = []
    with ExitStack() as stack:

        def post(tenant: str, appid: str) -> int:
            client = stack.enter_context(tokens.client(program.url, tenant, appid))
            request = client.prompt("x" * size)
            try:
                stream = stack.enter_context(request)
            except AssertionError:
                return 503
            assert stream.comment() == ": waiting"
            streams.append(stream)
            return 200

        for tenant in ("alice", "bob"):
            ollama.script(Head(), Lines(line("a")), Gate("never"))
            client = stack.enter_context(tokens.client(program.url, tenant, f"of {tenant}"))
            streams.append(stack.enter_context(client.prompt("hi")))
            assert streams[-1].next()
        assert [post("alice", "of alice") for _ in range(6)] == [200, 200, 503, 503, 503, 503]
        assert post("bob", "of bob") == 200


def test_a_drain_ends_the_waiting_with_an_error_outside_the_log(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url)
    ollama.script(Head(), Gate("never"))
    with Client(program.url) as client:
        client.begin("one")
        with waiting_prompt(client, "two") as second:
            program.process.terminate()
            [event] = second.rest()
    assert (event.id, event.name) == (0, "error")
    assert event.json["error"] == "The server is being restarted. Try again in a moment."
    assert [row["message"] for row in rows(database_url, "SELECT message FROM chatts")] == ["one"]
    assert program.wait() == 0


def test_a_prompt_beyond_the_limit_of_concurrent_replies_waits_for_its_own_conversation(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url, max_replies_per_address=1)
    ollama.script(Head(), Lines(line("half ")), Gate("never"))
    with Client(program.url) as client:
        with client.prompt("one") as stream:
            assert stream.next()
            with Client(program.url) as another:
                assert another.http.post("/llmchat", json=another.body("hi")).status_code == 429
        assert client.ask("two")[-1].json["done"] is True
        assert client.messages()[1] == ("assistant", "half ")


def test_a_reply_is_superseded_by_a_prompt_to_another_process(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    owner, other = start_chatterd(database_url=database_url), start_chatterd(database_url=database_url)
    ollama.script(Head(), Lines(line("half ")), Gate("never"))
    with Client(owner.url) as client, Client(other.url, client.appid) as elsewhere:
        with client.prompt("one") as stream:
            assert stream.next()
        assert elsewhere.ask("two")[-1].json["done"] is True
        assert client.messages()[:2] == [("user", "one"), ("assistant", "half ")]


def test_viewers_in_other_processes_protect_a_reply(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    owner, other = start_chatterd(database_url=database_url), start_chatterd(database_url=database_url)
    ollama.script(Head(), Lines(line("a")), gate := Gate(), Lines(last_line("b")))
    with Client(owner.url) as client, Client(other.url, client.appid) as elsewhere, ExitStack() as first:
        stream = first.enter_context(client.prompt("one"))
        assert stream.next()
        with elsewhere.follow(stream.response.headers["Content-Location"]) as follower:
            assert follower.next()
            first.close()
            with waiting_prompt(client, "two", options={"num_predict": 1}) as second:
                owner.wait_log(LEFT)
                assert waiting(client) == 1
                gate.open()
                assert text(follower.rest()) == "b"
                assert text(second.rest()) == "w0 "


def test_a_dead_process_does_not_hold_up_the_next_prompt(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    owner, other = start_chatterd(database_url=database_url), start_chatterd(database_url=database_url)
    ollama.script(Head(), Lines(line("half ")), Gate("never"))
    with Client(owner.url) as client, Client(other.url, client.appid) as elsewhere:
        with client.prompt("one") as stream:
            assert stream.next()
            owner.kill()
        assert elsewhere.ask("two")[-1].json["done"] is True
        first, reply, second, _ = elsewhere.messages()
        assert (first, second) == (("user", "one"), ("user", "two"))
        assert reply[0] == "assistant" and reply[1].startswith("half ")  # it may go on before it is stopped
