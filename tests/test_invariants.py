"""The invariants of the design, tested on real processes, word by word; each test is named after its invariant."""

import asyncio
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import psutil
import pytest

from db import ownership, reply_begin, reply_end, reply_lines
from db import processes as process_table
from db.messages import Message
from db.migrate import migrate
from db.ownership import Orphan
from db.reply_begin import BeginResult, NewReply
from db.reply_end import FinishRequest, FinishResult
from tests import pgbouncer
from tests.client import NO_TLS, Client, Event
from tests.cluster import OwnPostgres, SignedWords, lock_holder, lock_holders, words
from tests.database import eventually, execute, reply_row, rows, with_connection
from tests.fakes.ollama import Body, Gate, Head, Lines, ScriptedOllama, last_line, line, ndjson
from tests.program import Program
from tests.viewers import Viewer, framed, log_of

LONG = 60.0
"""A timeout in seconds that suffices on a busy machine."""


class Processes:
    """Processes on one database, and clients of them that share one conversation."""

    def __init__(self, start: Callable[..., Program], url: str, stack: ExitStack) -> None:
        self.url = url
        self.appid = f"test-{uuid4()}"
        self._start = start
        self._stack = stack

    def start(self, **settings: object) -> tuple[Program, Client]:
        program = self._start(database_url=self.url, **{"heartbeat_interval": 0.5, "drain_timeout": 0, **settings})
        client = Client(program.url, self.appid)
        self._stack.callback(client.http.close)
        return program, client

    def check(
        self, path: str, shown: bytes | bytearray | list[Event], said: str, status: str = "done"
    ) -> dict[str, Any]:
        """Check that the shown text, the log and the message are the same; return the reply's row."""
        log = log_of(self.url, path)
        if isinstance(shown, bytes | bytearray):
            assert bytes(shown) == framed(log)
        else:
            assert [event.data for event in shown] == log
            assert [event.id for event in shown] == list(range(len(log)))
        row = reply_row(self.url, path)
        assert (row["status"], row["error"] is None) == (status, status in ("done", "stopped"))
        message = rows(self.url, "SELECT message FROM chatts WHERE id = $1", row["id"])
        assert [one["message"] for one in message] == ([said] if said else [])
        assert "".join(content(event_line) for event_line in log) == said
        return row


def content(log_line: str) -> str:
    said = Event(0, "", log_line).json
    return str(said["message"]["content"]) if "message" in said else ""


@pytest.fixture
def processes(start_chatterd: Callable[..., Program], database_url: str) -> Iterator[Processes]:
    with ExitStack() as stack:
        yield Processes(start_chatterd, database_url, stack)


def watch(path: str, *urls: str) -> tuple[Viewer, threading.Thread]:
    """Start a viewer in its own thread that reads to the reply's end."""
    viewer = Viewer(path)
    thread = threading.Thread(target=viewer.follow, args=(urls, random.Random(1)), daemon=True)
    thread.start()
    return viewer, thread


def join(thread: threading.Thread) -> None:
    thread.join(130)
    assert not thread.is_alive()


def seen(viewer: Viewer, count: int) -> None:
    eventually(f"{count} lines are shown", lambda: viewer.next_id >= count, LONG)


@contextmanager
def frozen(program: Program) -> Iterator[None]:
    """Suspend a process within the ``with`` block."""
    program.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        program.process.send_signal(signal.SIGCONT)


# 1. The bytes shown over any schedule of disconnects are the log from that line on.


def test_invariant_1_viewers_cut_at_any_byte_see_exactly_the_log(processes: Processes, ollama: ScriptedOllama) -> None:
    ollama.default = (SignedWords(pause=0.003),)
    (a, client), (b, _) = processes.start(), processes.start()
    urls = [a.url, b.url]
    path = client.begin("hi", options={"num_predict": 400})
    viewers = [Viewer(path) for _ in range(6)]
    with ThreadPoolExecutor(len(viewers)) as threads:
        cuts = [700, 1_500, 4_000, 20_000, 100_000, None]
        list(threads.map(lambda n: viewers[n].follow(urls, random.Random(n), cuts[n]), range(len(viewers))))
    for viewer in viewers:
        processes.check(path, viewer.shown, words(400))
    assert len(ollama.generations) == 1


