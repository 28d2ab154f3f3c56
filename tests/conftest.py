"""Shared fixtures: a real PostgreSQL, the real program, and a scripted Ollama."""

import asyncio
import itertools
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest

from embedded.postgres import EmbeddedPostgres
from tests import limits, pgbouncer, system_packages
from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import ScriptedOllama
from tests.program import Program

_numbers = itertools.count()

BUSY = "busy machine"
"""The property of a test report that holds a log line which only a busy machine explains."""


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the process: find daemons, and let event loops be created only on purpose."""
    os.environ["PATH"] += ":/usr/sbin"  # where Debian keeps HAProxy, nginx and PgBouncer, and users do not look
    if pgbouncer.EVERYTHING:
        pgbouncer.put_everything_behind()
    # How fast inputs are generated says nothing about the code under test on a busy machine.
    patient = hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None)
    hypothesis.settings.register_profile("suite", patient)
    hypothesis.settings.load_profile("suite")
    asyncio.set_event_loop(None)  # else Tornado's first request for a current loop creates one that is never closed


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run on this machine before any of its fixtures is set up."""
    system_packages.check(item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report which tests were left out and why, and how often the machine was too busy for limits of the program."""
    reports = itertools.chain.from_iterable(terminalreporter.stats.values())
    properties = itertools.chain.from_iterable(getattr(report, "user_properties", ()) for report in reports)
    if busy := [line for name, line in properties if name == BUSY]:
        terminalreporter.section("this machine was too busy")
        terminalreporter.line(f"{len(busy)} warnings of chatterd that fail no test, such as: {busy[0].strip()}")
    skipped = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])]
    if skipped:
        terminalreporter.section("left out on this machine")
        for line in system_packages.summary(reason.removeprefix("Skipped: ") for reason in skipped):
            terminalreporter.line(line)


def pytest_unconfigure() -> None:
    """Stop the PgBouncers of this process."""
    pgbouncer.stop_all()


FIRST = (
    "clients/test_clients.py",
    "test_database_trouble.py",
    "browser/test_replies.py",
    "test_invariants.py",
    "browser/test_sidebar.py",
    "handlers/test_status.py",
    "browser/test_docs.py",
    "test_database_faults.py",
    "browser/test_messages.py",
    "test_makefile.py",
    "browser/test_hostile_replies.py",
    "test_body_lifetime.py",
    "handlers/test_large_answers.py",
    "browser/test_status.py",
    "test_database_start.py",
    "browser/test_reconnect.py",
    "relay/generation/test_continuation.py",
    "browser/test_sign_in.py",
    "embedded/test_ollama.py",
    "browser/test_settings.py",
    "test_retention.py",
    "test_schedules.py",
)
"""Long files, started first so that no worker is idle at the end. Files that mostly wait alternate with files that
compute, to keep both cores busy."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort long files first for pytest-xdist, which distributes files in order; mark the browser tests."""
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        if item.path.is_relative_to(here / "browser"):
            item.add_marker(pytest.mark.needs("chromium-headless-shell"))
        if pgbouncer.EVERYTHING:
            item.add_marker(pytest.mark.needs("pgbouncer"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Start a PostgreSQL for the session; yield the URL of its maintenance database."""
    folder = Path(tempfile.mkdtemp(prefix="chatterd-test-"))
    server = EmbeddedPostgres(folder / "postgres")
    try:
        url = server.start()
        _execute(url, "ALTER SYSTEM SET fsync = off")  # no test needs data to survive a crash of the machine
        _execute(url, "SELECT pg_reload_conf()")
        yield url
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def new_database(postgres: str) -> Callable[[], str]:
    """Return a function that creates an empty database, for the session, and returns its URL."""
    made: list[str] = []

    def make() -> str:
        made.append(f"chatterd_{next(_numbers)}")
        _execute(postgres, f'CREATE DATABASE "{made[-1]}"')
        parts = urlsplit(postgres)
        return urlunsplit(parts._replace(path=f"/{made[-1]}"))

    return make


def _execute(url: str, statement: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(execute())


@pytest.fixture(scope="session")
def session_database_url(new_database: Callable[[], str]) -> str:
    """Return the database of the shared program."""
    return new_database()


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """Return an empty database for one test."""
    return new_database()


@pytest.fixture(scope="session")
def _session_ollama() -> Iterator[ScriptedOllama]:
    with ScriptedOllama() as ollama:
        yield ollama


@pytest.fixture(scope="session")
def _session_chatterd(_session_ollama: ScriptedOllama, session_database_url: str) -> Iterator[Program]:
    with Program(
        database_url=session_database_url, ollama_host=_session_ollama.url, embedded_model=False, drain_timeout=1
    ) as program:
        yield program


@pytest.fixture
def expected_log(request: pytest.FixtureRequest) -> list[str]:
    """Return the patterns of the warnings and errors that this test expects in logs."""
    return [pattern for marker in request.node.iter_markers("expects_log") for pattern in marker.args]


@pytest.fixture
def ollama(_session_ollama: ScriptedOllama) -> Iterator[ScriptedOllama]:
    """Yield the shared scripted Ollama, reset to its initial state; check after the test that it did not fail."""
    _session_ollama.forget()
    yield _session_ollama
    _session_ollama.forget()  # fixtures of the next module may ask it before they use this one
    errors = list(_session_ollama.errors)
    _session_ollama.errors.clear()
    assert not errors, errors


@pytest.fixture
def chatterd(
    request: pytest.FixtureRequest, _session_chatterd: Program, ollama: ScriptedOllama, expected_log: list[str]
) -> Iterator[Program]:
    """Yield the shared chatterd with default settings, connected to ``ollama``; check its log after the test."""
    yield _session_chatterd
    _check_log(request, [_session_chatterd], expected_log)


@pytest.fixture(scope="session")
def _session_chatterd_without_retries(_session_ollama: ScriptedOllama, session_database_url: str) -> Iterator[Program]:
    with Program(
        database_url=session_database_url,
        ollama_host=_session_ollama.url,
        embedded_model=False,
        drain_timeout=1,
        ollama_retry_timeout=0,
    ) as program:
        yield program


@pytest.fixture
def chatterd_without_retries(
    request: pytest.FixtureRequest,
    _session_chatterd_without_retries: Program,
    ollama: ScriptedOllama,
    expected_log: list[str],
) -> Iterator[Program]:
    """Yield the shared chatterd in which a reply ends at the first failure of Ollama."""
    yield _session_chatterd_without_retries
    _check_log(request, [_session_chatterd_without_retries], expected_log)


@pytest.fixture
def client(chatterd: Program) -> Iterator[Client]:
    """Yield a client of ``chatterd`` with its own conversation."""
    with Client(chatterd.url) as client:
        yield client
        if reply := client.history()[
            "reply"
        ]:  # its request may not have reached Ollama, and take the next test's script
            client.http.delete(f"/llmchat/{reply['id']}")
            eventually("no reply runs", lambda: client.history()["reply"] is None)


@pytest.fixture(scope="session")
def _session_tight(_session_ollama: ScriptedOllama, new_database: Callable[[], str]) -> Iterator[Program]:
    with Program(
        database_url=new_database(),
        ollama_host=_session_ollama.url,
        embedded_model=False,
        drain_timeout=1,
        **limits.SETTINGS,
    ) as program:
        yield program


@pytest.fixture
def tight(
    request: pytest.FixtureRequest, _session_tight: Program, ollama: ScriptedOllama, expected_log: list[str]
) -> Iterator[Client]:
    """Yield a client, with its own conversation, of the shared chatterd with the small limits of tests/limits.py."""
    with Client(_session_tight.url) as client:
        yield client
    _check_log(request, [_session_tight], expected_log)


@pytest.fixture
def start_chatterd(
    request: pytest.FixtureRequest, ollama: ScriptedOllama, expected_log: list[str]
) -> Iterator[Callable[..., Program]]:
    """Yield a function that starts a chatterd with given settings, connected to ``ollama``.

    After the test, all are stopped and their logs checked.
    """
    started: list[Program] = []
    with ExitStack() as programs:

        def start(**settings: object) -> Program:
            defaults: dict[str, object] = {"ollama_host": ollama.url, "embedded_model": False, "drain_timeout": 1}
            started.append(programs.enter_context(Program(**{**defaults, **settings})))
            return started[-1]

        yield start
    _check_log(request, started, expected_log)


def _check_log(request: pytest.FixtureRequest, programs: list[Program], expected_log: list[str]) -> None:
    """Fail if a log has unexpected warnings or errors; report those that only a busy machine explains."""
    alarms = [alarm for program in programs for alarm in program.alarms(expected_log)]
    for program in programs:
        request.node.user_properties += [(BUSY, line) for line in program.busy]
        program.busy.clear()
    assert not alarms, "".join(alarms)


@pytest.fixture(autouse=True)
def _no_unexpected_log(caplog: pytest.LogCaptureFixture, expected_log: list[str]) -> Iterator[None]:
    """Fail if code in the test's own process logs unexpected warnings or errors."""
    yield
    alarms = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno >= logging.WARNING
        and not any(re.search(pattern, record.getMessage()) for pattern in expected_log)
    ]
    assert not alarms, alarms
