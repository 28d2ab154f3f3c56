"""Statements that PostgreSQL rolls back: whatever is not a refusal of the text itself is tried again, without loss."""

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from urllib.parse import quote

import httpx
import pytest

from tests import pgbouncer
from tests.client import Client, Event
from tests.database import PATIENCE, eventually, execute, reply_row, rows
from tests.fakes.ollama import Gate, Head, Lines, Reset, ScriptedOllama, Words, last_line, line
from tests.faults import Fault, held
from tests.program import Program

pytestmark = [
    pytest.mark.expects_log("database"),
    pytest.mark.skipif(pgbouncer.EVERYTHING, reason="a pooler passes no settings of the URL on"),
]

TRIED_AGAIN = re.findall(
    r"\w+",
    "08006 0A000 23502 23505 25006 26000 2BP01 3F000 40001 40003 40P01 42501 42703 42P01 53100 53200 53300 55000 55006"
    " 55P03 57014 57P01 57P03 58030 58P01 P0001 XX000 XX001 XX002",
)
"""SQLSTATEs that are no refusal of a text."""

DEFECTS = ("23502", "23505", "P0", "XX")
"""Those, and their classes, whose reason may be in the text: no statement is repeated on its connection."""

REFUSALS = ["22001", "22003", "22021", "22P02", "22P05", "23514", "44000", "54000"]
"""SQLSTATEs with which PostgreSQL refuses a text."""


def with_options(url: str, options: str) -> str:
    """Return the URL with settings of PostgreSQL for each session."""
    return f"{url}{'&' if '?' in url else '?'}options={quote(options)}"


def whole(events: list[Event], text: str) -> bool:
    """Return whether a viewer saw the text once, and then ``done``, and no error."""
    return (
        [event.id for event in events] == list(range(len(events)))
        and "".join(event.json["message"]["content"] for event in events) == text
        and [event.json["done"] for event in events] == [False] * (len(events) - 1) + [True]
    )


def test_a_lock_in_the_moment_of_the_end_loses_no_message(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=with_options(database_url, "-c lock_timeout=200ms"))
    gates = [Gate() for _ in range(5)]
    for gate in gates:
        ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    all_read = threading.Barrier(len(gates) + 1)

    def converse() -> tuple[list[Event], list[tuple[str, str]]]:
        with Client(program.url) as client, client.prompt("hi") as stream:
            first = stream.next()
            assert first
            all_read.wait(PATIENCE)
            return [first, *stream.rest()], client.messages()

    with ThreadPoolExecutor(len(gates)) as executor:
        conversing = [executor.submit(converse) for _ in gates]
        all_read.wait(PATIENCE)
        with held(database_url, "LOCK TABLE chatts IN SHARE ROW EXCLUSIVE MODE"):
            for gate in gates:
                gate.open()
            program.wait_log("55P03")
        for one in conversing:
            events, messages = one.result()
            assert whole(events, "ab"), events
            assert messages == [("user", "hi"), ("assistant", "ab")]
    assert [row["status"] for row in rows(database_url, "SELECT status FROM replies")] == ["done"] * len(gates)


def end_of(program: Program, state: str) -> tuple[str, list[Event], list[tuple[str, str]]]:
    """Ask in the conversation of a code; return the events and, afterwards, the conversation."""
    with Client(program.url, f"at-{state}") as client:
        events = client.ask("hi", options={"num_predict": 2})
        return state, events, client.messages()


