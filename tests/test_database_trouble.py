"""Outages of PostgreSQL at the worst moments: nothing is lost, errors are reported, and chatterd recovers."""

import asyncio
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.client import Client, Event, Stream
from tests.cluster import OwnPostgres, SignedWords, words
from tests.database import PATIENCE, eventually, reply_row, rows, with_connection
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, Words, last_line, line
from tests.fakes.proxy import CuttingProxy
from tests.faults import held
from tests.program import Program

AWAY = ("database", "declared dead", "pool connection floor", "could not be released")
"""Log lines that are allowed during an outage of the database and after it."""

pytestmark = pytest.mark.expects_log(*AWAY)

READY = {"ready": True, "draining": False, "database": "ok", "ollama": "ok"}


@pytest.fixture
def proxy(database_url: str) -> Iterator[CuttingProxy]:
    with CuttingProxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Yield a stack that closes its clients at the end of the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def ask(
    proxy: CuttingProxy, start_chatterd: Callable[..., Program], clients: ExitStack
) -> Iterator[Callable[..., Client]]:
    """Yield a function that starts a chatterd with its database behind the proxy, and returns a client of it."""

    def start(**settings: object) -> Client:
        program = start_chatterd(database_url=proxy.url, **{"acquire_timeout": 1, **settings})
        return clients.enter_context(Client(program.url))

    yield start
    proxy.restore()  # so that the program can shut down


def said(stream: Stream) -> str:
    """Return the text of the next event."""
    event = stream.next()
    assert event is not None
    return str(event.json["message"]["content"])


def check_refused(client: Client, method: str, path: str, **request: Any) -> None:
    answer = client.http.request(method, path, **request)
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert re.search("database cannot be reached|server is not ready yet", answer.json()["error"])


def check_not_ready(client: Client, reason: str) -> None:
    answer = client.http.get("/readyz")
    expected = READY | {"ready": False, "database": "unreachable", "reason": reason}
    assert (answer.status_code, answer.json()) == (503, expected)
    assert int(answer.headers["Retry-After"]) > 0


def wait_ready(client: Client) -> None:
    eventually("ready", lambda: client.http.get("/readyz").json() == READY)


def test_a_program_started_without_its_database_reports_it_and_recovers(
    start_chatterd: Callable[..., Program], database_url: str
) -> None:
    with CuttingProxy(database_url, away=True) as proxy:
        client = Client(start_chatterd(database_url=proxy.url, acquire_timeout=1).url)
        with client.http:
            check_not_ready(client, "unreachable")
            assert client.http.get("/healthz").status_code == 200
            check_refused(client, "POST", "/llmchat", json=client.body("hi"))
            check_refused(client, "GET", "/llmchat", params={"appID": client.appid})
            check_refused(client, "DELETE", "/llmchat", params={"appID": client.appid})
            check_refused(client, "GET", "/llmchat/12345678-1234-1234-1234-123456789012")
            check_refused(client, "DELETE", "/llmchat/12345678-1234-1234-1234-123456789012")
            assert client.http.get("/models").status_code == 200
            proxy.restore()
            wait_ready(client)
            client.ask("hi")
            assert client.messages() == [("user", "hi"), ("assistant", "w0 w1 w2 w3 w4 ")]


def test_an_outage_of_the_database_is_reported_and_recovered_from(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama
) -> None:
    client = ask()
    client.ask("one")
    for _ in range(2):
        proxy.cut()
        check_refused(client, "POST", "/llmchat", json=client.body("refused"))
        check_refused(client, "GET", "/llmchat", params={"appID": client.appid})
        check_not_ready(client, "unreachable")
        assert client.http.get("/healthz").status_code == 200
        proxy.restore()
        wait_ready(client)
    assert len(ollama.generations) == 1
    client.ask("two")
    assert [content for role, content in client.messages() if role == "user"] == ["one", "two"]


