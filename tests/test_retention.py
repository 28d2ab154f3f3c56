"""The log of ended replies: pruned in batches, served in pages; and replies whose log is pruned."""

import threading
import time
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import httpx
import pytest

from tests.client import NO_TLS, Client
from tests.database import eventually, execute, reply_row, rows
from tests.fakes.ollama import Head, Lines, ScriptedOllama, line
from tests.program import Program

LOGGED = "SELECT count(*) FROM reply_lines WHERE reply = $1"


@pytest.fixture
def forgetful(start_chatterd: Callable[..., Program], database_url: str) -> Iterator[Client]:
    """Yield a client of a chatterd with a very short retention time."""
    client = Client(start_chatterd(database_url=database_url, reply_log_retention=0.2).url)
    with client.http:
        yield client


def uuid(path: str) -> UUID:
    return UUID(path.removeprefix("/llmchat/"))


def wait_pruned(url: str, path: str) -> None:
    eventually("pruned", lambda: reply_row(url, path)["pruned"])
    assert rows(url, LOGGED, uuid(path))[0]["count"] == 0


def add_ended_reply(url: str, lines: int, ago: str) -> str:
    """Insert a reply that ended some time ago, with a log of so many lines; return its path."""
    id = uuid4()
    execute(
        url,
        f"""
        INSERT INTO replies (id, tenant, appid, model, request, status, owner, started, finished)
        SELECT '{id}', '', 'added-{id}', 'fake', '{{}}', 'done', 1, at, at
        FROM (SELECT now() - interval '{ago}' AS at) AS ended;
        INSERT INTO reply_lines (reply, seq, line)
        SELECT '{id}', n, '{{"model":"fake","message":{{"role":"assistant","content":"w' || n || ' "}},"done":'
            || (n = {lines} - 1) || '}}'
        FROM generate_series(0, {lines} - 1) AS n;
        """,
    )
    return f"/llmchat/{id}"


def test_an_ended_reply_is_shown_from_its_log_during_the_retention_time(
    client: Client, session_database_url: str
) -> None:
    path = client.begin("hi")
    shown = client.view(path)
    assert len(shown) == 6
    assert client.view(path) == shown
    assert client.view(path, last_event_id=3) == shown[4:]
    assert rows(session_database_url, LOGGED, uuid(path))[0]["count"] == 6


def test_a_reply_with_a_pruned_log_is_shown_as_one_line(forgetful: Client, database_url: str) -> None:
    path = forgetful.begin("hi")
    forgetful.view(path)
    wait_pruned(database_url, path)
    [event] = forgetful.view(path)
    assert (event.id, event.name) == (0, "message")
    assert event.json["message"] == {"role": "assistant", "content": "w0 w1 w2 w3 w4 "}
    assert event.json["done"] is True


def test_a_viewer_that_resumes_in_a_pruned_log_gets_no_more_lines(forgetful: Client, database_url: str) -> None:
    path = forgetful.begin("hi")
    forgetful.view(path)
    wait_pruned(database_url, path)
    for last in (0, 3, 5, 1_000):
        answer = forgetful.http.get(path, headers={"Last-Event-ID": str(last)})
        assert (answer.status_code, answer.content) == (204, b""), last


def test_a_log_is_not_read_after_its_retention_time_even_before_it_is_pruned(
    start_chatterd: Callable[..., Program], database_url: str
) -> None:
    client = Client(start_chatterd(database_url=database_url, reply_log_retention=60).url)
    with client.http:
        path = client.begin("hi")
        assert len(client.view(path)) == 6
        execute(database_url, "UPDATE replies SET finished = now() - interval '61 seconds'")
        [event] = client.view(path)
        assert event.json["message"]["content"] == "w0 w1 w2 w3 w4 "
        assert client.http.get(path, headers={"Last-Event-ID": "2"}).status_code == 204


def test_a_failed_reply_with_a_pruned_log_shows_its_partial_text_and_error(
    forgetful: Client, ollama: ScriptedOllama, database_url: str
) -> None:
    ollama.script(Head(), Lines(line("so far "), line("so good")))
    path = forgetful.begin("hi")
    error = forgetful.view(path)[-1]
    wait_pruned(database_url, path)
    partial, told = forgetful.view(path)
    assert (partial.id, partial.json["message"]["content"], partial.json["done"]) == (0, "so far so good", False)
    assert (told.id, told.name, told.data) == (1, "error", error.data)


@pytest.mark.parametrize("last", [2**31 - 2, 2**31 - 1, 2**31, 10**18 - 1])
def test_a_last_event_id_beyond_the_log_returns_no_lines(client: Client, last: int) -> None:
    path = client.begin("hi")
    client.view(path)
    answer = client.http.get(path, headers={"Last-Event-ID": str(last)})
    assert (answer.status_code, answer.content) == (204, b"")


def test_only_expired_logs_are_pruned(start_chatterd: Callable[..., Program], database_url: str) -> None:
    start_chatterd(database_url=database_url).terminate()  # creates the tables
    old = [add_ended_reply(database_url, 12_345, "2 hours"), add_ended_reply(database_url, 0, "2 hours")]
    young = add_ended_reply(database_url, 10, "10 minutes")
    client = Client(start_chatterd(database_url=database_url).url)
    with client.http:
        for path in old:
            wait_pruned(database_url, path)
        assert len(client.view(young)) == 10
        assert not reply_row(database_url, young)["pruned"]


def test_a_backlog_of_100_000_lines_does_not_block_other_requests(
    start_chatterd: Callable[..., Program], database_url: str
) -> None:
    program = start_chatterd(database_url=database_url)
    path = add_ended_reply(database_url, 100_000, "1 second")
    shown = threading.Event()
    waits: list[float] = []

    def ask_health() -> None:
        with httpx.Client(base_url=program.url, trust_env=False, verify=NO_TLS) as other:
            while not shown.is_set():
                since = time.monotonic()
                assert other.get("/healthz").status_code == 200
                waits.append(time.monotonic() - since)

    asking = threading.Thread(target=ask_health)
    asking.start()
    client = Client(program.url)
    began = time.monotonic()
    try:
        with client.http, client.follow(path) as stream:
            chunks = b"".join(stream.response.iter_raw())
        took = time.monotonic() - began
    finally:
        shown.set()
        asking.join()
    events = chunks.split(b"\n\n")
    assert events.pop() == b""
    assert [event.split(b"\n", 1)[0] for event in events] == [b"id: %d" % number for number in range(100_000)]
    assert len(waits) > 20, "nobody else was served"
    assert max(waits) < max(1, took / 4)