@pytest.mark.parametrize(
    "table",
    [
        "chatts",
        pytest.param("replies", marks=pytest.mark.extended),
        pytest.param("reply_lines", marks=pytest.mark.extended),
    ],
)
def test_a_reply_is_stored_once_whatever_fails_at_its_end(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str, table: str
) -> None:
    """Replies of all codes end at the same time: each of the statements fails, some with the session of all."""
    program = start_chatterd(database_url=database_url)
    event, condition = {
        "chatts": ("INSERT", "NEW.username = 'assistant' AND NEW.appid = 'at-{}'"),
        "replies": ("UPDATE", "NEW.appid = 'at-{}' AND NEW.status = 'done'"),
        "reply_lines": ("INSERT", "NEW.line LIKE '%w1%' AND fault_appid(NEW.reply) = 'at-{}'"),
    }[table]
    execute(
        database_url,
        "CREATE FUNCTION fault_appid(uuid) RETURNS varchar LANGUAGE sql AS 'SELECT appid FROM replies WHERE id = $1'",
    )
    for state in TRIED_AGAIN:
        Fault(database_url, table, state, event, condition.format(state), times=2)
    with ThreadPoolExecutor(len(TRIED_AGAIN)) as executor:
        ended = list(executor.map(partial(end_of, program), TRIED_AGAIN))
    for state, events, messages in ended:
        assert whole(events, "w0 w1 "), (state, events)
        assert messages == [("user", "hi"), ("assistant", "w0 w1 ")], state


def is_ready(program: Program) -> bool:
    return httpx.get(f"{program.url}/readyz", trust_env=False).status_code == 200


def test_a_prompt_is_recorded_once_whatever_fails_at_its_beginning(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    """A conflict or an outage of moments is not seen; after other errors the client is asked to try again."""
    program = start_chatterd(database_url=database_url)
    answered: dict[int, list[str]] = {200: [], 406: [], 503: []}
    for state in [*TRIED_AGAIN, *REFUSALS]:
        condition = f"NEW.username = 'user' AND NEW.appid = 'at-{state}'"
        Fault(database_url, "chatts", state, "INSERT", condition, times=2 if state.startswith(DEFECTS) else 1)
        with Client(program.url, f"at-{state}") as client:
            answer = client.http.post("/llmchat", json=client.body("hi", options={"num_predict": 1}))
            answered[answer.status_code].append(state)
            if answer.status_code == 503:
                assert int(answer.headers["Retry-After"]) > 0
            eventually("ready", partial(is_ready, program))
            if answer.status_code != 200:
                assert client.messages() == []
                assert whole(client.ask("hi", options={"num_predict": 1}), "w0 ")
            assert client.messages() == [("user", "hi"), ("assistant", "w0 ")], state
    assert answered[406] == REFUSALS
    assert {"40001", "40P01", "55P03", "57014", "58030", "53100", "25006"} <= set(answered[200])
    assert {"XX000", "P0001", "08006", "40003", "26000"} <= set(answered[503])


@pytest.mark.expects_log("is refused; ending it without a message")
def test_a_text_that_the_database_refuses_ends_its_reply_at_once(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url)
    faults = [
        Fault(database_url, "chatts", state, condition=f"NEW.username = 'assistant' AND NEW.appid = 'at-{state}'")
        for state in REFUSALS
    ]
    with ThreadPoolExecutor(len(REFUSALS) + 1) as executor:
        other = executor.submit(end_of, program, "other")
        ended = list(executor.map(partial(end_of, program), REFUSALS))
    assert whole(other.result()[1], "w0 w1 ")
    for state, events, messages in ended:
        assert [event.name for event in events[-1:]] == ["error"], (state, events)
        assert "could not be saved" in events[-1].json["error"]
        assert messages == [("user", "hi")]
    assert all(fault.executions <= 2 for fault in faults), "with others, and alone"
    assert {row["status"] for row in rows(database_url, "SELECT status FROM replies WHERE appid <> 'at-other'")} == {
        "failed"
    }


@pytest.mark.expects_log("is not stored")
@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("42501", True),
        ("XX001", False),
        pytest.param("55P03", True, marks=pytest.mark.extended),
        pytest.param("P0001", False, marks=pytest.mark.extended),
    ],
)
def test_a_reply_whose_end_fails_for_long_ends_with_an_error_and_is_stored_later(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str, state: str, kept: bool
) -> None:
    """What may be due to the text is stored without it, so that the conversation can go on."""
    program = start_chatterd(database_url=database_url, db_retry_timeout=1)
    fault = Fault(database_url, "chatts", state, condition="NEW.username = 'assistant'")
    with Client(program.url) as client:
        with client.prompt("hi", options={"num_predict": 2}) as stream:
            path = stream.response.headers["Content-Location"]
            events = stream.rest()
        assert [event.name for event in events] == ["message"] * (len(events) - 1) + ["error"]
        assert "could not be saved" in events[-1].json["error"]
        if kept:
            fault.wait(fault.executions + 3)
            assert reply_row(database_url, path)["status"] == "streaming"
            fault.remove()
        eventually("stored", lambda: reply_row(database_url, path)["status"] == "failed")
        assert client.messages() == [("user", "hi")] + kept * [("assistant", "w0 w1 ")]
        assert client.view(path) == events
        if not kept:
            fault.remove()
        assert whole(client.ask("again", options={"num_predict": 1}), "w0 ")


