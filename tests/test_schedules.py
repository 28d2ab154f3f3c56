"""Random schedules of faults in three processes on one PostgreSQL; afterwards shown text, log and message are equal.

The seed of the schedules is printed: ``CHATTERD_SEED`` sets it, ``CHATTERD_SECONDS`` how long to run.
"""

import itertools
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn
from uuid import UUID

import asyncpg
import httpx
import pytest

from relay.generation.generation import MAX_CONTINUATIONS
from relay.generation.resume import MAX_ATTEMPTS
from tests.client import NO_TLS, Event
from tests.cluster import OwnPostgres, SignedWords, words
from tests.database import eventually, rows
from tests.fakes.ollama import ScriptedOllama
from tests.program import Program
from tests.viewers import Viewer, framed, log_of

SECONDS = float(os.environ.get("CHATTERD_SECONDS", "5"))
SEED = int(os.environ.get("CHATTERD_SEED", str(random.SystemRandom().randrange(10**6))))

PROCESSES = 3
ACTIONS = 14
"""The number of actions in a schedule; then all replies end and are checked."""

CONVERSATIONS = 4

MOST_AWAY = 1.0
"""Seconds for which a dead Ollama refuses connections, at most."""

PATIENCE = 120.0
"""Seconds within which every reply must end and every viewer must see the end."""

EXPECTED = (r"[Dd]atabase", r"pool connection floor", r"was declared dead", r"Ollama is unreachable")
"""Warnings and errors that the faults of a schedule explain."""

COUNTED: dict[str, int] = {}
"""Counts of events in all schedules, printed at the end."""


def _log_without_access(program: Program) -> str:
    return "".join(
        line for line in program.log.splitlines(True) if not re.match(r"\[I \d+ [\d:]+ (base|finisher):", line)
    )


def count(what: str, number: int = 1) -> None:
    COUNTED[what] = COUNTED.get(what, 0) + number


@dataclass
class Conversation:
    """The expected state of a conversation: its prompts in order, and the reply to each."""

    appid: str
    prompts: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)


class Processes:
    """The processes, any of which may be dead or restarting."""

    def __init__(self, settings: dict[str, object]) -> None:
        self._settings = settings
        self.programs = [self._start() for _ in range(PROCESSES)]
        self.ended: list[Program] = []
        self._restarting: list[threading.Thread] = []

    def _start(self) -> Program:
        return Program(**self._settings)

    @property
    def urls(self) -> list[str]:
        return [program.url for program in self.programs]

    def kill(self, number: int) -> None:
        """Send SIGKILL, and start a replacement in another thread."""
        self._replace(number, Program.kill)

    def terminate(self, number: int) -> None:
        """Send SIGTERM, and start a replacement in another thread."""

        def end(program: Program) -> None:
            status = program.terminate()
            assert status == 0, f"SIGTERM ended with {status}:\n{_log_without_access(program)}"

        self._replace(number, end)

    def _replace(self, number: int, end: Callable[[Program], None]) -> None:
        self.settle()  # at most one is down at a time, so that another can adopt its replies
        program = self.programs[number]

        def replace() -> None:
            end(program)
            self.ended.append(program)
            self.programs[number] = self._start()

        self._restarting = [_Thread(replace)]
        self._restarting[0].start()

    def settle(self) -> None:
        """Wait until all processes run."""
        for thread in self._restarting:
            thread.join()
        self._restarting = []

    def stop(self) -> None:
        self.settle()
        for program in self.programs:
            if program.process.poll() is None:
                assert program.terminate() == 0, _log_without_access(program)
        self.ended += self.programs

    def abandon(self) -> None:
        """Kill the remaining processes after a failure."""
        for program in self.programs:
            if program.process.poll() is None:
                program.kill()