def test_invariant_1_every_last_event_id_returns_the_rest_of_the_log_in_every_process(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    (_, client), (_, elsewhere) = processes.start(), processes.start()
    path = client.begin("hi", options={"num_predict": 5})
    first = client.view(path)
    log = log_of(processes.url, path)
    assert len(first) == len(log) == 6
    for one in (client, elsewhere):
        for last in range(-1, 6):
            headers = {"Last-Event-ID": str(last)} if last >= 0 else {}
            answer = one.http.get(path, headers=headers)
            assert (answer.status_code, answer.content) == (
                204 if last == 5 else 200,
                framed(log[last + 1 :], last + 1),
            )


def test_invariant_1_viewers_see_only_a_pause_when_the_owner_is_killed(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    gate = Gate()
    ollama.default = (SignedWords(pause=0.005, hold={20: gate}),)
    (owner, client), (b, _), (c, _) = (processes.start() for _ in range(3))
    path = client.begin("hi", options={"num_predict": 60})
    gate.reached.wait()
    watched = [watch(path, b.url), watch(path, c.url), watch(path, owner.url, b.url, c.url)]
    for viewer, _ in watched:
        seen(viewer, 20)
    killed = time.monotonic()
    owner.kill()
    gate.open()
    request = ollama.arrival(1).wait(LONG)
    print(f"\nkill -9 to the adopter's request: {time.monotonic() - killed:.3f} s", end="")
    assert request.json["raw"] and request.json["prompt"].endswith(words(20))
    for viewer, thread in watched:
        join(thread)
        row = processes.check(path, viewer.shown, words(60))
        print(f"; a viewer's pause {max(viewer.pauses[20:]):.3f} s", end="")
        assert row["attempts"] == 1
    assert len(ollama.generations) == 2


def test_invariant_1_a_drained_process_releases_its_replies_and_viewers_continue_elsewhere(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    ollama.default = (SignedWords(pause=0.01),)
    (owner, client), (b, _) = processes.start(drain_timeout=0.3), processes.start()
    path = client.begin("hi", options={"num_predict": 200})
    watched = [watch(path, owner.url, b.url), watch(path, owner.url, b.url), watch(path, b.url)]
    for viewer, _ in watched:
        seen(viewer, 5)
    began = time.monotonic()
    assert owner.terminate() == 0
    ended = time.monotonic() - began
    for viewer, thread in watched:
        join(thread)
        processes.check(path, viewer.shown, words(200))
    print(f"\ngone {ended:.2f} s after SIGTERM with --drain-timeout=0.3", end="")
    assert ended < 0.3 + 2 + 8, "gone by --drain-timeout plus 2 s; eight more seconds for a busy machine"
    assert len(ollama.generations) == 2
    ollama.arrival(0).wait().closed.wait()


def test_invariant_1_a_draining_process_rejects_prompts_and_finishes_a_short_reply(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    gate = Gate()
    ollama.default = (SignedWords(hold={3: gate}),)
    (owner, client), _ = processes.start(drain_timeout=20), processes.start()
    path = client.begin("hi")
    gate.reached.wait()
    viewer, thread = watch(path, owner.url)
    seen(viewer, 3)
    owner.process.send_signal(signal.SIGTERM)
    eventually("draining", lambda: client.http.get("/readyz").json()["draining"], LONG)
    refused = client.http.post("/llmchat", json=client.body("no") | {"appID": "other"})
    assert refused.status_code == 503 and int(refused.headers["Retry-After"]) > 0
    gate.open()
    seen(viewer, 6)
    assert owner.wait() == 0
    viewer.ended = True
    join(thread)
    row = processes.check(path, viewer.shown, words(5))
    assert (row["attempts"], len(ollama.generations)) == (0, 1)


# 2. No line is shown before it is committed; when `done: true` is shown, the message is stored durably.


def test_invariant_2_no_line_is_shown_before_it_is_committed(processes: Processes, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a ")), gate, Lines(line("b "), line("c ")), again := Gate(), Lines(last_line()))
    _, client = processes.start(heartbeat_interval=0.1)
    with client.prompt("hi") as stream:
        first = stream.next()
        assert first and first.id == 0

        async def scenario(connection: asyncpg.Connection) -> None:
            async with connection.transaction():
                await connection.execute("LOCK TABLE reply_lines IN SHARE MODE")
                gate.open()
                await again.reached
                await asyncio.to_thread(eventually, "the round waits", lambda: waiting(processes.url, "reply_lines"))
                for _ in range(3):
                    await asyncio.to_thread(stream.comment)  # fails if an event comes first

        with_connection(processes.url, scenario)
        again.open()
        assert [event.json["message"]["content"] for event in stream.rest()] == ["b ", "c ", ""]


@pytest.mark.parametrize(
    "together", [False, True], ids=["the done line alone", "the done line with the words before it"]
)
def test_invariant_2_done_is_neither_shown_nor_logged_before_the_message_is_committed(
    processes: Processes, ollama: ScriptedOllama, together: bool
) -> None:
    gate = Gate()
    end = [Body(ndjson(line("b "), line("c "), last_line()))] if together else [Lines(last_line())]
    ollama.script(Head(), Lines(line("a ")), gate, *end)
    _, client = processes.start(heartbeat_interval=0.1, journal_interval=0.3)
    with client.prompt("hi") as stream:
        assert stream.next()
        path = stream.response.headers["Content-Location"]

        async def scenario(connection: asyncpg.Connection) -> list[str]:
            async with connection.transaction():
                await connection.execute("LOCK TABLE chatts IN SHARE MODE")
                gate.open()
                await asyncio.to_thread(eventually, "the end waits", lambda: waiting(processes.url, "SET status"))
                shown: list[str] = []
                words = ["b ", "c "] if together else []
                # Half a second, in which a batch would be written and shown; longer if a batch is late.
                while len(stream.comments) < (5 if len(shown) >= len(words) else 200):
                    event = await asyncio.to_thread(next_or_comment, stream)
                    assert event is None or not event.json["done"], "done was shown, and the message was not there"
                    shown += [event.json["message"]["content"]] if event else []
                assert shown == words, "words need not wait for the end's turn"
                return await asyncio.to_thread(log_of, processes.url, path)

        log = with_connection(processes.url, scenario)
        assert not any('"done":true' in one for one in log), "another process would find the reply's end in its log"
        rest = stream.rest()
        assert rest[-1].json["done"] is True
    assert log_of(processes.url, path)[-1] == rest[-1].data


def next_or_comment(stream: Any) -> Event | None:
    """Return the next event; None at a comment."""
    for one in stream._lines:
        if one.startswith(":"):
            stream.comments.append(one)
            return None
        if one.startswith("id: "):
            data = next(stream._lines)
            assert data.startswith("data: ")
            return Event(int(one[4:]), "message", data[6:])
    raise AssertionError("the stream ended")


def waiting(url: str, part: str) -> bool:
    """Return whether a statement that contains ``part`` waits for a lock."""
    query = """
        SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND position($1 IN query) > 0
    """
    return bool(rows(url, query, part))


@pytest.mark.expects_log("database", "journal", "pool connection floor")
def test_invariant_2_a_reply_shown_as_done_survives_an_immediate_crash_of_postgresql(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama
) -> None:
    with OwnPostgres() as postgres:
        execute(postgres.url, "ALTER SYSTEM SET wal_writer_delay = '10s'")  # whatever was not synced is lost
        execute(postgres.url, "SELECT pg_reload_conf()")
        program = start_chatterd(database_url=postgres.url)
        client = Client(program.url)
        with client.http:
            path = client.begin("hi", options={"num_predict": 50})
            shown = client.view(path)
            postgres.restart("immediate")
            assert rows(postgres.url, "SELECT message FROM chatts ORDER BY seq")[1]["message"] == words(50)
            assert log_of(postgres.url, path) == [event.data for event in shown]
        assert program.terminate() == 0


@pytest.mark.expects_log("database", "journal", "pool connection floor")
def test_invariant_2_lines_lost_in_a_crash_of_postgresql_are_written_again(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama
) -> None:
    gates = {20: Gate(), 40: Gate()}
    ollama.default = (SignedWords(hold=gates),)
    with OwnPostgres() as postgres:
        execute(postgres.url, "ALTER SYSTEM SET wal_writer_delay = '10s'")
        execute(postgres.url, "SELECT pg_reload_conf()")
        owner, other = start_chatterd(database_url=postgres.url), start_chatterd(database_url=postgres.url)
        client = Client(owner.url)
        with client.http:
            path = client.begin("hi", options={"num_predict": 60})
            gates[20].reached.wait()
            watched = [watch(path, owner.url), watch(path, other.url)]
            for viewer, _ in watched:
                seen(viewer, 20)
            owner_id = reply_row(postgres.url, path)["owner"]
            with frozen(other):  # otherwise it declares the owner dead if that is slow to reconnect
                with frozen(owner):
                    postgres.restart("immediate")
                    lost = 20 - len(log_of(postgres.url, path))
                eventually("the owner is back", lambda: lock_holders(postgres.url, owner_id))
            gates[20].open()
            gates[40].reached.wait(LONG)
            gates[40].open()
            for viewer, thread in watched:
                join(thread)
                assert bytes(viewer.shown) == framed(log_of(postgres.url, path))
                assert viewer.next_id == 61
            assert lost > 0, "the crash lost nothing, and so this test showed nothing"
            assert (reply_row(postgres.url, path)["attempts"], len(ollama.generations)) == (0, 1)
        assert (owner.terminate(), other.terminate()) == (0, 0)


@pytest.mark.expects_log("[Dd]atabase", "journal", "pool connection floor", "declared dead")
def test_invariant_2_lines_lost_when_a_backend_is_killed_are_written_again_by_their_owner(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama
) -> None:
    """All sessions end and PostgreSQL recovers as from a crash, but its start time stays; no process counts as dead."""
    gate = Gate()
    ollama.default = (SignedWords(hold={20: gate}),)
    with OwnPostgres() as postgres:
        execute(postgres.url, "ALTER SYSTEM SET wal_writer_delay = '10s'")
        execute(postgres.url, "SELECT pg_reload_conf()")
        owner, other = (start_chatterd(database_url=postgres.url, heartbeat_interval=1) for _ in range(2))
        up = "SELECT now() - pg_postmaster_start_time() > make_interval(secs => $1) AS over"
        eventually("the grace is over", lambda: rows(postgres.url, up, process_table.RECOVERY_GRACE)[0]["over"])
        client = Client(owner.url)
        with client.http:
            path = client.begin("hi", options={"num_predict": 60})
            gate.reached.wait()
            watched = [watch(path, owner.url), watch(path, other.url)]
            for viewer, _ in watched:
                seen(viewer, 20)
            session = lock_holder(postgres.url, reply_row(postgres.url, path)["owner"])
            with frozen(owner):  # so that it reconnects later than the other
                os.kill(session, signal.SIGKILL)
                other.wait_log("The database is unavailable", LONG)
                stays(1.0, lambda: True)
            gate.open()
            for viewer, thread in watched:
                join(thread)
                assert bytes(viewer.shown) == framed(log_of(postgres.url, path))
        assert (owner.terminate(), other.terminate()) == (0, 0)


# 3. At most one process extends a reply; at most one reply runs in a conversation.


def test_invariant_3_every_process_rejects_a_second_prompt_while_a_reply_runs(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    gate = Gate()
    ollama.default = (SignedWords(hold={2: gate}),)
    clients = [processes.start()[1] for _ in range(2)]
    path = clients[0].begin("hi")
    gate.reached.wait()
    for client in clients:
        answer = client.http.post("/llmchat", json=client.body("too soon"), headers={"Prefer": "respond-async"})
        assert (answer.status_code, answer.headers["Location"]) == (409, path)
    gate.open()
    processes.check(path, clients[1].view(path), words(5))
    assert clients[1].messages() == [("user", "hi"), ("assistant", words(5))]
    assert clients[1].ask("now")[-1].json["done"] is True


def test_invariant_3_simultaneous_prompts_to_all_processes_begin_one_reply(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    ollama.default = (SignedWords(hold={0: (gate := Gate())}),)
    clients = [processes.start()[1] for _ in range(3)] * 3
    together = threading.Barrier(len(clients))

    def post(number: int) -> httpx.Response:
        together.wait()
        body = clients[number].body(f"{number}")
        return httpx.post(
            f"{str(clients[number].http.base_url).rstrip('/')}/llmchat",
            json=body,
            headers={"Prefer": "respond-async"},
            timeout=LONG,
            verify=NO_TLS,
        )

    with ThreadPoolExecutor(len(clients)) as threads:
        answers = list(threads.map(post, range(len(clients))))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 8
    assert len({answer.headers["Location"] for answer in answers}) == 1
    gate.open()
    clients[0].view(answers[0].headers["Location"])
    winner = [answer.status_code for answer in answers].index(202)
    assert clients[0].messages() == [("user", f"{winner}"), ("assistant", words(5))]
    assert len(ollama.generations) == 1


def test_invariant_3_an_idempotency_key_finds_its_reply_in_every_process(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    ollama.default = (SignedWords(hold={3: (gate := Gate())}),)
    clients = [processes.start()[1] for _ in range(2)]
    headers = {"Idempotency-Key": "k"}
    path = clients[0].begin("hi", headers=headers)
    gate.reached.wait()
    assert clients[1].begin("hi", headers=headers) == path
    with clients[1].prompt("hi", headers=headers) as stream:
        assert stream.response.headers["Content-Location"] == path
        gate.open()
        processes.check(path, stream.rest(), words(5))
    processes.check(path, clients[1].ask("hi", headers=headers), words(5))
    assert clients[0].messages() == [("user", "hi"), ("assistant", words(5))]
    assert len(ollama.generations) == 1


@pytest.mark.skipif(pgbouncer.EVERYTHING, reason="behind a pooler nothing is prepared: it waits before it is sent")
def test_invariant_3_an_idempotency_key_finds_its_reply_after_a_crash_before_the_response(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    (owner, client), (_, other) = processes.start(), processes.start()
    client.ask("warm up", appID="other")  # prepares the statement, which then waits only during execution
    headers = {"Idempotency-Key": "k"}
    answers: list[object] = []

    def post() -> None:
        try:
            answers.append(client.begin("hi", headers=headers))
        except httpx.HTTPError as error:
            answers.append(error)

    async def scenario(connection: asyncpg.Connection) -> None:
        """The prompt's statement waits for a lock; its process is killed before it gets the result."""
        async with connection.transaction():
            await connection.execute("LOCK TABLE chatts IN SHARE MODE")
            posting.start()
            await asyncio.to_thread(
                eventually, "begin waits", lambda: waiting(processes.url, "WITH new AS MATERIALIZED")
            )
            owner.process.send_signal(signal.SIGSTOP)

    posting = threading.Thread(target=post)
    with_connection(processes.url, scenario)
    eventually("it is recorded", lambda: len(rows(processes.url, "SELECT FROM replies")) == 2, LONG)
    owner.kill()
    posting.join()
    assert isinstance(answers[0], httpx.HTTPError)
    with other.prompt("hi", headers=headers) as stream:
        path = stream.response.headers["Content-Location"]
        processes.check(path, stream.rest(), words(5))
    assert other.messages() == [("user", "hi"), ("assistant", words(5))]
    assert len(ollama.generations) == 2


@pytest.mark.expects_log("was declared dead")
def test_invariant_3_a_suspended_process_writes_nothing_after_adoption_and_its_viewers_follow_the_adopter(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    first, second = Gate(), Gate()
    ollama.script(SignedWords(hold={10: first}))
    ollama.script(SignedWords(hold={30: second}, _requests=iter([1])))
    (owner, client), (b, _) = processes.start(), processes.start()
    path = client.begin("hi", options={"num_predict": 40})
    first.reached.wait()
    watched = [watch(path, owner.url), watch(path, b.url)]
    for viewer, _ in watched:
        seen(viewer, 10)
    session = lock_holder(processes.url, reply_row(processes.url, path)["owner"])
    owner.process.send_signal(signal.SIGSTOP)
    try:
        first.open()
        ollama.arrival(0).wait().answered.wait(LONG)  # the whole answer is in the suspended process's socket
        execute(processes.url, f"SELECT pg_terminate_backend({session})")
        second.reached.wait(LONG)
        seen(watched[1][0], 30)
    finally:
        owner.process.send_signal(signal.SIGCONT)
    owner.wait_log("was declared dead", LONG)
    seen(watched[0][0], 30)
    second.open()
    for viewer, thread in watched:
        join(thread)
        row = processes.check(path, viewer.shown, words(40))
    signatures = [Event(0, "", one).json["asked"] for one in log_of(processes.url, path)]
    assert signatures == [0] * 10 + [1] * 31
    assert row["attempts"] == 1
    assert owner.log.count("was declared dead") == 1
    again = client.body("you are back")
    eventually("it takes prompts again", lambda: client.http.post("/llmchat", json=again).status_code == 200, LONG)


def test_invariant_3_reconciling_owned_replies_does_not_adopt_one_that_is_being_adopted(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    """Between the adoption's commit and the generation's start, the process reads the context, which may take long."""
    gate = Gate()
    ollama.default = (SignedWords(hold={10: gate}),)
    (owner, client), (b, other) = processes.start(), processes.start()
    path = client.begin("hi", options={"num_predict": 20})
    gate.reached.wait()
    eventually("all is in the log", lambda: len(log_of(processes.url, path)) == 10)

    async def scenario(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute("LOCK TABLE chatts IN ACCESS EXCLUSIVE MODE")
            assert await asyncio.to_thread(owner.terminate) == 0
            await asyncio.to_thread(eventually, "adopted", lambda: reply_row(processes.url, path)["attempts"], LONG)
            await asyncio.to_thread(eventually, "it looked after its own", lambda: looked(processes.url, path), LONG)
            assert await asyncio.to_thread(stays, 0.5, lambda: reply_row(processes.url, path)["attempts"] == 1)

    with_connection(processes.url, scenario)
    gate.open()
    processes.check(path, other.view(path), words(20))
    assert b.log.count(f"Adopted reply {path.removeprefix('/llmchat/')}") == 1
    assert reply_row(processes.url, path)["attempts"] == 1
    assert len(ollama.generations) == 2


def looked(url: str, path: str) -> bool:
    """Return whether a process has reconciled its replies while a statement waits for a lock.

    It prunes logs right afterwards, unless it has adopted the reply again, and waits for the lock too.
    """
    query = """
        SELECT FROM pg_stat_activity AS pruning, pg_stat_activity AS waiting
        WHERE pruning.datname = current_database() AND waiting.datname = current_database()
        AND pruning.query LIKE '%SET pruned = true%' AND waiting.wait_event_type = 'Lock'
        AND pruning.query_start > waiting.query_start + interval '1 second'
        AND pruning.pid <> pg_backend_pid()
    """
    return bool(rows(url, query)) or reply_row(url, path)["attempts"] > 1


def stays(seconds: float, holds: Callable[[], bool]) -> bool:
    """Return whether a condition stays true for so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not holds():
            return False
        time.sleep(0.02)
    return True


# 3, race conditions: each interleaving of statements is forced.


class Race:
    """A database with two processes, one of which generates a reply, and any number of sessions."""

    def __init__(self, url: str) -> None:
        self.reply = uuid4()
        self.old, self.new = 101, 202
        self._url = url
        self._sessions: list[asyncpg.Connection] = []

    async def session(self) -> asyncpg.Connection:
        self._sessions.append(await asyncpg.connect(self._url))
        return self._sessions[-1]

    async def __aenter__(self) -> "Race":
        first = await self.session()
        await migrate(first)
        for owner in (self.old, self.new):
            await process_table.register(await self.session(), owner)
        new = NewReply(self.reply, "", "a", "fake", "{}", self.old, None, [Message("user", "hi")], 10, 1000)
        assert await reply_begin.begin(first, [new]) == [BeginResult(context=[])]
        await self.append(first, 0, "old 0", "old 1")
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in self._sessions:
            session.terminate()

    async def die(self, owner: int) -> None:
        """End a process as PostgreSQL sees it: its session and its lock are gone."""
        session = self._sessions[1 if owner == self.old else 2]
        session.terminate()
        looking = await self.session()
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1"
        while await looking.fetchval(held, owner):
            await asyncio.sleep(0.005)

    async def append(self, session: asyncpg.Connection, first: int, *said: str, owner: int | None = None) -> bool:
        numbers = range(first, first + len(said))
        written = [text.encode() for text in said]
        return await reply_lines.append(session, owner or self.old, [str(self.reply)] * len(said), numbers, written, [])

    async def finish(self, session: asyncpg.Connection, first: int, owner: int | None = None) -> FinishResult:
        message = Message("assistant", f"of {owner or self.old}")
        ending = FinishRequest(self.reply, "", owner or self.old, "done", None, message, first, ["the end"], [])
        [finished] = await reply_end.finish(session, [ending])
        return finished

    async def log(self) -> list[str]:
        session = await self.session()
        query = "SELECT line FROM reply_lines WHERE reply = $1 ORDER BY seq"
        return [row["line"] for row in await session.fetch(query, self.reply)]

    async def waits(self, session: asyncpg.Connection) -> None:
        """Wait until the statement on ``session`` waits for a lock."""
        looking = await self.session()
        async with asyncio.timeout(LONG):
            while not await looking.fetchval(
                "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted", session.get_server_pid()
            ):
                await asyncio.sleep(0.005)


@pytest.fixture
def race(database_url: str) -> Callable[[Callable[[Race], Any]], None]:
    """Return a function that runs a scenario, once PostgreSQL has been up for longer than the grace period."""

    def run(scenario: Callable[[Race], Any]) -> None:
        async def scene() -> None:
            async with asyncio.timeout(3 * LONG), Race(database_url) as race:
                up = "SELECT extract(epoch FROM now() - pg_postmaster_start_time())"
                while await (await race.session()).fetchval(up) <= process_table.RECOVERY_GRACE:
                    await asyncio.sleep(0.1)
                await scenario(race)

        asyncio.run(scene())

    return run


def test_invariant_3_race_declaring_a_process_dead_waits_for_its_batch_and_the_adopter_sees_all_lines(
    race: Callable[..., None],
) -> None:
    async def scenario(race: Race) -> None:
        owner, adopter = await race.session(), await race.session()
        round_under_way = owner.transaction()
        await round_under_way.start()
        assert await race.append(owner, 2, "old 2", "old 3")
        await race.die(race.old)
        burial = asyncio.create_task(process_table.delete_dead(adopter, 0))
        await race.waits(adopter)
        looking = await race.session()
        assert await ownership.find_orphans(looking, 10) == []
        await round_under_way.commit()
        assert await burial == [race.old]
        assert await ownership.find_orphans(adopter, 10) == [Orphan(race.reply, race.old)]
        assert await ownership.adopt(adopter, Orphan(race.reply, race.old), race.new)
        page = await reply_lines.read_page(adopter, "", race.reply, 0, 60, 100, 10_000)
        assert page and page.lines == [b"old 0", b"old 1", b"old 2", b"old 3"]
        assert not await race.append(owner, 4, "old 4")
        assert await race.append(adopter, 4, "new 4", owner=race.new)
        assert (await race.log())[4:] == ["new 4"]

    race(scenario)


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read"])
def test_invariant_3_race_a_batch_that_began_before_its_process_was_declared_dead_writes_nothing(
    race: Callable[..., None], isolation: Any
) -> None:
    """The batch's snapshot still shows the process's row; the lock on that row reveals that it was deleted."""

    async def scenario(race: Race) -> None:
        owner, adopter = await race.session(), await race.session()
        await race.die(race.old)
        burial = adopter.transaction()
        await burial.start()
        assert await process_table.delete_dead(adopter, 0) == [race.old]
        assert await ownership.find_orphans(adopter, 10) == [Orphan(race.reply, race.old)]
        writing = asyncio.create_task(_in_transaction(owner, isolation, race.append(owner, 2, "old 2")))
        await race.waits(owner)
        await burial.commit()
        assert await ownership.adopt(adopter, Orphan(race.reply, race.old), race.new)
        if isolation == "read_committed":
            assert await writing is False
        else:
            with pytest.raises(asyncpg.SerializationError):
                await writing
        assert await race.append(adopter, 2, "new 2", owner=race.new)
        assert await race.log() == ["old 0", "old 1", "new 2"]

    race(scenario)


async def _in_transaction(session: asyncpg.Connection, isolation: Any, work: Any) -> Any:
    async with session.transaction(isolation=isolation):
        return await work


def test_invariant_3_race_a_batch_is_written_if_declaring_its_process_dead_is_rolled_back(
    race: Callable[..., None],
) -> None:
    async def scenario(race: Race) -> None:
        owner, adopter = await race.session(), await race.session()
        await race.die(race.old)
        burial = adopter.transaction()
        await burial.start()
        assert await process_table.delete_dead(adopter, 0) == [race.old]
        writing = asyncio.create_task(race.append(owner, 2, "old 2"))
        await race.waits(owner)
        await burial.rollback()
        assert await writing is True
        assert await race.log() == ["old 0", "old 1", "old 2"]

    race(scenario)


def test_invariant_3_race_of_two_simultaneous_adoptions_one_succeeds(race: Callable[..., None]) -> None:
    async def scenario(race: Race) -> None:
        one, two = await race.session(), await race.session()
        await process_table.register(await race.session(), 303)
        await race.die(race.old)
        assert await process_table.delete_dead(one, 0) == [race.old]
        [orphan] = await ownership.find_orphans(one, 10)
        assert await ownership.find_orphans(two, 10) == [orphan]
        adopting = one.transaction()
        await adopting.start()
        first = await ownership.adopt(one, orphan, race.new)
        second = asyncio.create_task(ownership.adopt(two, orphan, 303))
        await race.waits(two)
        await adopting.commit()
        assert first and first.attempts == 1
        assert await second is None
        assert await one.fetchval("SELECT owner FROM replies") == race.new

    race(scenario)


def test_invariant_3_race_of_two_that_declare_a_process_dead_one_succeeds_and_neither_waits(
    race: Callable[..., None],
) -> None:
    async def scenario(race: Race) -> None:
        one, two = await race.session(), await race.session()
        await race.die(race.old)
        burial = one.transaction()
        await burial.start()
        assert await process_table.delete_dead(one, 0) == [race.old]
        async with asyncio.timeout(LONG):
            assert await process_table.delete_dead(two, 0) == []
        await burial.commit()

    race(scenario)


@pytest.mark.parametrize("waits", [False, True], ids=["adoption committed before", "adoption committed meanwhile"])
def test_invariant_3_race_the_old_owner_cannot_finish_an_adopted_reply(race: Callable[..., None], waits: bool) -> None:
    async def scenario(race: Race) -> None:
        owner, adopter = await race.session(), await race.session()
        await race.die(race.old)
        assert await process_table.delete_dead(adopter, 0) == [race.old]
        adopting = adopter.transaction()
        await adopting.start()
        assert await ownership.adopt(adopter, Orphan(race.reply, race.old), race.new)
        if waits:
            finishing = asyncio.create_task(race.finish(owner, 2))
            await race.waits(owner)
            await adopting.commit()
            assert await finishing is not FinishResult.STORED
        else:
            await adopting.commit()
        assert await race.finish(owner, 2) is FinishResult.NOT_OWNER
        assert await race.log() == ["old 0", "old 1"]
        assert await owner.fetchval("SELECT count(*) FROM chatts WHERE username = 'assistant'") == 0
        assert await race.finish(adopter, 2, race.new) is FinishResult.STORED
        assert await owner.fetchval("SELECT message FROM chatts WHERE username = 'assistant'") == "of 202"

    race(scenario)


@pytest.mark.parametrize("waits", [False, True], ids=["end committed before", "end committed meanwhile"])
def test_invariant_3_race_a_finished_reply_cannot_be_adopted(race: Callable[..., None], waits: bool) -> None:
    async def scenario(race: Race) -> None:
        owner, adopter = await race.session(), await race.session()
        await race.die(race.old)
        assert await process_table.delete_dead(adopter, 0) == [race.old]
        [orphan] = await ownership.find_orphans(adopter, 10)
        ending = owner.transaction()
        await ending.start()
        assert await race.finish(owner, 2) is FinishResult.STORED
        if waits:
            adopting = asyncio.create_task(ownership.adopt(adopter, orphan, race.new))
            await race.waits(adopter)
            await ending.commit()
            assert await adopting is None
        else:
            await ending.commit()
            assert await ownership.adopt(adopter, orphan, race.new) is None
        assert await ownership.find_orphans(adopter, 10) == []
        assert await race.log() == ["old 0", "old 1", "the end"]

    race(scenario)


def test_invariant_3_race_a_process_declared_dead_adopts_nothing(race: Callable[..., None]) -> None:
    async def scenario(race: Race) -> None:
        session = await race.session()
        await race.die(race.old)
        await race.die(race.new)
        assert sorted(await process_table.delete_dead(session, 0)) == [race.old, race.new]
        assert await ownership.adopt(session, Orphan(race.reply, race.old), race.new) is None

    race(scenario)


def test_invariant_3_registering_a_process_can_be_repeated_after_a_lost_response(race: Callable[..., None]) -> None:
    async def scenario(race: Race) -> None:
        session = await race.session()
        await process_table.register(session, 303)
        session.terminate()
        again = await race.session()
        async with asyncio.timeout(LONG):
            await process_table.register(again, 303)
        assert 303 not in await process_table.delete_dead(await race.session(), 0)

    race(scenario)


# 4. Every reply ends with its real status within a stated time, whatever process dies.


def test_invariant_4_the_sweeper_adopts_a_reply_without_viewers(processes: Processes, ollama: ScriptedOllama) -> None:
    ollama.default = (SignedWords(hold={10: (gate := Gate())}),)
    (owner, client), (_, other) = processes.start(), processes.start()
    path = client.begin("hi", options={"num_predict": 20})
    gate.reached.wait()
    eventually("all is in the log", lambda: len(log_of(processes.url, path)) == 10)
    owner.kill()
    killed = time.monotonic()
    gate.open()
    ollama.arrival(1).wait(LONG)
    print(f"\nkill -9 to the adopter's request, nobody watching: {time.monotonic() - killed:.2f} s", end="")
    processes.check(path, other.view(path), words(20))
    streaming_none(processes.url)


def test_invariant_4_a_starting_process_adopts_the_replies_of_its_dead_predecessor(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    ollama.default = (SignedWords(hold={10: (gate := Gate())}),)
    owner, client = processes.start()
    paths = [client.begin("hi", appID=f"left {n}", options={"num_predict": 20}) for n in range(5)]
    eventually("all wait", lambda: all(len(log_of(processes.url, path)) == 10 for path in paths), LONG)
    owner.kill()
    gate.open()
    began = time.monotonic()
    _, successor = processes.start()
    ollama.arrival(9).wait(LONG)
    print(f"\nstart of the successor to its fifth request: {time.monotonic() - began:.2f} s", end="")
    for path in paths:
        processes.check(path, successor.view(path), words(20))
    streaming_none(processes.url)


UNCONTINUABLE: dict[str, tuple[list[bytes], dict[str, Any], str]] = {
    "a call of a tool": (
        [line("I look ", message={"tool_calls": [{"function": {"name": "f", "arguments": {}}}]})],
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        "I look ",
    ),
    "an answer bound to a format": ([line('{"a": ')], {"format": "json"}, '{"a": '),
}


@pytest.mark.parametrize("case", UNCONTINUABLE)
def test_invariant_4_a_reply_that_cannot_be_continued_ends_interrupted_and_keeps_its_partial_text(
    processes: Processes, ollama: ScriptedOllama, case: str
) -> None:
    said, fields, kept = UNCONTINUABLE[case]
    ollama.script(Head(), Lines(*said), gate := Gate(), Lines(last_line()))
    (owner, client), (_, other) = processes.start(), processes.start()
    path = client.begin("hi", **fields)
    gate.reached.wait()
    eventually("it is in the log", lambda: len(log_of(processes.url, path)) == len(said))
    owner.kill()
    gate.open()
    shown = other.view(path)
    assert (shown[-1].name, "interrupted" in shown[-1].json["error"]) == ("error", True)
    assert [event.data for event in shown] == log_of(processes.url, path)
    assert [event.data.encode() for event in shown[:-1]] == said
    row = reply_row(processes.url, path)
    assert (row["status"], row["error"]) == ("interrupted", shown[-1].json["error"])
    last = other.history()["messages"][-1]
    assert (last["role"], last["content"]) == ("assistant", kept)
    assert len(ollama.generations) == 1
    assert other.ask("again")[-1].json["done"] is True


def test_invariant_4_a_reply_adopted_repeatedly_without_progress_ends_interrupted(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    ollama.default = (SignedWords(hold={3: (gate := Gate())}),)
    (owner, client), (_, other) = processes.start(), processes.start()
    path = client.begin("hi")
    gate.reached.wait()
    eventually("it is in the log", lambda: len(log_of(processes.url, path)) == 3)
    execute(processes.url, "UPDATE replies SET attempts = 5, adopted_after = 2")
    owner.kill()
    gate.open()
    shown = other.view(path)
    assert "again and again" in shown[-1].json["error"]
    row = processes.check(path, shown, words(3), "interrupted")
    assert (row["attempts"], len(ollama.generations)) == (6, 1)


def test_invariant_4_a_stop_from_another_process_ends_a_reply_before_its_first_token(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    ollama.script(Gate())
    (owner, client), (b, other) = processes.start(), processes.start()
    path = client.begin("hi")
    ollama.arrival(0).wait()
    watched = [watch(path, owner.url), watch(path, b.url)]
    assert other.http.delete(path).status_code == 202
    ollama.arrival(0).wait().closed.wait(LONG)
    for viewer, thread in watched:
        join(thread)
        processes.check(path, viewer.shown, "", "stopped")
    assert '"done":true,"done_reason":"stopped"' in log_of(processes.url, path)[0]
    assert other.http.delete(path).status_code == 204
    assert other.ask("next")[-1].json["done"] is True


def test_invariant_4_a_stop_from_another_process_keeps_the_partial_text(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    ollama.default = (SignedWords(hold={7: Gate()}),)
    (owner, client), (_, other) = processes.start(), processes.start()
    path = client.begin("hi")
    client.http.delete(path)
    client.view(path)
    path = client.begin("hi", options={"num_predict": 10})
    viewer, thread = watch(path, owner.url)
    seen(viewer, 7)
    assert other.http.delete(path).status_code == 202
    join(thread)
    processes.check(path, viewer.shown, words(7), "stopped")
    ollama.arrival(1).wait().closed.wait(LONG)


def test_invariant_4_stopping_a_dead_process_s_reply_ends_it_without_a_request_to_ollama(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    ollama.default = (SignedWords(hold={7: (gate := Gate())}),)
    (owner, client), (_, other) = processes.start(), processes.start()
    path = client.begin("hi", options={"num_predict": 10})
    gate.reached.wait()
    eventually("all is in the log", lambda: len(log_of(processes.url, path)) == 7)
    owner.process.send_signal(signal.SIGSTOP)
    assert other.http.delete(path).status_code == 202
    owner.kill()
    shown = other.view(path)
    processes.check(path, shown, words(7), "stopped")
    assert len(ollama.generations) == 1


def streaming_none(url: str) -> None:
    assert rows(url, "SELECT id FROM replies WHERE status = 'streaming'") == []


# 5. Memory: viewers that read nothing use sockets, no memory for text.


def stuck_viewer(url: str, path: str) -> socket.socket:
    """Return a connection that requests a reply and never reads it."""
    address = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(LONG)
    connection.connect((address.hostname, address.port))
    connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    return connection


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in the owner", "in another process"])
def test_invariant_5_stuck_viewers_use_no_memory_for_text(
    processes: Processes, ollama: ScriptedOllama, elsewhere: bool
) -> None:
    size, count, viewers = 2_000, 2_500, 60 if elsewhere else 200
    chunk = ndjson(*[line("x" * size)] * 100)
    ollama.script(Head(), Lines(line("a ")), gate := Gate(), *[Body(chunk)] * (count // 100), Lines(last_line()))
    owner, client = processes.start(client_write_timeout=600, log_to_stderr=True)
    shown_by, watcher = processes.start(client_write_timeout=600) if elsewhere else (owner, client)
    path = client.begin("hi")
    with ExitStack() as stack:
        stuck = [stack.enter_context(stuck_viewer(shown_by.url, path)) for _ in range(viewers)]
        for connection in stuck:
            assert connection.recv(1)
        watcher.http.get("/healthz")
        process = psutil.Process(shown_by.process.pid)
        before = process.memory_info().rss
        gate.open()
        assert watcher.view(path)[-1].json["done"] is True
        grown = process.memory_info().rss - before
        print(f"\n{viewers} stuck viewers of {size * count / 1e6:.0f} MB: {grown / 1e6:.0f} MB more", end="")
        assert len(psutil.Process(shown_by.process.pid).net_connections()) > viewers, "the viewers were disconnected"
        assert grown < viewers * size * count / 8


def test_invariant_5_a_stuck_viewer_is_dropped_and_the_reply_continues(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    chunk = ndjson(*[line("x" * 2_000)] * 100)
    ollama.script(Head(), Lines(line("a ")), gate := Gate(), *[Body(chunk)] * 100, Lines(last_line()))
    program, client = processes.start(client_write_timeout=1)
    path = client.begin("hi")
    with stuck_viewer(program.url, path) as stuck:
        assert stuck.recv(1)
        gate.open()
        shown = client.view(path)
        assert len(shown) == 10_002
        program.wait_log('abort_reason="client too slow"', LONG)
        got = 0
        try:
            while chunk := stuck.recv(65536):
                got += len(chunk)
        except ConnectionResetError:
            pass
    assert 0 < got < len(framed([event.data for event in shown])) / 2
    assert reply_row(processes.url, path)["status"] == "done"


# 6. Whatever the client does, Ollama is read to the end; whatever Ollama does, the client gets an end.


def test_invariant_6_ollama_is_read_to_the_end_when_the_only_viewer_is_stuck(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    chunk = ndjson(*[line("x" * 2_000)] * 100)
    ollama.script(Head(), Lines(line("a ")), gate := Gate(), *[Body(chunk)] * 50, Lines(last_line()))
    program, client = processes.start(client_write_timeout=600)
    path = client.begin("hi")
    with stuck_viewer(program.url, path) as stuck:
        assert stuck.recv(1)
        gate.open()
        ollama.arrival(0).wait().answered.wait(LONG)
        eventually("stored", lambda: reply_row(processes.url, path)["status"] == "done", LONG)
    assert len(log_of(processes.url, path)) == 5_002


def test_invariant_6_ollama_is_read_to_the_end_when_the_only_viewer_has_disconnected(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    ollama.default = (SignedWords(hold={3: (gate := Gate())}),)
    _, client = processes.start()
    with client.prompt("hi", options={"num_predict": 50}) as stream:
        assert stream.next()
        path = stream.response.headers["Content-Location"]
    gate.open()
    ollama.arrival(0).wait().answered.wait(LONG)
    processes.check(path, client.view(path), words(50))


def test_invariant_6_an_adopter_that_cannot_reach_ollama_ends_the_reply(
    processes: Processes, ollama: ScriptedOllama
) -> None:
    ollama.default = (SignedWords(hold={7: (gate := Gate())}),)
    (owner, client), (_, other) = processes.start(), processes.start(ollama_retry_timeout=1)
    path = client.begin("hi", options={"num_predict": 10})
    gate.reached.wait()
    eventually("all is in the log", lambda: len(log_of(processes.url, path)) == 7)
    ollama.stop_listening()
    owner.kill()
    shown = other.view(path)
    assert shown[-1].name == "error"
    processes.check(path, shown, words(7), "failed")
