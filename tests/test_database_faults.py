"""Statements that PostgreSQL rolls back: whatever is not a refusal of the text itself is tried again, without loss."""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from tests.client import Client, Event
from tests.database import PATIENCE, execute, rows
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.faults import Fault, held
from tests.program import Program

pytestmark = pytest.mark.expects_log("database")

TRIED_AGAIN = re.findall(
    r"\w+",
    "08006 0A000 23502 23505 25006 26000 2BP01 3F000 40001 40003 40P01 42501 42703 42P01 53100 53200 53300 55000 55006"
    " 55P03 57014 57P01 57P03 58030 58P01 P0001 XX000 XX001 XX002",
)
"""SQLSTATEs that are no refusal of a text."""

REFUSALS = ["22001", "22003", "22021", "22P02", "22P05", "23514", "44000", "54000"]
"""SQLSTATEs with which PostgreSQL refuses a text."""


def with_options(url: str, options: str) -> str:
    """Return the URL with settings of PostgreSQL for each session."""
    return f"{url}{'&' if '?' in url else '?'}options={quote(options)}"


@contextmanager
def faults(make: Callable[[str], Fault], states: list[str]) -> Iterator[dict[str, Fault]]:
    made = {state: make(state) for state in states}
    yield made


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
    with Client(program.url, f"at-{state}") as client:
        events = client.ask("hi", options={"num_predict": 2})
        return state, events, client.messages()


@pytest.mark.parametrize("table", ["chatts", "replies", "reply_lines"])
def test_a_reply_is_stored_once_whatever_fails_at_its_end(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str, table: str
) -> None:
    """Each statement fails some times; with the codes of outages all replies are affected by all of them."""
    program = start_chatterd(database_url=database_url, heartbeat_interval=0.2)
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
        Fault(database_url, table, state, event, condition.format(state), times=4)
    with ThreadPoolExecutor(len(TRIED_AGAIN)) as executor:
        ended = list(executor.map(lambda state: end_of(program, state), TRIED_AGAIN))
    for state, events, messages in ended:
        assert whole(events, "w0 w1 "), (state, events)
        assert messages == [("user", "hi"), ("assistant", "w0 w1 ")], state
