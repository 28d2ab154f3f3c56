"""The operating-system account that PostgreSQL runs as: PostgreSQL does not run as root.

Started by root, PostgreSQL runs as the owner of its data or, for new data, of the folder that contains it, so that the
owner can start it without root later. If that is root too, it runs as the account :data:`SERVICE_ACCOUNT`.
"""

import dataclasses
import fcntl
import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import StartupError

SERVICE_ACCOUNT = "chatterd-postgres"
"""A system account without password and login, created on the first start as root."""

USERADD = (
    *("useradd", "--system", "--user-group", "--no-create-home", "--home-dir=/nonexistent"),
    *("--shell=/usr/sbin/nologin", SERVICE_ACCOUNT),
)

CREATION_LOCK = Path("/run/chatterd-useradd.lock")
"""Of two useradd(8) that create the same account simultaneously, the second gives it another number."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SETPRIV = (
    "--clear-groups",
    "--securebits=+no_setuid_fixup",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)
"""Options of setpriv(1): the program may pass and read folders that are closed to its account (capabilities(7)).

Without ``no_setuid_fixup``, access(2), by which PostgreSQL checks its own program, ignores the capability.
"""


@dataclass(frozen=True)
class Account:
    """A user of the operating system.

    :param switch: whether this process is another user's, root's, and must change to this one.
    :param reads_all: whether programs may read all files, to reach data below a folder like ``/root``.
    """

    uid: int
    gid: int
    name: str
    switch: bool = False
    reads_all: bool = False

    @property
    def has_entry(self) -> bool:
        """Return whether the operating system knows a name for it. In a container it may not."""
        return _entry(self.uid) is not None

    def popen(
        self,
        arguments: Sequence[str | Path],
        output: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        *,
        stdin: int = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start a program as this account, in a session of its own: Ctrl-C in a terminal does not reach it.

        Its environment is minimal: ``LD_*``, ``PG*``, ``LC_*`` and others change what PostgreSQL does. Its current
        folder is ``/``: the current one may be closed to the account.

        :param environment: added to it.
        :raises OSError: the program cannot be executed.
        """
        prefix: list[str] = []
        change: dict[str, Any] = {}
        if self.reads_all:
            prefix = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", *SETPRIV, "--"]
        elif self.switch:
            change = {"user": self.uid, "group": self.gid, "extra_groups": []}
        return subprocess.Popen(  # noqa: S603 - no shell
            [*prefix, *map(str, arguments)],
            stdin=stdin,
            stdout=output,
            stderr=output,
            env={"PATH": PATH, "LC_ALL": "C", **(environment or {})},
            cwd="/",
            umask=0o077,
            start_new_session=True,
            pass_fds=pass_fds,
            **change,
        )

    def succeeds(self, arguments: Sequence[str | Path]) -> bool:
        """Run a program as this account, without its output, and return whether it can be run and its status is 0."""
        try:
            return self.popen(arguments).wait() == 0
        except OSError:
            return False

    def may(self, test: str, path: Path) -> bool:
        """Return the answer of test(1), such as ``-x``, to this account."""
        return self.succeeds(["test", test, path])

    def take(self, file: int | Path) -> None:
        """Make this account the owner of a file, given by descriptor or path. Symbolic links are not followed."""
        if self.switch and isinstance(file, int):
            os.fchown(file, self.uid, self.gid)
        elif self.switch:
            os.chown(file, self.uid, self.gid, follow_symlinks=False)

    def reading_all(self) -> "Account":
        """Return this account with the capability to read all files.

        :raises StartupError: setpriv(1) is missing, or this process lacks the capability.
        """
        account = dataclasses.replace(self, reads_all=True)
        if not account.may("-d", Path("/")):
            raise StartupError(
                f"PostgreSQL does not run as root, and its account {self.name} may not enter the folder of chatterd or "
                "of --data-dir. Move both out of /root, run chatterd as another user, or set DATABASE_URL"
            )
        return account


def current() -> Account:
    """Return the account of this process."""
    uid = os.geteuid()
    return Account(uid, os.getegid(), _name(uid))


def find(folder: Path) -> Account:
    """Return the account for the data in a folder, which need not exist.

    :raises StartupError: no account can be used.
    """
    if os.geteuid() != 0:
        return current()
    uid = _owner(folder)
    named = _entry(uid)
    if uid != 0 and (named or (folder / "PG_VERSION").exists()):  # initdb, not PostgreSQL, demands a name
        return Account(uid, named.pw_gid if named else uid, _name(uid), switch=True)
    service = _service_account()
    return Account(service.pw_uid, service.pw_gid, service.pw_name, switch=True)


def _owner(folder: Path) -> int:
    """Return the user id of the data's owner or, if there are none, of the nearest folder above."""
    for path in (folder / "PG_VERSION", folder, *folder.parents):
        if path.exists():
            uid = path.stat().st_uid
            if uid != 0 or path not in (folder / "PG_VERSION", folder):
                return uid
    return 0


def _entry(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _name(uid: int) -> str:
    entry = _entry(uid)
    return entry.pw_name if entry else f"with the number {uid}"


def _service_account() -> pwd.struct_passwd:
    """Return the entry of :data:`SERVICE_ACCOUNT`; create it if it is missing."""
    problem = ""
    with suppress(KeyError):
        return pwd.getpwnam(SERVICE_ACCOUNT)
    try:
        lock = os.open(CREATION_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(KeyError):
                return pwd.getpwnam(SERVICE_ACCOUNT)
            done = subprocess.run(USERADD, capture_output=True, text=True, env={"PATH": PATH})  # noqa: S603 - no shell
            problem = done.stderr.strip()
            with suppress(KeyError):
                return pwd.getpwnam(SERVICE_ACCOUNT)
        finally:
            os.close(lock)
    except OSError as error:
        problem = str(error)
    raise StartupError(
        f"PostgreSQL does not run as root, and the account {SERVICE_ACCOUNT} cannot be created ({problem}). Create it, "
        "run chatterd as another user, or set DATABASE_URL"
    )