def is_failed(url: str, path: str) -> bool:
    return bool(reply_row(url, path)["status"] == "failed")


@pytest.mark.expects_log("is not stored", "does not store lines")
def test_replies_whose_lines_cannot_be_written_do_not_hold_up_others(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    """As with a damaged page of the index of reply_lines, to which the lines of some replies belong."""
    program = start_chatterd(database_url=database_url, db_retry_timeout=1, heartbeat_interval=0.2)
    gates = [Gate(), Gate()]
    for gate in gates:
        ollama.script(Head(), Lines(line("a")), gate, Lines(line("b")), Gate())
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(program.url)) for _ in gates]
        streams = [stack.enter_context(client.prompt("hi")) for client in clients]
        shown = [[stream.next()] for stream in streams]
        paths = [stream.response.headers["Content-Location"] for stream in streams]
        ollama.default = (Words(pause=0.005),)
        ids = ", ".join(f"'{path.removeprefix('/llmchat/')}'" for path in paths)
        fault = Fault(database_url, "reply_lines", "XX001", condition=f"NEW.reply IN ({ids})")
        for gate in gates:
            gate.open()
        fault.wait(4)
        with ThreadPoolExecutor(8) as executor:
            for _, said, messages in executor.map(partial(end_of, program), map(str, range(24))):
                assert whole(said, "w0 w1 ")
                assert messages == [("user", "hi"), ("assistant", "w0 w1 ")]
        for stream, events in zip(streams, shown, strict=True):
            events += stream.rest()
            assert [event and event.name for event in events] == ["message", "error"]
        fault.remove()
        for path, client, events in zip(paths, clients, shown, strict=True):
            eventually("stored", partial(is_failed, database_url, path))
            assert client.view(path) == events


@pytest.mark.expects_log("does not store lines")
def test_lines_go_on_after_all_have_failed(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url, db_retry_timeout=10)
    gates = [Gate() for _ in range(4)]
    for gate in gates:
        ollama.script(Head(), Lines(line("a")), gate, Lines(line("b")), Gate())
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(program.url)) for _ in gates]
        streams = [stack.enter_context(client.prompt("hi")) for client in clients]
        assert all(stream.next() for stream in streams)
        fault = Fault(database_url, "reply_lines", "XX002")
        for gate in gates:
            gate.open()
        fault.wait(20)
        fault.remove()
        for stream in streams:
            event = stream.next()
            assert event and event.json["message"]["content"] == "b", event
        for client in clients:
            client.http.delete(f"/llmchat/{client.history()['reply']['id']}")


def blocked(url: str) -> bool:
    """Return whether a statement waits for a lock of a table."""
    return bool(rows(url, "SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation'"))