def test_broken_connections_between_two_requests_fail_at_most_one_request(
    ask: Callable[..., Client], proxy: CuttingProxy
) -> None:
    client = ask()
    client.ask("one")
    proxy.cut()
    proxy.restore()
    client.http.post("/llmchat", json=client.body("perhaps"))
    assert client.ask("two")[-1].json["done"] is True


def test_a_database_that_rejects_new_sessions_counts_as_unavailable(
    start_chatterd: Callable[..., Program], database_url: str, postgres: str
) -> None:
    name = rows(database_url, "SELECT current_database()")[0][0]
    client = Client(start_chatterd(database_url=database_url, acquire_timeout=1).url)

    async def refuse(connection: asyncpg.Connection) -> None:
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)

    with client.http:
        wait_ready(client)
        with_connection(postgres, refuse)
        try:
            reason = "not accepting connections"
            eventually(
                "the next session is rejected", lambda: client.http.get("/readyz").json().get("reason") == reason
            )
            check_not_ready(client, reason)
            check_refused(client, "POST", "/llmchat", json=client.body("hi"))
        finally:
            with_connection(postgres, lambda c: c.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
        wait_ready(client)


def test_a_reply_pauses_with_heartbeats_during_an_outage_and_then_continues(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama, database_url: str
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(line("b"), last_line("c")))
    client = ask(heartbeat_interval=0.05)
    with client.prompt("hi") as stream:
        assert said(stream) == "a"
        proxy.cut()
        gate.open()
        ollama.arrival(0).wait().answered.wait()  # Ollama is read to the end
        assert [stream.comment() for _ in range(5)] == [": waiting"] * 5
        path = stream.response.headers["Content-Location"]
        assert reply_row(database_url, path)["status"] == "streaming"
        proxy.restore()
        second, last = stream.rest()
        assert (second.id, second.json["message"]["content"]) == (1, "b")
        assert (last.id, last.json["done"], last.json["done_reason"]) == (2, True, "stop")
        assert reply_row(database_url, path)["status"] == "done"
    assert rows(database_url, "SELECT message FROM chatts ORDER BY seq")[1]["message"] == "abc"


def test_a_reply_fails_after_a_long_outage_and_is_stored_when_the_database_is_back(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama, database_url: str
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    client = ask(db_retry_timeout=0.2)
    with client.prompt("hi") as stream:
        assert stream.next() is not None
        proxy.cut()
        gate.open()
        [last] = stream.rest()
        path = stream.response.headers["Content-Location"]
    assert (last.id, last.name) == (1, "error")
    assert "could not be saved" in last.json["error"]
    assert reply_row(database_url, path)["status"] == "streaming"
    proxy.restore()
    eventually("stored", lambda: reply_row(database_url, path)["status"] != "streaming")
    row = reply_row(database_url, path)
    assert (row["status"], row["error"]) == ("failed", last.json["error"])
    assert rows(database_url, "SELECT message FROM chatts WHERE seq = $1", row["message_seq"])[0]["message"] == "ab"
    wait_ready(client)
    assert [event.data for event in client.view(path)][-1] == last.data
    assert client.ask("again")[-1].json["done"] is True


def test_a_prompt_is_kept_when_the_database_s_response_is_lost(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama
) -> None:
    client = ask()
    client.ask("one", options={"num_predict": 1})
    lost = proxy.lose(b"remember me")
    check_refused(client, "POST", "/llmchat", json=client.body("remember me", options={"num_predict": 2}))
    lost.wait()
    request = ollama.arrival(1).wait()
    assert [message["content"] for message in request.json["messages"]] == ["one", "w0 ", "remember me"]
    assert request.json["options"] == {"num_predict": 2}
    eventually("the reply is there", lambda: len(client.messages()) == 4)
    assert client.messages()[2:] == [("user", "remember me"), ("assistant", "w0 w1 ")]


def test_a_retry_with_the_idempotency_key_after_a_lost_response_finds_the_reply(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama
) -> None:
    client = ask()
    headers = {"Idempotency-Key": "k"}
    lost = proxy.lose(b"remember me")
    check_refused(client, "POST", "/llmchat", json=client.body("remember me"), headers=headers)
    lost.wait()
    assert len(client.ask("remember me", headers=headers)) == 6
    assert client.messages() == [("user", "remember me"), ("assistant", "w0 w1 w2 w3 w4 ")]
    assert len(ollama.generations) == 1


def test_a_prompt_that_did_not_reach_the_database_is_rejected_and_can_be_retried(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama
) -> None:
    client = ask()
    client.ask("one", options={"num_predict": 1})
    lost = proxy.lose(b"forget me", forward=False)
    check_refused(client, "POST", "/llmchat", json=client.body("forget me"))
    lost.wait()
    assert client.ask("two")[-1].json["done"] is True
    assert [content for _, content in client.messages()][:3] == ["one", "w0 ", "two"]
    assert len(ollama.generations) == 2


def test_a_reply_whose_end_was_stored_but_not_confirmed_is_stored_once(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama, database_url: str
) -> None:
    ollama.script(Head(), Lines(line("a"), last_line("keep me once")))
    client = ask()
    lost = proxy.lose(b"keep me once")
    events = client.ask("hi")
    lost.wait()
    assert [event.json["message"]["content"] for event in events] == ["a", "keep me once"]
    assert client.messages() == [("user", "hi"), ("assistant", "akeep me once")]
    assert [row["status"] for row in rows(database_url, "SELECT status FROM replies")] == ["done"]


def test_a_prompt_recorded_after_its_connection_broke_leaves_no_streaming_reply(
    ask: Callable[..., Client], proxy: CuttingProxy, database_url: str
) -> None:
    """PostgreSQL finishes a statement that waited for a lock when its client's connection broke."""
    client = ask()
    client.ask("warm up")
    answers: list[int] = []

    def post() -> None:
        own = Client(str(client.http.base_url), client.appid)
        with own.http:
            answers.append(own.http.post("/llmchat", json=own.body("late")).status_code)

    async def scenario(connection: asyncpg.Connection) -> None:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            "LOCK TABLE chatts IN SHARE ROW EXCLUSIVE MODE"
        )  # blocks the INSERT of a prompt, but no reading
        posting = asyncio.create_task(asyncio.to_thread(post))
        await asyncio.to_thread(eventually, "begin waits", lambda: waiting(database_url))
        proxy.cut()
        cut_at = await connection.fetchval("SELECT clock_timestamp()")
        proxy.restore()
        await posting
        await asyncio.to_thread(eventually, "a sweep has looked for replies", lambda: swept(database_url, cut_at))
        await transaction.rollback()

    with_connection(database_url, scenario)
    assert answers == [503]
    eventually("begin has run", lambda: not waiting(database_url))
    open_replies = "SELECT count(*) FROM replies WHERE status = 'streaming'"
    eventually("no reply is open", lambda: rows(database_url, open_replies)[0]["count"] == 0)
    assert client.ask("next")[-1].json["done"] is True


def waiting(url: str) -> bool:
    """Return whether a statement that begins a reply waits for a lock."""
    query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%WITH new AS MATERIALIZED%'"
    return bool(rows(url, query))


def swept(url: str, since: datetime) -> bool:
    """Return whether a sweep has run to its last step, the pruning, since then."""
    query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' AND query_start > $1"
    return bool(rows(url, query + " AND query LIKE '%DELETE FROM reply_lines WHERE ctid%'", since))


NO_MESSAGE = "LOCK TABLE chatts IN SHARE ROW EXCLUSIVE MODE"
"""A lock under which lines can be written, but no message."""


@contextmanager
def reading(stream: Stream) -> Iterator[list[Event]]:
    """Read the events in another thread within the ``with`` block; they appear in the yielded list."""
    shown: list[Event] = []
    with ThreadPoolExecutor(1) as executor:
        ending = executor.submit(lambda: shown.extend(iter(stream.next, None)))
        yield shown
        ending.result()


def check_not_done(stream: Stream, shown: list[Event]) -> None:
    """Check that no ``done`` is shown for ten heartbeats."""
    since = len(stream.comments)
    eventually("heartbeats", lambda: len(stream.comments) > since + 10)
    assert not any(event.json["done"] for event in shown), shown


def test_done_is_not_shown_before_its_message_is_stored_after_an_outage(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama, database_url: str
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(line("b"), last_line("c")))
    client = ask(heartbeat_interval=0.1)
    with client.prompt("hi") as stream:
        assert said(stream) == "a"
        with reading(stream) as shown, held(database_url, NO_MESSAGE):
            proxy.cut()
            gate.open()
            ollama.arrival(0).wait().answered.wait()
            proxy.restore()
            check_not_done(stream, shown)
        assert [event.json["message"]["content"] for event in shown] == ["b", "c"]
        assert client.messages() == [("user", "hi"), ("assistant", "abc")]


def test_lines_of_a_batch_stored_without_confirmation_are_shown_and_logged_once(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a"), line("round to lose")), gate, Lines(last_line("c")))
    client = ask()
    lost = proxy.lose(b"round to lose")
    with client.prompt("hi") as stream:
        assert said(stream) == "a"
        lost.wait()
        assert said(stream) == "round to lose"
        gate.open()
        [last] = stream.rest()
        path = stream.response.headers["Content-Location"]
    assert (last.id, last.json["done"]) == (2, True)
    assert [event.json["message"]["content"] for event in client.view(path)] == ["a", "round to lose", "c"]


def test_an_error_that_was_shown_is_logged_although_an_unconfirmed_batch_has_its_line_number(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama, database_url: str
) -> None:
    gate, later = Gate(), Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(line("never confirmed")), later)
    client = ask(db_retry_timeout=0.5, heartbeat_interval=0.2)
    with client.prompt("hi") as stream:
        path = stream.response.headers["Content-Location"]
        first = stream.next()
        assert first is not None
        lost = proxy.lose(b"never confirmed")
        gate.open()
        lost.wait()
        proxy.cut()
        shown = [first, *stream.rest()]
    assert (shown[-1].id, shown[-1].name) == (1, "error")
    ollama.arrival(0).wait().closed.wait()
    proxy.restore()
    eventually("stored", lambda: reply_row(database_url, path)["status"] == "failed")
    assert client.view(path) == shown
    assert [role for role, _ in client.messages()] == ["user", "assistant"]
    assert client.ask("again")[-1].json["done"] is True


def is_failed(database_url: str, path: str) -> bool:
    return bool(reply_row(database_url, path)["status"] == "failed")


def test_a_long_outage_ends_every_reply_with_an_error_and_disconnects_from_ollama(
    ask: Callable[..., Client], clients: ExitStack, proxy: CuttingProxy, ollama: ScriptedOllama, database_url: str
) -> None:
    gates = [Gate() for _ in range(3)]
    for gate in gates:
        ollama.script(Head(), Lines(line("partial ")), gate)
    client = ask(db_retry_timeout=1, heartbeat_interval=0.2)
    others = [clients.enter_context(Client(str(client.http.base_url))) for _ in gates]
    paths = [other.begin("hi") for other in others]
    for gate in gates:
        gate.reached.wait()
    all_watch = threading.Barrier(len(paths) + 1)

    def watch(path: str) -> None:
        with client.follow(path) as stream:
            assert said(stream) == "partial "
            all_watch.wait(PATIENCE)
            assert [event.name for event in stream.rest()] == ["error"]
        assert stream.comments, "no heartbeat in a pause of a second"

    with ThreadPoolExecutor(len(paths)) as viewers:
        watching = [viewers.submit(watch, path) for path in paths]
        try:
            all_watch.wait(PATIENCE)
            proxy.cut()
            for one in watching:
                one.result(PATIENCE)
            for request in ollama.generations:
                request.closed.wait()
        finally:
            for gate in gates:
                gate.open()  # so that no thread hangs after a failure
            proxy.restore()
    for path, other in zip(paths, others, strict=True):
        eventually("stored", partial(is_failed, database_url, path))
        assert other.messages() == [("user", "hi"), ("assistant", "partial ")]
    wait_ready(client)
    assert client.ask("again")[-1].json["done"] is True


def test_a_database_that_does_not_respond_counts_as_unavailable(
    ask: Callable[..., Client], proxy: CuttingProxy
) -> None:
    client = ask()
    client.ask("one")
    proxy.swallow()
    assert client.http.get("/healthz").status_code == 200
    check_not_ready(client, "no response in time")
    check_refused(client, "POST", "/llmchat", json=client.body("refused"))
    check_refused(client, "GET", "/llmchat", params={"appID": client.appid})
    proxy.restore()
    wait_ready(client)
    assert client.ask("two")[-1].json["done"] is True


def test_a_reply_ends_at_the_retry_timeout_when_the_database_does_not_respond(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama, database_url: str
) -> None:
    gate, later = Gate(), Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(line("b")), later)
    client = ask(db_retry_timeout=1, heartbeat_interval=0.2)
    with client.prompt("hi") as stream:
        path = stream.response.headers["Content-Location"]
        assert said(stream) == "a"
        proxy.swallow()
        since = time.monotonic()
        gate.open()
        [last] = stream.rest()
        assert (last.id, last.name) == (1, "error")
        took = time.monotonic() - since
    ollama.arrival(0).wait().closed.wait()
    proxy.restore()
    eventually("stored", lambda: reply_row(database_url, path)["status"] == "failed", timeout=90)
    assert client.messages() == [("user", "hi"), ("assistant", "ab")]
    assert took < 40, f"patience of 1 s took {took:.1f} s"


