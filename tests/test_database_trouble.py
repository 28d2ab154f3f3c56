"""PostgreSQL away, back, cut, or silent at the worst moment: nothing is lost, all is told, it recovers by itself."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest

from tests.client import Client
from tests.database import eventually, reply_row, rows, with_connection
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.fakes.proxy import CuttingProxy
from tests.program import Program

AWAY = ("database", "presence session was lost", "pool connection floor")
"""What the log may say while the database is away."""

pytestmark = pytest.mark.expects_log(*AWAY)

READY = {"ready": True, "draining": False, "database": "ok", "ollama": "ok"}


@pytest.fixture
def proxy(database_url: str) -> Iterator[CuttingProxy]:
    with CuttingProxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def ask(proxy: CuttingProxy, start_chatterd: Callable[..., Program]) -> Iterator[Callable[..., Client]]:
    """A client of a chatterd whose database is behind the proxy."""
    clients: list[Client] = []

    def start(**settings: object) -> Client:
        program = start_chatterd(database_url=proxy.url, **{"acquire_timeout": 1, **settings})
        clients.append(Client(program.url))
        return clients[-1]

    yield start
    proxy.restore()  # so that the program ends as it should
    for client in clients:
        client.http.close()


def check_refused(client: Client, method: str, path: str, **request: Any) -> None:
    answer = client.http.request(method, path, **request)
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert "database cannot be reached" in answer.json()["error"]


def wait_ready(client: Client) -> None:
    eventually("ready", lambda: client.http.get("/readyz").json() == READY)


def test_a_program_started_without_its_database_says_so_and_recovers_by_itself(
    start_chatterd: Callable[..., Program], database_url: str
) -> None:
    with CuttingProxy(database_url, away=True) as proxy:
        client = Client(start_chatterd(database_url=proxy.url, acquire_timeout=1).url)
        with client.http:
            answer = client.http.get("/readyz")
            assert (answer.status_code, answer.json()) == (503, READY | {"ready": False, "database": "unreachable"})
            assert int(answer.headers["Retry-After"]) > 0
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


def test_a_database_that_goes_away_and_comes_back_is_told_and_found_again(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama
) -> None:
    client = ask()
    client.ask("one")
    for _ in range(2):
        proxy.cut()
        check_refused(client, "POST", "/llmchat", json=client.body("refused"))
        check_refused(client, "GET", "/llmchat", params={"appID": client.appid})
        answer = client.http.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, READY | {"ready": False, "database": "unreachable"})
        assert client.http.get("/healthz").status_code == 200
        proxy.restore()
        wait_ready(client)
    assert len(ollama.requests) == 1
    client.ask("two")
    assert [content for role, content in client.messages() if role == "user"] == ["one", "two"]


def test_a_cut_between_two_requests_is_over_after_one_refusal_at_most(
    ask: Callable[..., Client], proxy: CuttingProxy
) -> None:
    client = ask()
    client.ask("one")
    proxy.cut()
    proxy.restore()
    client.http.post("/llmchat", json=client.body("perhaps"))
    assert client.ask("two")[-1].json["done"] is True


def test_a_database_that_refuses_new_sessions_is_a_database_that_is_away(
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
            answer = client.http.get("/readyz")
            assert (answer.status_code, answer.json()) == (503, READY | {"ready": False, "database": "unreachable"})
            check_refused(client, "POST", "/llmchat", json=client.body("hi"))
        finally:
            with_connection(postgres, lambda c: c.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
        wait_ready(client)


def test_while_the_database_is_away_a_reply_streams_on_and_done_waits_for_it(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama, database_url: str
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(line("b"), last_line("c")))
    client = ask(heartbeat=0.05)
    with client.prompt("hi") as stream:
        first = stream.next()
        assert first is not None and first.json["message"]["content"] == "a"
        proxy.cut()
        gate.open()
        second = stream.next()
        assert second is not None and second.json["message"]["content"] == "b"
        assert [stream.comment() for _ in range(5)] == [": waiting"] * 5
        path = stream.response.headers["Content-Location"]
        assert reply_row(database_url, path)["status"] == "streaming"
        proxy.restore()
        [last] = stream.rest()
        assert last.json["done"] is True and last.json["done_reason"] == "stop"
        assert reply_row(database_url, path)["status"] == "done"
    assert rows(database_url, "SELECT message FROM chatts ORDER BY seq")[1]["message"] == "abc"


def test_a_database_away_for_too_long_is_told_and_the_reply_is_kept_when_it_is_back(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama, database_url: str
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    client = ask(db_patience=0.2)
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


def test_a_prompt_whose_answer_from_the_database_is_lost_is_not_lost(
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


def test_a_prompt_sent_again_with_its_key_after_a_lost_answer_finds_its_reply(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama
) -> None:
    client = ask()
    headers = {"Idempotency-Key": "k"}
    lost = proxy.lose(b"remember me")
    check_refused(client, "POST", "/llmchat", json=client.body("remember me"), headers=headers)
    lost.wait()
    assert len(client.ask("remember me", headers=headers)) == 6
    assert client.messages() == [("user", "remember me"), ("assistant", "w0 w1 w2 w3 w4 ")]
    assert len(ollama.requests) == 1


def test_a_prompt_that_never_reached_the_database_is_refused_and_can_be_sent_again(
    ask: Callable[..., Client], proxy: CuttingProxy, ollama: ScriptedOllama
) -> None:
    client = ask()
    client.ask("one", options={"num_predict": 1})
    lost = proxy.lose(b"forget me", forward=False)
    check_refused(client, "POST", "/llmchat", json=client.body("forget me"))
    lost.wait()
    assert client.ask("two")[-1].json["done"] is True
    assert [content for _, content in client.messages()][:3] == ["one", "w0 ", "two"]
    assert len(ollama.requests) == 2


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


def test_a_prompt_that_is_recorded_long_after_its_connection_was_cut_leaves_no_reply_open(
    ask: Callable[..., Client], proxy: CuttingProxy, database_url: str
) -> None:
    """PostgreSQL finishes a statement whose client is gone: one that waited for a lock when it was cut."""
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
        await connection.execute("LOCK TABLE chatts IN SHARE ROW EXCLUSIVE MODE")  # begin waits, reading does not
        posting = asyncio.create_task(asyncio.to_thread(post))
        await asyncio.to_thread(eventually, "begin waits", lambda: waiting(database_url))
        proxy.cut()
        proxy.restore()
        await posting
        await asyncio.to_thread(eventually, "the program has looked for its reply", lambda: looked(database_url))
        await transaction.rollback()

    with_connection(database_url, scenario)
    assert answers == [503]
    eventually("begin has run", lambda: not waiting(database_url))
    open_replies = "SELECT count(*) FROM replies WHERE status = 'streaming'"
    eventually("no reply is open", lambda: rows(database_url, open_replies)[0]["count"] == 0, timeout=7)
    assert client.ask("next")[-1].json["done"] is True


def waiting(url: str) -> bool:
    """Whether a statement that begins a reply waits for a lock."""
    query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO replies%'"
    return bool(rows(url, query))


def looked(url: str) -> bool:
    """Whether a session of this database has last read a context outside of a begin."""
    query = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'"
        " AND query LIKE '%username = ''system''%' AND query NOT LIKE '%INSERT INTO replies%'"
    )
    return bool(rows(url, query))
