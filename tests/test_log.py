"""The log: one line per request and per end of a reply, in both formats, without conversations and secrets."""

import asyncio
import json
import logging
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.log import gen_log

import logging_setup
from errors import NotFound
from logging_setup import JsonFormatter, TextFormatter, describe, stack_trace
from tests.client import Client
from tests.database import eventually, execute
from tests.fakes.ollama import Body, Gate, Head, Lines, ScriptedOllama, failure, last_line, line
from tests.program import ROOT, Program

MARK = "zebra"
"""Part of every message and secret in these tests."""


@pytest.fixture(params=["text", "json"])
def style(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def entries(log: str) -> list[dict[str, Any]]:
    """Parse a log in JSON; fails if a line is not JSON."""
    return [json.loads(line) for line in log.splitlines()]


def entry(program: Program, **fields: object) -> dict[str, Any]:
    """Wait for the one line of a log in JSON that has these fields."""
    found: list[dict[str, Any]] = eventually(
        f"the log has {fields}",
        lambda: [entry for entry in entries(program.log) if fields.items() <= entry.items()],
    )
    [only] = found
    return only


@pytest.fixture
def json_program(start_chatterd: Callable[..., Program], database_url: str) -> Program:
    """A chatterd that logs in JSON."""
    return start_chatterd(database_url=database_url, log_format="json", client_write_timeout=1)


@pytest.fixture
def start_client() -> Iterator[Callable[..., Client]]:
    with ExitStack() as clients:

        def start(program: Program, appid: str | None = None) -> Client:
            client = Client(program.url, appid)
            clients.enter_context(client.http)
            return client

        yield start


@pytest.fixture
def json_client(json_program: Program, start_client: Callable[..., Client]) -> Client:
    return start_client(json_program)


def connected(program: Program) -> socket.socket:
    address = urlsplit(program.url)
    return socket.create_connection((address.hostname, address.port), 20)


# One line per request and per end of a reply.


def test_a_prompt_logs_its_request_and_its_reply(
    json_client: Client, json_program: Program, ollama: ScriptedOllama
) -> None:
    ollama.script(Head(), Lines(line("a"), line("b"), last_line()))
    with json_client.prompt("hi", headers={"X-Request-ID": "the-prompt"}) as stream:
        stream.rest()
        reply = stream.response.headers["Content-Location"].removeprefix("/llmchat/")
    answered = entry(json_program, message="request", request="the-prompt")
    assert datetime.now(UTC) - datetime.fromisoformat(answered.pop("time")) < timedelta(minutes=1)
    assert 0 < answered.pop("duration_ms") < 60_000
    assert answered == {
        "level": "info",
        "logger": "chatterd.http",
        "message": "request",
        "request": "the-prompt",
        "method": "POST",
        "path": "/llmchat",
        "status": 200,
        "tenant": "",
        "address": "127.0.0.1",
        "reply": reply,
    }
    ended = entry(json_program, message="reply ended")
    assert datetime.fromisoformat(ended.pop("time"))
    assert 0 <= ended["first_line_ms"] <= ended.pop("duration_ms") < 60_000
    assert ended.pop("first_line_ms") < 60_000
    assert ended == {
        "level": "info",
        "logger": "chatterd.relay",
        "message": "reply ended",
        "reply": reply,
        "tenant": "",
        "model": "fake",
        "status": "done",
        "lines": 3,
    }


def test_every_line_is_json_from_start_to_stop(
    start_chatterd: Callable[..., Program], start_client: Callable[..., Client], database_url: str
) -> None:
    program = start_chatterd(database_url=database_url, log_format="json")
    start_client(program).http.get("/nothing/here\u2028")
    assert program.terminate() == 0
    lines = entries(program.log)
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines))
    assert lines[-1]["message"] == "chatterd has stopped."
    [not_found] = [line for line in lines if line.get("status") == 404]
    assert not_found["error"] == "There is nothing at this address."


