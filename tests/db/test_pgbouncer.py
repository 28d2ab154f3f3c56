"""The pool behind PgBouncer in transaction mode, as configured in deploy/pgbouncer.ini."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.client import Client
from tests.cluster import words
from tests.database import eventually, execute, reply_row, rows
from tests.fakes.ollama import Gate, ScriptedOllama, Words
from tests.pgbouncer import PgBouncer
from tests.program import Program, failed_start

pytestmark = pytest.mark.needs("pgbouncer")

JSON = {"Content-Type": "application/json"}

SESSIONS = 2
"""PgBouncer's connections to PostgreSQL: few, so that consecutive transactions of a client use different ones."""

Start = Callable[..., Program]


@pytest.fixture(scope="module")
def bouncer(postgres: str) -> Iterator[PgBouncer]:
    with PgBouncer(postgres, SESSIONS) as bouncer:
        yield bouncer


@pytest.fixture
def start(start_chatterd: Start, bouncer: PgBouncer, database_url: str) -> Start:
    """Start chatterd processes on one database behind PgBouncer."""

    def start(**settings: object) -> Program:
        pooled = {"database_url": bouncer.url(database_url), "session_database_url": database_url}
        return start_chatterd(**pooled | settings)

    return start


@pytest.fixture
def client(start: Start) -> Iterator[Client]:
    with Client(start().url) as client:
        yield client


def view(client: Client, path: str) -> str:
    return "".join(event.json["message"]["content"] for event in client.view(path))


@pytest.mark.extended
def test_many_prompts_share_few_connections(start: Start, database_url: str) -> None:
    urls = [start().url for _ in range(2)]

    def ask(number: int) -> str:
        client = Client(urls[number % 2])
        with client.http:
            path = client.begin("hi", options={"num_predict": 10})
            return view(client, path)

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(ask, range(60))) == [words(10)] * 60
    stored = rows(database_url, "SELECT message FROM chatts WHERE username = 'assistant'")
    assert [row["message"] for row in stored] == [words(10)] * 60


@pytest.mark.extended
def test_a_stop_request_reaches_the_owner(start: Start, client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Words(hold={1: Gate()}))
    other = Client(start().url)
    with other.http, client.prompt("hi") as stream:
        assert stream.next()
        assert other.http.delete(stream.response.headers["Content-Location"]).status_code == 202
        [last] = stream.rest()
    assert last.json["done_reason"] == "stopped"


def test_a_viewer_in_another_process_receives_all_lines(start: Start, client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Words(hold={1: gate}))
    other = Client(start().url)
    path = client.begin("hi")
    with other.http, other.follow(path) as stream:
        assert stream.next()
        gate.open()
        assert len(stream.rest()) == 5


@pytest.mark.extended
def test_another_process_continues_a_reply_after_a_kill(
    start: Start, ollama: ScriptedOllama, database_url: str
) -> None:
    ollama.script(Words(hold={3: Gate()}))
    first, second = start(), start()
    other = Client(second.url)
    with Client(first.url) as client:
        path = client.begin("hi", options={"num_predict": 6})
        with client.follow(path) as stream:
            for _ in range(3):
                assert stream.next()
            first.kill()
    with other.http:
        assert view(other, path) == words(6)
    assert reply_row(database_url, path)["status"] == "done"


@pytest.mark.expects_log("database")
def test_terminated_sessions_are_replaced(client: Client, ollama: ScriptedOllama, database_url: str) -> None:
    gate = Gate()
    ollama.script(Words(hold={1: gate}))
    with client.prompt("hi") as stream:
        assert stream.next()
        execute(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        gate.open()
        events = stream.rest()
    assert [event.id for event in events] == [1, 2, 3, 4, 5] and events[-1].json["done"]
    eventually("ready", lambda: client.http.get("/readyz").status_code == 200)


@pytest.mark.expects_log("database", "declared dead")
@pytest.mark.extended
def test_a_reply_waits_for_an_unavailable_pooler_and_then_ends(
    start_chatterd: Start, ollama: ScriptedOllama, database_url: str
) -> None:
    first, second = Gate(), Gate()
    ollama.script(Words(hold={1: first, 3: second}))
    bouncer = PgBouncer(database_url, SESSIONS)
    try:
        program = start_chatterd(
            database_url=bouncer.url(database_url), session_database_url=database_url, acquire_timeout=1
        )
        client = Client(program.url)
        with client.http, client.prompt("hi") as stream:
            assert stream.next()
            bouncer.halt()
            rejected = client.http.post("/llmchat", json=Client(program.url).body("hi"))
            assert rejected.status_code == 503 and "database cannot be reached" in rejected.json()["error"]
            assert client.http.get("/readyz").status_code == 503
            first.open()
            assert [stream.next().id for _ in range(2)] == [1, 2]  # type: ignore[union-attr]
            second.open()
            bouncer.start()
            assert [event.id for event in stream.rest()] == [3, 4, 5]
            assert client.messages()[-1] == ("assistant", words(5))
            eventually("ready", lambda: client.http.get("/readyz").status_code == 200)
    finally:
        bouncer.stop()


@pytest.mark.extended
def test_a_rejected_text_does_not_keep_a_connection(start: Start, client: Client) -> None:
    for text in ("\x00", "\ud800"):
        for _ in range(2 * SESSIONS):
            with Client(str(client.http.base_url)) as other:
                answer = other.http.post("/llmchat", content=json.dumps(other.body(text)), headers=JSON)
                assert answer.status_code in (406, 422), answer.text
    with ThreadPoolExecutor(2 * SESSIONS) as threads:
        assert set(threads.map(lambda _: client.http.get("/readyz").status_code, range(20))) == {200}
    assert client.ask("hi")[-1].json["done"]


def test_urls_of_different_databases_are_rejected(
    bouncer: PgBouncer, database_url: str, new_database: Callable[[], str]
) -> None:
    other = new_database()
    message = failed_start(database_url=bouncer.url(database_url), session_database_url=other)
    assert message == "--session-database-url and --database-url lead to different databases."
    assert rows(other, "SELECT FROM pg_tables WHERE schemaname = 'public'") == []


def test_a_pooler_without_session_database_url_is_detected(bouncer: PgBouncer, database_url: str) -> None:
    message = failed_start(database_url=bouncer.url(database_url))
    assert message.startswith("--database-url leads to a pooler in transaction mode. Set --session-database-url")
    assert rows(database_url, "SELECT FROM pg_tables WHERE schemaname = 'public'") == []