class _Thread(threading.Thread):
    """A thread whose exception is raised by ``join``."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def join(self, timeout: float | None = PATIENCE + 20) -> None:
        super().join(timeout)
        if self.is_alive():
            raise TimeoutError("a thread of the schedule hangs")
        if self._error is not None:
            raise self._error


class Schedule:
    """One schedule: random actions, then the end of all replies, then the checks.

    :param seed: determines the actions, their order and targets, and where viewers are cut.
    """

    def __init__(self, seed: int, postgres: OwnPostgres, processes: Processes, ollama: ScriptedOllama) -> None:
        self._seed = seed
        self._choice = random.Random(seed)
        self._postgres = postgres
        self._processes = processes
        self._ollama = ollama
        self._began = time.monotonic()
        self._keys = itertools.count()
        self._events: list[str] = []
        self._conversations = [Conversation(f"{seed}-{n}") for n in range(CONVERSATIONS)]
        self._viewers: list[tuple[Viewer, _Thread]] = []
        self._cut_requests = 0
        self._http = httpx.Client(timeout=60, trust_env=False, verify=NO_TLS)
        ollama.default = (SignedWords(pause=self._choice.choice([0.002, 0.005, 0.01])),)

    def run(self) -> None:
        """Run it and check the result; a failure lists all events."""
        actions: list[tuple[int, Callable[[], str]]] = [
            (8, self._begin),
            (5, self._view),
            (2, self._stop),
            (3, self._kill),
            (2, self._terminate),
            (3, self._cut_sessions),
            (1, self._restart_postgres),
            (1, self._crash_postgres),
            (2, self._kill_ollama),
            (2, self._kill_runner),
        ]
        weights, choices = zip(*actions, strict=True)
        try:
            for action in [self._begin, self._begin, *self._choice.choices(choices, weights, k=ACTIONS)]:
                at = time.monotonic() - self._began
                self._events.append(f"{at:7.3f} {action.__name__.strip('_')} ...")
                self._events[-1] = f"{at:7.3f} {action()}"
                time.sleep(self._choice.uniform(0, 0.3))
            self._rest()
            self._check()
        except BaseException as error:
            error.add_note("\n".join([f"CHATTERD_SEED={self._seed}", *self._events]))
            raise
        finally:
            self._http.close()

    # Actions.

    def _begin(self) -> str:
        conversation = self._choice.choice(self._conversations)
        number, length = next(self._keys), self._choice.choice([0, 3, 100, 400, 800])
        text = f"prompt {number}"
        body = {
            "appID": conversation.appid,
            "model": "fake",
            "messages": [{"role": "user", "content": text}],
            "options": {"num_predict": length},
        }
        headers = {"Prefer": "respond-async", "Idempotency-Key": text}
        deadline, tries = time.monotonic() + PATIENCE, 0
        while True:
            tries += 1
            try:
                answer = self._http.post(f"{self._somewhere()}/llmchat", json=body, headers=headers)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code != 503:
                break
            assert time.monotonic() < deadline, "no process takes prompts any more"
            time.sleep(0.02)
        if answer.status_code == 409:
            assert answer.headers["Location"] in conversation.paths, answer.headers
            count("409")
            return f"begin in {conversation.appid}: 409"
        assert answer.status_code == 202, answer.text
        path = answer.headers["Location"]
        assert path not in conversation.paths
        conversation.prompts.append(text)
        conversation.paths.append(path)
        conversation.lengths.append(length)
        count("replies")
        for _ in range(self._choice.randint(0, 2)):
            self._watch(path)
        return f"begin in {conversation.appid}: {path}, {length} words ({tries} tries)"

    def _view(self) -> str:
        paths = [path for conversation in self._conversations for path in conversation.paths]
        if not paths:
            return "view nothing"
        path = self._choice.choice(paths)
        self._watch(path)
        return f"view {path}"

    def _watch(self, path: str) -> None:
        viewer = Viewer(path)
        own = random.Random(self._choice.random())
        cut = own.choice([None, 500, 3_000, 20_000])
        thread = _Thread(lambda: viewer.follow(lambda: own.choice(self._processes.urls), own, cut))
        self._viewers.append((viewer, thread))
        thread.start()

    def _stop(self) -> str:
        paths = [(one, path) for one in self._conversations for path in one.paths]
        if not paths:
            return "stop nothing"
        conversation, path = self._choice.choice(paths)
        try:
            status = self._http.delete(f"{self._somewhere()}{path}").status_code
        except httpx.TransportError:
            status = 0
        assert status in (0, 202, 204, 503), status
        if status != 204:
            conversation.stopped.add(path)
        count("stops")
        return f"stop {path}: {status or 'unreachable'}"

    def _kill(self) -> str:
        number = self._choice.randrange(PROCESSES)
        self._processes.kill(number)
        count("kill -9")
        return f"kill -9 of process {number}"

    def _terminate(self) -> str:
        number = self._choice.randrange(PROCESSES)
        self._processes.terminate(number)
        count("SIGTERM")
        return f"SIGTERM of process {number}"

    def _kill_ollama(self) -> str:
        """Let Ollama die: its connections break, and it refuses new ones for a moment."""
        self._ollama.die()
        self._cut_requests = len(self._ollama.generations)
        away = self._choice.uniform(0, MOST_AWAY)
        time.sleep(away)
        self._ollama.listen_again()
        count("deaths of Ollama")
        return f"Ollama dies, for {away:.3f} s"

    def _kill_runner(self) -> str:
        self._ollama.kill_runner()
        count("deaths of the runner")
        return "Ollama's runner dies"

    def _cut_sessions(self) -> str:
        query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        pids = [row["pid"] for row in rows(self._postgres.url, query)]
        chosen = self._choice.sample(pids, self._choice.randint(min(1, len(pids)), len(pids)))
        rows(self._postgres.url, "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", chosen)
        count("sessions cut", len(chosen))
        return f"cut {len(chosen)} of {len(pids)} sessions"

    def _restart_postgres(self) -> str:
        self._postgres.restart("fast")
        count("restarts of PostgreSQL")
        return "restart PostgreSQL"

    def _crash_postgres(self) -> str:
        """Crash PostgreSQL while every reply has a living owner.

        A crash loses the newest lines of the log, which the owner writes again from memory. If the owner dies at the
        same time they are lost, so these two faults never coincide here.
        """
        self._processes.settle()
        self._no_orphans()
        self._postgres.restart("immediate")
        eventually("what was shown is in the log again", self._log_holds_what_was_shown, PATIENCE)
        self._no_orphans()
        count("crashes of PostgreSQL")
        return "crash PostgreSQL"

    def _no_orphans(self) -> None:
        orphans = """
            SELECT FROM replies WHERE status = 'streaming' AND (owner IS NULL OR NOT EXISTS (
                SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
                AND (classid::bigint << 32) | objid::bigint = owner
            ))
        """
        eventually("all replies are owned by the living", lambda: not rows(self._postgres.url, orphans), PATIENCE)

    def _log_holds_what_was_shown(self) -> bool:
        shown: dict[str, int] = {}
        for viewer, _ in self._viewers:
            shown[viewer.path] = max(viewer.next_id, shown.get(viewer.path, 0))
        return all(len(log_of(self._postgres.url, path)) >= number for path, number in shown.items())

    def _somewhere(self) -> str:
        return self._choice.choice(self._processes.urls)

    # The end of all replies, and the checks.

    def _rest(self) -> None:
        self._processes.settle()
        for conversation in self._conversations:
            for path in conversation.paths:
                self._watch(path)
        for viewer, thread in self._viewers:
            try:
                thread.join()
            except BaseException as error:
                error.add_note(f"seen of {viewer.path}: {viewer.next_id} lines")
                raise
        eventually("Ollama generates nothing any more", self._ollama_is_idle, PATIENCE)
        count("viewers", len(self._viewers))

    def _ollama_is_idle(self) -> bool:
        requests = self._ollama.generations[self._cut_requests :]  # those before ended with a dead Ollama
        return all(one.answered.happened or one.closed.happened for one in requests)

    def _check(self) -> None:
        assert not rows(self._postgres.url, "SELECT id FROM replies WHERE status = 'streaming'")
        logs: dict[str, list[str]] = {}
        for conversation in self._conversations:
            self._check_conversation(conversation, logs)
        for viewer, _ in self._viewers:
            whole = framed(logs[viewer.path])
            if bytes(viewer.shown) != whole:
                self._tell_difference(viewer, logs[viewer.path])
        for program in [*self._processes.programs, *self._processes.ended]:
            alarms = program.alarms(list(EXPECTED))
            assert not alarms, "".join(alarms) + _log_without_access(program)

    def _check_conversation(self, conversation: Conversation, logs: dict[str, list[str]]) -> None:
        expected: list[tuple[str, str]] = []
        for prompt, path, length in zip(conversation.prompts, conversation.paths, conversation.lengths, strict=True):
            logs[path] = log_of(self._postgres.url, path)
            said = self._check_reply(conversation, path, length, logs[path])
            expected += [("user", prompt)] + ([("assistant", said)] if said else [])
        query = "SELECT username, message FROM chatts WHERE appid = $1 ORDER BY seq"
        found = [(row["username"], row["message"]) for row in rows(self._postgres.url, query, conversation.appid)]
        assert found == expected, f"{conversation.appid}: {found} != {expected}"
        begun = rows(self._postgres.url, "SELECT count(*) FROM replies WHERE appid = $1", conversation.appid)
        assert begun[0]["count"] == len(conversation.paths)

    def _check_reply(self, conversation: Conversation, path: str, length: int, log: list[str]) -> str:
        """Check one reply against its log; return its text."""
        [row] = rows(self._postgres.url, "SELECT * FROM replies WHERE id = $1", UUID(path.removeprefix("/llmchat/")))
        told = f"{path}: {dict(row)}"
        events = [Event(number, "", one).json for number, one in enumerate(log)]
        *before, last = events
        said = "".join(event["message"]["content"] for event in events if "message" in event)
        assert said == words(len(said.split())), f"{told} said {said!r}"
        assert all("error" not in event and not event["done"] for event in before), told
        signatures = [event["asked"] for event in events if "asked" in event]
        changes = [asked for asked, _ in itertools.groupby(signatures)]
        assert len(changes) == len(set(changes)), f"{told}: two processes at once: {signatures}"
        count(f"replies {row['status']}")
        count("adoptions", row["attempts"])
        count("continuations", row["continuations"])
        if row["status"] == "done":
            # "length": the adopter found all words in the log, and only the last line missing.
            assert last["done_reason"] in ("stop", "length"), told
            assert said == words(length) and last["done"], f"{told} said {said!r}"
        elif row["status"] == "stopped":
            assert path in conversation.stopped, told
            assert last["done"] and last["done_reason"] == "stopped", told
        else:
            assert self._gave_up(row), told
            assert last == {"error": row["error"]}, told
        return said

    def _gave_up(self, row: asyncpg.Record) -> bool:
        """Return whether a reply ended because too many processes, or Ollamas, died of it."""
        if row["status"] == "interrupted":
            return bool(row["attempts"] > MAX_ATTEMPTS)
        return row["status"] in ("failed", "truncated") and row["continuations"] > MAX_CONTINUATIONS

    def _tell_difference(self, viewer: Viewer, log: list[str]) -> NoReturn:
        shown = bytes(viewer.shown).split(b"\n\n")[:-1]
        meant = [framed([one], number).removesuffix(b"\n\n") for number, one in enumerate(log)]
        for number, (one, other) in enumerate(itertools.zip_longest(shown, meant)):
            if one != other:
                raise AssertionError(
                    f"{viewer.path}, line {number}: shown {one!r}, in the log {other!r}"
                    f" ({len(shown)} shown, {len(meant)} in the log)"
                )
        raise AssertionError("unreachable")


@pytest.mark.parametrize("seconds", [SECONDS, pytest.param(60.0, marks=pytest.mark.extended)])
def test_after_random_faults_the_shown_text_equals_the_log_and_the_message(seconds: float) -> None:
    print(f"\nCHATTERD_SEED={SEED} CHATTERD_SECONDS={seconds:g}")
    COUNTED.clear()
    end = time.monotonic() + seconds
    with OwnPostgres() as postgres, ScriptedOllama() as ollama:
        settings: dict[str, object] = {
            "database_url": postgres.url,
            "ollama_host": ollama.url,
            "embedded_model": False,
            "drain_timeout": 0.3,
            "heartbeat_interval": 1,
        }
        processes = Processes(settings)
        try:
            for number in itertools.count():
                Schedule(SEED + number, postgres, processes, ollama).run()
                count("schedules")
                processes.ended.clear()
                ollama.forget()
                if time.monotonic() > end:
                    break
            processes.stop()
        finally:
            processes.abandon()
            print(", ".join(f"{what}: {number}" for what, number in sorted(COUNTED.items())))
    assert COUNTED["replies done"] > 0
