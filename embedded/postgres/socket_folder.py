"""The folder of PostgreSQL's socket: private, and with a short path, since a socket's path has at most 107 bytes.

It is created by mkdtemp(3) in the folder for temporary files, so no other user can have prepared it. A symbolic link in
the folder ``postgres-run`` names it for all processes that share the data.
"""

import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from embedded.postgres.data_folder import DataFolder
from embedded.postgres.initialization import SUPERUSER
from errors import StartupError

PLAIN = re.compile(r"/[\w./-]{1,60}", re.ASCII)
"""Paths that are short, and mean themselves in ``unix_socket_directories``, which is a list with quotes."""

PREFIX = "chatterd-"

PORT = 5432
"""Part of the socket's name."""

SOCKET = f".s.PGSQL.{PORT}"


def find(folder: DataFolder) -> Path | None:
    """Return the folder in use; None if there is none, or if it is not private."""
    try:
        path = folder.socket_link.readlink()
        status = path.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == folder.account.uid and not status.st_mode & 0o077
    return path if private else None


def prepare(folder: DataFolder) -> Path:
    """Return an empty private folder: the one used before, so that clients find the socket again, or a new one.

    :raises StartupError: it cannot be created.
    """
    path = find(folder) or _create_again(folder) or _create(folder)
    _empty(path)
    return path


def _empty(path: Path) -> None:
    for name in (SOCKET, f"{SOCKET}.lock"):
        (path / name).unlink(missing_ok=True)


def _create_again(folder: DataFolder) -> Path | None:
    """Create the folder of the last time again if the folder for temporary files was cleaned."""
    try:
        path = folder.socket_link.readlink()
        if str(path.parent) not in _parents() or not path.name.startswith(PREFIX):
            return None
        path.mkdir(mode=0o700)
        folder.account.take(path)
    except OSError:
        return None
    return path


def _parents() -> list[str]:
    """Return the folders for temporary files whose names are plain."""
    folders = dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp"))  # noqa: S108 - mkdtemp creates what is in them
    return [folder for folder in folders if PLAIN.fullmatch(folder)]


def _create(folder: DataFolder) -> Path:
    problem = ""
    for parent in _parents():
        try:
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            folder.account.take(path)
            folder.socket_link.unlink(missing_ok=True)
            folder.socket_link.symlink_to(path)
            folder.account.take(folder.socket_link)
        except OSError as error:
            problem = f"{parent}: {error.strerror}"
            continue
        if folder.account.may("-w", path):
            return path
        path.rmdir()
        problem = f"{parent}: the account {folder.account.name} may not enter it"
    raise StartupError(f"no folder for PostgreSQL's socket can be created ({problem}); set TMPDIR, or DATABASE_URL")


def remove(folder: DataFolder) -> None:
    """Remove the folder, when PostgreSQL has stopped."""
    if path := find(folder):
        _empty(path)
        with suppress(OSError):  # it contains a file of somebody
            path.rmdir()
    folder.socket_link.unlink(missing_ok=True)


def url(path: Path) -> str:
    """Return the URL of the database behind the socket; the port in it precedes ``PGPORT`` in the environment."""
    return f"postgresql://{SUPERUSER}@/{SUPERUSER}?host={quote(os.fspath(path), safe='/')}&port={PORT}"