def test_the_end_of_a_reply_is_logged_without_the_text_of_ollamas_error(
    json_client: Client, json_program: Program, ollama: ScriptedOllama
) -> None:
    def ending(*steps: Any, **fields: Any) -> dict[str, Any]:
        ollama.script(*steps)
        reply = json_client.begin("hi").removeprefix("/llmchat/")
        found = entry(json_program, message="reply ended", reply=reply)
        return {name: found.get(name) for name in ("status", "reason", "lines")}

    expected = {"status": "failed", "reason": "Ollama answered 404.", "lines": 1}
    assert ending(failure(404, f"model '{MARK}' not found")) == expected
    expected = {"status": "failed", "reason": "Ollama sent an error.", "lines": 2}
    assert ending(Head(), Lines(line("a"), b'{"error":"%b"}' % MARK.encode())) == expected
    reason = "Ollama's answer ended before it was complete. Ollama does this when a model repeats itself."
    expected = {"status": "truncated", "reason": reason, "lines": 2}
    assert ending(Head(), Lines(line("a"))) == expected
    ollama.script(Head(), Lines(line("a")), Gate())
    path = json_client.begin("hi")
    with json_client.follow(path) as stream:
        assert stream.next()
        assert json_client.http.delete(path).status_code == 202
    ended = entry(json_program, message="reply ended", reply=path.removeprefix("/llmchat/"))
    assert ended["status"] == "stopped" and "reason" not in ended
    assert MARK not in json_program.log


def test_an_aborted_response_is_logged_once(json_client: Client, json_program: Program, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("a")), gate := Gate(), *[Body(line("x" * 100_000) + b"\n")] * 100)
    path = json_client.begin("hi")
    with json_client.follow(path) as stream:
        assert stream.next()
    left = entry(json_program, path=path, abort_reason="client left")
    assert left["status"] == 200 and left["reply"] == path.removeprefix("/llmchat/")
    with connected(json_program) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-ID: stuck\r\n\r\n".encode())
        gate.open()
        entry(json_program, request="stuck", abort_reason="client too slow")
    assert json_program.terminate() == 0
    ids = [entry["request"] for entry in entries(json_program.log) if entry["message"] == "request"]
    assert len(ids) == len(set(ids)) == 3


def test_viewers_of_a_draining_process_are_not_logged_as_clients_that_left(
    json_client: Client, json_program: Program, ollama: ScriptedOllama
) -> None:
    ollama.script(Head(), Lines(line("a")), Gate())
    path = json_client.begin("hi")
    with ExitStack() as viewers:
        for _ in range(60):
            connection = viewers.enter_context(connected(json_program))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
        assert json_program.terminate() == 0
    ends = [entry["abort_reason"] for entry in entries(json_program.log) if "abort_reason" in entry]
    assert set(ends) == {"handed over"}


def test_lines_in_text_end_with_the_fields(chatterd: Program, client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(last_line()))
    client.ask("hi", model="a model=\n", headers={"X-Request-ID": "in-text"})
    place = r"\[I \d{6} \d\d:\d\d:\d\d \w+:\d+\]"
    chatterd.wait_log(
        rf'^{place} reply ended reply=[0-9a-f-]+ model="a model=\\n" status=done lines=\d+ '
        r"first_line_ms=[\d.]+ duration_ms=[\d.]+$"
    )
    chatterd.wait_log(
        rf"^{place} request request=in-text method=POST path=/llmchat status=200 duration_ms=[\d.]+ "
        r"address=127.0.0.1 reply=[0-9a-f-]+$"
    )