def test_shutdown_is_on_time_when_the_database_does_not_respond(
    start_chatterd: Callable[..., Program], proxy: CuttingProxy, ollama: ScriptedOllama
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate)
    program = start_chatterd(database_url=proxy.url, drain_timeout=0.5, acquire_timeout=1)
    client = Client(program.url)
    with client.http, client.prompt("hi") as stream:
        assert said(stream) == "a"
        proxy.swallow()
        since = time.monotonic()
        assert program.terminate() == 0
        assert time.monotonic() - since < 15
    proxy.restore()


def test_a_process_declared_dead_writes_no_more_lines_of_an_adopted_reply(
    ask: Callable[..., Client],
    start_chatterd: Callable[..., Program],
    proxy: CuttingProxy,
    ollama: ScriptedOllama,
    database_url: str,
) -> None:
    """The process had the whole answer when it lost the database; another process adopted the reply in the meantime."""
    first, second = Gate(), Gate()
    ollama.script(SignedWords(hold={3: first}))
    ollama.script(SignedWords(hold={3: second}, _requests=iter([1])))
    client = ask()
    path = client.begin("hi")
    with client.follow(path) as stream:
        assert [said(stream) for _ in range(3)] == ["w0 ", "w1 ", "w2 "]
    other = Client(start_chatterd(database_url=database_url).url)
    with other.http:
        proxy.cut()
        first.open()
        ollama.arrival(0).wait().answered.wait()
        second.reached.wait()  # adopted
        [dead] = [row["owner"] for row in rows(database_url, "SELECT owner FROM processes")]
        with held(database_url, f"SELECT FROM replies WHERE id = '{path.removeprefix('/llmchat/')}' FOR UPDATE"):
            proxy.restore()
            living = "SELECT FROM processes WHERE owner <> $1"
            others = "SELECT FROM reply_lines WHERE reply <> $1"
            eventually("announced under another id", lambda: rows(database_url, living, dead))
            eventually("serves again", lambda: client.http.get("/readyz").status_code == 200)
            bystander = Client(str(client.http.base_url))
            with bystander.http:  # its lines make the journal write a batch
                assert eventually("begun", lambda: begun(bystander)).status_code == 202
                eventually("a round", lambda: rows(database_url, others, uuid(path)))
        log = "SELECT line FROM reply_lines WHERE reply = $1 AND seq > 2"
        assert rows(database_url, log, uuid(path)) == []
        second.open()
        events = other.view(path)
    assert [event.json["asked"] for event in events] == [0, 0, 0, 1, 1, 1]
    assert "".join(event.json["message"]["content"] for event in events) == words(5)
    assert client.messages() == [("user", "hi"), ("assistant", words(5))]


