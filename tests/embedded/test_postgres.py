"""The embedded PostgreSQL: where its data may be, who may connect, which processes share it."""

import logging
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from embedded.postgres import EmbeddedPostgres, account
from embedded.postgres.file_lock import exclusive, is_locked
from tests.client import Client
from tests.cluster import words
from tests.database import eventually, execute, postmaster_pid, rows
from tests.fakes.ollama import ScriptedOllama, Words
from tests.program import ROOT, Program

Embed = Callable[[Path], EmbeddedPostgres]

NAMES = [
    pytest.param("a 'quote' \"two\" $(touch injected) `touch injected`; touch injected & # + %41 \\", id="shell"),
    pytest.param("Grüße 日本 😀\nsecond line", id="unicode", marks=pytest.mark.extended),
    pytest.param("long-" + 200 * "x", id="long", marks=pytest.mark.extended),
]


def socket_folder(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def values(url: str, query: str) -> list[object]:
    return [row[0] for row in rows(url, query)]


@pytest.mark.parametrize("name", NAMES)
def test_any_folder_name_is_taken_literally(name: str, base: Path, embed: Embed) -> None:
    folder = base / name / "postgres"
    server = embed(folder)
    url = server.start()
    assert values(url, "SELECT current_setting('data_directory')") == [str(folder)]
    execute(url, "CREATE TABLE kept AS SELECT 1 AS one")
    server.stop()
    assert values(server.start(), "SELECT one FROM kept") == [1]
    assert sorted(path.name for path in base.iterdir()) == [name]
    assert not list(ROOT.glob("injected")) and not Path("/injected").exists()


def test_only_the_owner_of_the_data_can_enter_the_folder_of_the_socket(base: Path, data: Path, embed: Embed) -> None:
    """The server asks for no password."""
    url = embed(data).start()
    folder = socket_folder(url)
    for path in (folder, folder / ".s.PGSQL.5432", data, base / "postgres-run", base / "postgres-run/log"):
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path
    assert values(url, "SHOW listen_addresses") == [""]
    assert values(url, "SHOW unix_socket_permissions") == ["0700"]
    assert len(os.fsencode(folder)) < 80


@pytest.mark.extended
def test_a_folder_of_another_place_is_not_used_for_the_socket(data: Path, embed: Embed, tmp_path: Path) -> None:
    """Another user, or a clumsy cleaner, may have put something else where the socket was."""
    server = embed(data)
    url = server.start()
    before = socket_folder(url)
    server.stop()
    assert not before.exists()
    tmp_path.chmod(0o755)
    (data.parent / "postgres-run/socket").symlink_to(tmp_path)
    after = socket_folder(server.start())
    assert after not in (before, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_environment_does_not_change_the_server(base: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "LANG": "xx_YY.UTF-8",
        "LC_ALL": "de_DE.ISO-8859-1",
        "PGDATA": "/nowhere",
        "PGPORT": "1",
        "PGOPTIONS": "-c nonsense=1",
        "LD_LIBRARY_PATH": "/nowhere",
        "LD_PRELOAD": "",
        "TMPDIR": str(base),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    url = embed(base / "postgres").start()
    query = "SELECT datcollate, datctype, datlocprovider, datlocale, pg_encoding_to_char(encoding) FROM pg_database"
    assert {tuple(row) for row in rows(url, query)} == {("C", "C", b"b", "C.UTF-8", "UTF8")}
    assert values(url, "SELECT upper('größe')") == ["GRÖSSE"] or values(url, "SELECT upper('é')") == ["É"]
    assert values(url, "SHOW lc_messages") == ["C"]


SHARING = """
import sys
import threading
from pathlib import Path
from embedded.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.read()
server.stop()
"""


def share(folder: Path) -> tuple["subprocess.Popen[str]", str]:
    """Start a process that uses the data, until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", SHARING, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]") -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0


def is_running(folder: Path) -> bool:
    return is_locked(folder.with_name(f"{folder.name}-run") / "server.lock")


def test_the_last_process_that_uses_the_data_stops_the_server(data: Path, embed: Embed) -> None:
    first, first_url = share(data)
    second, second_url = share(data)
    third, third_url = share(data)
    assert first_url == second_url == third_url
    end(first)  # which started it
    second.kill()
    second.communicate()
    assert values(third_url, "SELECT 1") == [1]
    end(third)
    assert not is_running(data)
    assert not socket_folder(third_url).exists()


def test_the_next_start_takes_over_what_killed_processes_left(data: Path, embed: Embed) -> None:
    process, url = share(data)
    pid = postmaster_pid(data)
    process.kill()
    process.communicate()
    server = embed(data)
    assert server.start() == url
    assert postmaster_pid(data) == pid
    server.stop()
    assert not is_running(data)


def test_a_start_that_takes_long_is_waited_for_and_logged(
    data: Path, embed: Embed, caplog: pytest.LogCaptureFixture
) -> None:
    """A stopped process stands for one that recovers from a crash: it accepts no connections."""
    caplog.set_level("INFO", "chatterd")
    process, url = share(data)
    pid = postmaster_pid(data)
    os.kill(pid, signal.SIGSTOP)
    server = embed(data)
    with ThreadPoolExecutor() as threads:
        starting = threads.submit(server.start)
        eventually("it is logged", lambda: "Waiting for PostgreSQL, which starts on" in caplog.text)
        assert not starting.done()
        os.kill(pid, signal.SIGCONT)
        assert starting.result() == url
    end(process)


@pytest.mark.extended
def test_simultaneous_first_starts_share_one_server(base: Path) -> None:
    folder = base / "data" / "postgres"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARING, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    urls = {process.stdout.readline() for process in processes if process.stdout}
    assert len(urls) == 1
    for process in processes:
        end(process)
    assert not is_running(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["postgres", "postgres-run"]


def test_a_killed_server_is_started_again_on_the_same_socket(
    data: Path, embed: Embed, expected_log: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "chatterd")
    expected_log.append("PostgreSQL has ended. Starting it again")
    server = embed(data)
    url = server.start()
    execute(url, "CREATE TABLE kept AS SELECT 1 AS one")
    server.supervise()
    for count, number in enumerate((signal.SIGKILL, signal.SIGQUIT), 1):
        before = postmaster_pid(data)
        os.kill(before, number)
        wait_for_another(data, url, before)
        eventually("the start has ended", partial(restarted, caplog, count))
        assert values(url, "SELECT one FROM kept") == [1]


def restarted(caplog: pytest.LogCaptureFixture, times: int) -> bool:
    return caplog.text.count("PostgreSQL runs again") == times


@pytest.mark.extended
def test_another_process_starts_the_server_again_that_the_first_one_started(
    data: Path, embed: Embed, expected_log: list[str]
) -> None:
    expected_log.append("PostgreSQL has ended. Starting it again")
    process, url = share(data)
    server = embed(data)
    assert server.start() == url
    server.supervise()
    before = postmaster_pid(data)
    process.kill()
    process.communicate()
    os.kill(before, signal.SIGKILL)
    wait_for_another(data, url, before)


def test_a_server_that_cannot_be_started_is_tried_again(data: Path, embed: Embed, expected_log: list[str]) -> None:
    """So it is while the disk is full."""
    expected_log += ["PostgreSQL has ended. Starting it again", "cannot be started again yet: .*pg_control"]
    server = embed(data)
    url = server.start()
    server.supervise()
    control = data / "global" / "pg_control"
    control.rename(control.with_name("away"))
    log, before = data.parent / "postgres-run/log", postmaster_pid(data)
    os.kill(before, signal.SIGKILL)
    eventually("starts fail", lambda: log.read_text().count("could not find the database system") >= 2)
    control.with_name("away").rename(control)
    wait_for_another(data, url, before)


def test_chatterd_goes_on_after_its_server_was_killed(
    base: Path, start_chatterd: Callable[..., Program], ollama: ScriptedOllama, expected_log: list[str]
) -> None:
    expected_log += ["PostgreSQL", "database"]
    chatterd = start_chatterd(data_dir=base / "a folder; $(id)")
    folder = base / "a folder; $(id)" / "postgres"
    with Client(chatterd.url) as client:
        ollama.script(Words())
        client.ask("before")
        os.kill(postmaster_pid(folder), signal.SIGKILL)
        chatterd.wait_log("The embedded PostgreSQL runs again")
        eventually("it is ready", lambda: client.http.get("/readyz").status_code == 200)
        ollama.script(Words())
        client.ask("after")
        assert [text for _, text in client.messages()] == ["before", words(5), "after", words(5)]
    assert chatterd.terminate() == 0
    assert not is_running(folder)


@pytest.mark.extended
def test_ctrl_c_ends_a_start_that_waits(data: Path, embed: Embed) -> None:
    server = embed(data)
    server.start()
    server.stop()
    with exclusive(data.parent / "postgres-run/start.lock", account.current(), threading.Event()):
        command = [sys.executable, "server.py", "--port=0", "--database-url=", f"--data-dir={data.parent}"]
        environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            for line in process.stderr:
                if "Waiting for another process" in line:
                    break
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
    assert process.returncode == 0
    assert "the start is cancelled" in rest and "chatterd has stopped" in rest
    assert "Traceback" not in rest


def wait_for_another(data: Path, url: str, before: int) -> None:
    """Wait until a server with another process id accepts connections."""
    eventually("another one runs", lambda: accepts(url) and postmaster_pid(data) != before)


def accepts(url: str) -> bool:
    try:
        return values(url, "SELECT 1") == [1]
    except (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
        return False
