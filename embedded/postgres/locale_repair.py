"""Data whose locale is not installed any more, or not here: they get the builtin locale, which needs none.

Earlier versions of chatterd created data under the locale of their environment. PostgreSQL does not start on such data,
nor connect to a database in them, where the C library lacks the locale. Here it runs in single-user mode with C.UTF-8
in place of the missing locale, for long enough to change the databases and to sort their indexes anew.
"""

import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from embedded.postgres import log_file
from embedded.postgres.binaries import Binaries
from embedded.postgres.data_folder import DataFolder
from embedded.postgres.file_lock import open_private
from errors import StartupError

log = logging.getLogger("chatterd")

SETTING = re.compile(rb"^(\s*lc_\w+\s*=\s*)'([^'\n]*)'", re.MULTILINE)
"""What initdb writes to postgresql.conf from the environment, such as ``lc_messages = 'de_DE.UTF-8'``."""

SUBSTITUTES = (Path("/usr/lib/locale/C.utf8"), Path("/usr/lib/locale/C.UTF-8"))
"""The compiled locale that takes the place of a missing one: where glibc installs it."""

STATEMENTS = (
    (
        "template1",
        "UPDATE pg_database SET datlocprovider = 'b', datlocale = 'C.UTF-8', datcollate = 'C', datctype = 'C', "
        "datcollversion = NULL WHERE datname IN ('postgres', 'template0', 'template1')",
    ),
    ("postgres", "REINDEX DATABASE;"),
)
"""Databases and the statements that are executed in them. PostgreSQL's own indexes do not depend on the locale."""


def repair(folder: DataFolder, programs: Binaries, start_lock: int) -> None:
    """Give data whose locale is missing the builtin one; PostgreSQL must not run.

    :param start_lock: the descriptor of the lock under which this is called, which PostgreSQL holds meanwhile, too.
    :raises StartupError: it fails; the next start tries again.
    """
    configuration = folder.path / "postgresql.conf"
    content = configuration.read_bytes() if configuration.exists() else b""
    missing = sorted(name for name in {match[2].decode() for match in SETTING.finditer(content)} if _is_missing(name))
    if not missing:
        return
    log.warning(
        "The data in %s were created under the locale %s, which is not installed. They get the builtin C.UTF-8, "
        "and their indexes are sorted anew, which may take minutes.",
        folder.path,
        ", ".join(missing),
    )
    with tempfile.TemporaryDirectory(prefix="chatterd-locale-", ignore_cleanup_errors=True) as locales:
        _substitute(missing, Path(locales))
        folder.account.take(Path(locales))
        for database, statement in STATEMENTS:
            _execute(folder, programs, database, statement, {"LOCPATH": locales}, start_lock)
    # Last, since this is by what the next start would see that something is left to do.
    new = configuration.with_name(f"{configuration.name}.tmp")
    with os.fdopen(open_private(new, folder.account, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(SETTING.sub(rb"\1'C'", content))
    new.replace(configuration)


def _is_missing(name: str) -> bool:
    if name in ("C", "POSIX", ""):
        return False
    # Not in this process, whose threads share one locale.
    code = "import locale, sys; locale.setlocale(locale.LC_ALL, sys.argv[1])"
    return subprocess.run([sys.executable, "-c", code, name], stderr=subprocess.DEVNULL).returncode != 0  # noqa: S603


def _substitute(missing: Iterable[str], locales: Path) -> None:
    substitute = next((path for path in SUBSTITUTES if path.is_dir()), None)
    for name in missing:
        if substitute is None or not re.fullmatch(r"[\w.@-]+", name):
            raise StartupError(
                f"PostgreSQL's data were created under the locale {name}, which is not installed. Install it, or set "
                "DATABASE_URL"
            )
        (locales / name).symlink_to(substitute)


def _execute(
    folder: DataFolder, programs: Binaries, database: str, statement: str, environment: dict[str, str], start_lock: int
) -> None:
    """Execute a statement in single-user mode, which accepts no connections; see postgres(1)."""
    command: list[str | Path] = [programs.path("postgres"), "--single", "-D", folder.path, "-c", "exit_on_error=on"]
    with tempfile.TemporaryFile() as statements, tempfile.TemporaryFile() as output:
        statements.write(f"{statement}\n".encode())
        statements.seek(0)
        process = folder.account.popen(
            [*command, database], output.fileno(), [start_lock], stdin=statements.fileno(), environment=environment
        )
        if process.wait() != 0:
            output.seek(0)
            raise StartupError(f"the locale of {folder.path} cannot be changed: {log_file.reason(output.read())}")