def begun(client: Client) -> Any:
    answer = client.http.post("/llmchat", json=client.body("hi"), headers={"Prefer": "respond-async"})
    return answer if answer.status_code == 202 else None


def uuid(path: str) -> UUID:
    return UUID(path.removeprefix("/llmchat/"))


def check_whole(client: Client, path: str, shown: list[Event], count: int) -> None:
    """Check that a reply of ``count`` words was shown, logged and stored exactly once."""
    assert [event.id for event in shown] == list(range(count + 1))
    assert "".join(event.json["message"]["content"] for event in shown) == words(count)
    assert shown[-1].json["done"] is True
    assert client.view(path) == shown
    assert client.messages() == [("user", "hi"), ("assistant", words(count))]


def stream_through(url: str, replies: int, count: int, trouble: Callable[[], None]) -> None:
    """Stream replies while ``trouble`` disturbs the database, and check each word by word."""
    streaming = threading.Barrier(replies + 1)

    def converse(_: int) -> None:
        client = Client(url)
        with client.http, client.prompt("hi", options={"num_predict": count}) as stream:
            first = stream.next()
            assert first is not None
            streaming.wait(PATIENCE)
            shown = [first, *stream.rest()]
            wait_ready(client)
            check_whole(client, stream.response.headers["Content-Location"], shown, count)

    with ThreadPoolExecutor(replies) as executor:
        conversing = [executor.submit(converse, number) for number in range(replies)]
        streaming.wait(PATIENCE)
        trouble()
        for one in conversing:
            one.result()