def test_an_unknown_format_is_rejected() -> None:
    run = subprocess.run([sys.executable, "server.py", "--log-format=xml"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == "chatterd: --log-format must be text or json. `server.py --help` lists the settings.\n"


# No conversations, no secrets.


@pytest.mark.expects_log("A request failed", "is refused; ending it", "database")
@pytest.mark.parametrize("level", [pytest.param("info", marks=pytest.mark.extended), "debug"])
def test_the_log_contains_no_conversations_and_no_secrets(
    start_chatterd: Callable[..., Program],
    start_client: Callable[..., Client],
    ollama: ScriptedOllama,
    database_url: str,
    style: str,
    level: str,
) -> None:
    program = start_chatterd(database_url=database_url, log_format=style, logging=level)
    execute(database_url, "ALTER TABLE chatts ADD CONSTRAINT barred CHECK (message NOT LIKE '%BARRED%')")
    secrets = {"Authorization": f"Bearer {MARK}", "Cookie": f"session={MARK}", "X-Api-Key": MARK}
    client = start_client(program, f"{MARK}-conversation")
    client.http.headers.update(secrets)
    answers = [
        (Head(), Lines(line(MARK, message={"thinking": MARK}), last_line(MARK, message={"tool_calls": [{"x": MARK}]}))),
        (failure(400, f"why {MARK}?"),),
        (Head(500), Body(MARK.encode())),
        (Head(), Lines(line("a"), b'{"error":"%b"}' % MARK.encode())),
        (Head(), Lines(MARK.encode() * 1_000, b'{"model":"%b' % MARK.encode(), last_line())),
        (Head(), Lines(line(MARK))),
        (Head(), Lines(line(f"{MARK} BARRED"), last_line())),
        (Head(headers={MARK: "a\x01b"}),),
    ]
    for steps in answers:
        ollama.script(*steps)
        client.ask(f"{MARK}?", headers={"Idempotency-Key": f"{MARK}-{steps}"[:200]})
    for body in (
        client.body(f"{MARK}\0"),
        client.body(f"{MARK} BARRED"),
        client.body(MARK, extra=[[MARK]]) | {"messages": [{"role": MARK, "content": MARK}]},
        {"appID": MARK * 99},
    ):
        assert client.http.post("/llmchat", json=body).status_code in (406, 422, 500)
    half = json.dumps(client.body(MARK)).replace(MARK, MARK + "\\ud800")
    json_headers = {"Content-Type": "application/json"}
    assert client.http.post("/llmchat", content=half, headers=json_headers).status_code in (400, 406, 422)
    assert client.http.post("/llmchat", content=f'{{"{MARK}": ', headers=json_headers).status_code == 400
    client.history(before=9, token=MARK)
    client.http.get("/llmchat", params={"appID": "x", "before": MARK})
    client.http.get(f"/llmchat?appID={MARK}%ff")
    client.http.post("/llmprompt", json={"model": MARK, "prompt": MARK})
    client.http.get("/nothing", params={MARK: MARK})
    bad_fields = (
        f"Authorization: {MARK}\x01",
        f"{MARK}\x02: x",
        f"Content-Length: {MARK}",
        f"Transfer-Encoding: {MARK}",
    )
    for field in bad_fields:
        with connected(program) as connection:
            connection.sendall(f"POST /llmchat HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n".encode())
            assert connection.recv(1_000).startswith(b"HTTP/1.1 4")
    client.http.get("/healthz", headers={"X-Request-ID": "the-last"})
    program.wait_log("the-last")
    assert "Traceback" in program.log and "CheckViolationError (23514" in program.log
    assert [line for line in program.log.splitlines() if MARK in line] == []


# SIGHUP.


def test_sighup_is_logged_and_does_not_interrupt_replies(
    json_client: Client, json_program: Program, ollama: ScriptedOllama
) -> None:
    ollama.script(Head(), Lines(line("a")), gate := Gate(), Lines(last_line("b")))
    with json_client.prompt("hi") as stream:
        assert stream.next()
        json_program.process.send_signal(signal.SIGHUP)
        json_program.wait_log("SIGHUP: reloading")
        gate.open()
        assert stream.rest()[-1].json["done"] is True


def test_a_server_stops_when_its_terminal_is_closed(ollama: ScriptedOllama, database_url: str) -> None:
    controller, terminal = pty.openpty()
    settings = ["--port=0", f"--database-url={database_url}", f"--ollama-host={ollama.url}", "--drain-timeout=1"]
    process = subprocess.Popen(
        [sys.executable, "server.py", *settings],
        cwd=ROOT,
        stdin=terminal,
        stderr=terminal,
        stdout=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    output = b""
    while b"is ready" not in output:
        output += os.read(controller, 1_000)
    process.send_signal(signal.SIGHUP)
    while b"SIGHUP: reloading" not in output:
        output += os.read(controller, 1_000)
    os.close(controller)
    process.send_signal(signal.SIGHUP)  # the kernel sends it only to processes with this controlling terminal
    try:
        assert process.wait(20) == 0
    finally:
        process.kill()


# Functions and formatters.


def record(name: str, message: str, *values: object, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    extra = {"fields": fields}
    created = logging.getLogger(name).makeRecord(name, level, "x.py", 1, message, values, None, extra=extra)
    assert logging_setup.redact(created)
    return created


texts = st.text(st.characters() | st.sampled_from("\n\r\u2028\x1b\0\"=' \ud800"))


@given(texts, st.dictionaries(st.sampled_from("abcd"), texts | st.integers() | st.floats() | st.none()))
def test_any_value_is_formatted_in_one_line(value: str, fields: dict[str, Any]) -> None:
    created = record("chatterd", "message", value=value, **fields)
    written = JsonFormatter().format(created)
    assert written.isascii() and written.isprintable()
    assert json.loads(written)["value"] == value[: logging_setup.TEXT_LIMIT]
    shown = TextFormatter(color=False).format(created)
    assert shown.isprintable()


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_exceptions_are_described_without_data() -> None:
    assert describe(ValueError(f"invalid literal: {MARK}")) == "ValueError"
    assert describe(KeyError(MARK)) == "KeyError"
    assert describe(NotFound("There is no such reply.")) == "NotFound: There is no such reply."
    assert describe(ConnectionRefusedError(111, "Connect call failed")).endswith("[Errno 111] Connect call failed")
    assert describe(TimeoutError()) == "TimeoutError"
    starting = asyncpg.CannotConnectNowError("the database system is starting up")
    assert describe(starting) == "CannotConnectNowError: the database system is starting up"
    violation = asyncpg.UniqueViolationError.new(
        {
            "C": "23505",
            "M": "duplicate key",
            "D": f"Key (appid)=({MARK}) already exists.",
            "t": "replies",
            "n": "one",
        }
    )
    assert describe(violation) == "UniqueViolationError (23505, replies, one)"
    assert MARK in str(violation)


def test_a_stack_trace_shows_each_cause_once_and_the_first_cause_first() -> None:
    cause = raised(ValueError(MARK))
    error = raised(RuntimeError("it failed"), cause)
    cause.__cause__ = error  # a cycle
    trace = stack_trace(error)
    assert trace.index("\nValueError\n") < trace.index("This led to:") < trace.index("RuntimeError: it failed")
    assert trace.count("Traceback") == 2 and "in raised" in trace and MARK not in trace
    group = raised(BaseExceptionGroup(MARK, [raised(OSError("no")), ValueError(MARK)]))
    assert "OSError: no" in stack_trace(group) and MARK not in stack_trace(group)


def test_values_logged_by_libraries_are_redacted() -> None:
    assert (
        record("tornado.general", "from %s: %s", "1.2.3.4", ValueError(MARK)).getMessage() == "from 1.2.3.4: ValueError"
    )
    assert record("chatterd.db", "rejected: %s", asyncpg.DataError(MARK)).getMessage() == "rejected: DataError (22000)"
    assert record("tornado.application", "in %r", [MARK]).getMessage() == "in '<list>'"
    assert record(gen_log.name, "SSL Error", level=logging.WARNING).levelname == "INFO"
    assert record(gen_log.name, "Uncaught", level=logging.ERROR).levelname == "ERROR"


@pytest.mark.expects_log("Exception in a callback")
def test_an_uncaught_exception_in_the_loop_is_logged_without_values(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(logging_setup.log_loop_error)
        loop.call_soon(int, MARK)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(run())
    [logged] = caplog.records
    assert logged.getMessage() == "Exception in a callback" and logged.exc_info


def test_an_uncaught_exception_is_logged_as_critical(tmp_path: Path) -> None:
    setup = "import logging_setup, logging; logging.basicConfig(); logging_setup.configure('json')"
    script = f"{setup}; import sys; raise ValueError(sys.argv[1])"
    run = subprocess.run([sys.executable, "-c", script, MARK], cwd=ROOT, capture_output=True, text=True)
    [logged] = entries(run.stderr)
    assert run.returncode == 1
    assert logged["level"] == "critical" and logged["error"] == "ValueError" and MARK not in logged["trace"].lower()
