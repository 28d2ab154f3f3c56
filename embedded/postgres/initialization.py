"""Create PostgreSQL's data folder: initdb writes it beside its place, and a complete one is renamed."""

import logging
import os
import shutil
import tempfile
import threading
from pathlib import Path

from embedded.postgres import binaries, log_file
from embedded.postgres.binaries import Binaries
from embedded.postgres.data_folder import MARK, DataFolder
from embedded.postgres.file_lock import open_private
from embedded.postgres.waiting import wait_until
from errors import StartupError

log = logging.getLogger("chatterd")

SUPERUSER = "postgres"
"""The role that chatterd connects as."""

OPTIONS = (
    f"--username={SUPERUSER}",
    # The folder of the socket admits the owner of the data and root only, who could read the data anyway.
    "--auth-local=trust",
    "--auth-host=reject",
    "--encoding=UTF8",
    # Independent of the locales that are installed here, or later, or where the data are moved to.
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)

STAGING = ".initdb-"
"""In the name of a folder that initdb has not completed."""


def initialize(folder: DataFolder, programs: Binaries, start_lock: int, interrupted: threading.Event) -> None:
    """Create the data folder.

    :param start_lock: the descriptor of the lock under which this is called. initdb holds it, too: should this process
        be killed, the next one waits for the end of initdb before it removes what is left.
    :raises StartupError: initdb fails, for instance because the disk is full, or ``interrupted`` was set.
    """
    if not folder.account.has_entry:
        raise StartupError(
            f"the user {folder.account.name} has no entry in /etc/passwd, which PostgreSQL demands when it creates its "
            "data. Add one, run chatterd as another user, or set DATABASE_URL"
        )
    _remove_unfinished(folder)
    try:
        staging = Path(tempfile.mkdtemp(prefix=f"{folder.path.name}{STAGING}", dir=folder.path.parent))
    except OSError as error:
        raise StartupError(f"{folder.path} cannot be created: {error.strerror}") from error
    try:
        folder.account.take(staging)
        log.info("Creating the data of the embedded PostgreSQL in %s", folder.path)
        with binaries.for_initdb(programs, folder.account) as safe:
            _run_initdb(safe, folder, staging, start_lock, interrupted)
        os.close(open_private(staging / MARK, folder.account))
        staging.rename(folder.path)  # atomic; also in place of an empty folder
        _synchronize(folder.path.parent)
    except OSError as error:
        raise StartupError(f"{folder.path} cannot be created: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove_unfinished(folder: DataFolder) -> None:
    for path in folder.path.parent.iterdir():
        if path.name.startswith(f"{folder.path.name}{STAGING}"):
            shutil.rmtree(path, ignore_errors=True)


def _run_initdb(
    programs: Binaries, folder: DataFolder, target: Path, start_lock: int, interrupted: threading.Event
) -> None:
    command: list[str | Path] = [programs.path("initdb"), f"--pgdata={target}", *OPTIONS]
    with tempfile.TemporaryFile() as output:
        process = folder.account.popen(command, output.fileno(), pass_fds=[start_lock])
        try:
            wait_until(lambda: process.poll() is not None, "Waiting for initdb", interrupted)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
        if process.returncode != 0:
            output.seek(0)
            raise StartupError(f"initdb cannot create {folder.path}: {log_file.reason(output.read())}")


def _synchronize(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