@pytest.mark.parametrize("mode", [pytest.param("fast", marks=pytest.mark.extended), "immediate"])
def test_replies_survive_a_restart_of_postgresql_word_by_word(
    mode: str, start_chatterd: Callable[..., Program], ollama: ScriptedOllama
) -> None:
    ollama.default = (Words(pause=0.005),)
    with OwnPostgres() as postgres:
        program = start_chatterd(database_url=postgres.url, acquire_timeout=1, heartbeat_interval=0.2)
        stream_through(program.url, 8, 500, lambda: postgres.restart(mode))
        assert not rows(postgres.url, "SELECT FROM replies WHERE status <> 'done'")
        program.terminate()


@pytest.mark.extended
def test_replies_survive_many_broken_connections_word_by_word(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama, database_url: str
) -> None:
    ollama.default = (Words(pause=0.005),)
    choice = random.Random(3)

    def trouble() -> None:
        for _ in range(15):
            time.sleep(choice.uniform(0, 0.3))
            proxy.cut()
            proxy.restore()

    stream_through(str(ask(heartbeat_interval=0.2).http.base_url), 6, 600, trouble)
    assert not rows(database_url, "SELECT FROM replies WHERE status <> 'done'")


def test_one_connection_is_enough_for_several_replies(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    ollama.default = (Words(pause=0.005),)
    program = start_chatterd(database_url=database_url, pool_size=1)
    stream_through(program.url, 10, 50, lambda: None)