def test_what_is_read_waits_for_a_lock_and_asks_to_try_again_if_it_lasts(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=with_options(database_url, "-c lock_timeout=100ms"))
    unknown = "12345678-1234-1234-1234-123456789012"
    requests = {
        ("GET", f"/llmchat/{unknown}"): 404,
        ("DELETE", f"/llmchat/{unknown}"): 404,
        ("GET", "/llmchat?appID=x"): 200,
        ("DELETE", "/llmchat?appID=x"): 204,
        ("GET", "/getchatts"): 200,
        ("POST", "/postchatt"): 200,
        ("POST", "/llmprep"): 200,
    }
    tables = "LOCK TABLE chatts, replies, reply_lines IN ACCESS EXCLUSIVE MODE"

    def ask(request: tuple[str, str]) -> int:
        method, path = request
        with Client(program.url, "x") as client:
            body = {"name": "me", "message": "hi"} if path == "/postchatt" else client.body("hi")
            answer = client.http.request(method, path, json=body if method == "POST" else None)
            assert answer.status_code != 503 or int(answer.headers["Retry-After"]) > 0
            return answer.status_code

    with ThreadPoolExecutor(len(requests)) as executor:
        with held(database_url, tables):
            asked = {request: executor.submit(ask, request) for request in requests}
            assert {one.result() for one in asked.values()} == {503}
        eventually("ready", partial(is_ready, program))
        for request, status in requests.items():
            with held(database_url, tables):
                one = executor.submit(ask, request)
                eventually("waits", lambda: blocked(database_url))
            assert one.result() == status, request
    assert [row["message"] for row in rows(database_url, "SELECT message FROM chatts WHERE appid IS NULL")] == ["hi"]


def test_a_reply_that_cannot_be_continued_because_of_the_database_ends_with_an_error(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    url = with_options(database_url, "-c lock_timeout=100ms")
    program = start_chatterd(database_url=url, db_retry_timeout=1, heartbeat_interval=0.2)
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Reset())
    with Client(program.url) as client:
        with client.prompt("hi") as stream:
            assert stream.next()
            path = stream.response.headers["Content-Location"]
            with held(database_url, "LOCK TABLE chatts IN ACCESS EXCLUSIVE MODE"):
                gate.open()
                [last] = stream.rest()
        assert (last.name, "database is unavailable" in last.json["error"]) == ("error", True)
        eventually("stored", lambda: reply_row(database_url, path)["status"] == "failed")
        assert client.messages() == [("user", "hi"), ("assistant", "a")]


def test_replies_are_stored_with_serializable_transactions_as_the_default(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    """The statements are written for READ COMMITTED, which chatterd's sessions use whatever the default is."""
    [[name]] = rows(database_url, "SELECT current_database()")
    execute(database_url, f'ALTER DATABASE "{name}" SET default_transaction_isolation = serializable')
    program = start_chatterd(database_url=with_options(database_url, "-c default_transaction_isolation=serializable"))
    for table in ("chatts", "replies", "reply_lines"):
        Fault(database_url, table, "XX000", condition="current_setting('transaction_isolation') <> 'read committed'")
    with ThreadPoolExecutor(8) as executor:
        ended = list(executor.map(partial(end_of, program), map(str, range(16))))
    for number, events, messages in ended:
        assert whole(events, "w0 w1 "), (number, events)
        assert messages == [("user", "hi"), ("assistant", "w0 w1 ")]
    assert "SQLSTATE" not in program.log


def test_an_orphan_that_cannot_be_adopted_does_not_keep_a_sweep_from_the_rest(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    """A reply whose row cannot be written belongs to no process; another one was begun by a statement whose result was
    lost, and is stopped."""
    start_chatterd(database_url=database_url)
    insert = "INSERT INTO replies (id, tenant, appid, model, request, owner, stop, context_last)"
    fault = Fault(database_url, "replies", "XX001", "UPDATE", "NEW.appid = 'damaged'")
    execute(database_url, f"{insert} VALUES (gen_random_uuid(), '', 'damaged', 'fake', '{{}}', NULL, true, 0)")
    fault.wait(1)
    execute(
        database_url, f"{insert} SELECT gen_random_uuid(), '', 'own', 'fake', '{{}}', owner, true, 0 FROM processes"
    )
    status = "SELECT status FROM replies WHERE appid = $1"
    eventually("stopped", lambda: rows(database_url, status, "own")[0]["status"] == "stopped")
    assert rows(database_url, status, "damaged")[0]["status"] == "streaming"
    fault.remove()
    eventually("stopped, too", lambda: rows(database_url, status, "damaged")[0]["status"] == "stopped")
