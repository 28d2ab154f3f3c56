"""PostgreSQL's log: a file of bounded size in the folder ``postgres-run``."""

import os
import re
import shutil
from pathlib import Path

from embedded.postgres.account import Account
from embedded.postgres.file_lock import open_private

MAX_BYTES = 10_000_000
"""Size of the log above which its content moves to ``log.1``, in place of what was there."""

TAIL_BYTES = 65_536
"""Bytes at the end of the log that are searched for the reason of a failure."""

ERROR = re.compile(rb"(FATAL|PANIC|ERROR|initdb: error|setpriv): .*")
"""An error in the output of a program, without the time and the process id before it."""


def limit(path: Path, account: Account) -> None:
    """Move the content of a log that has become too large to the file beside it.

    PostgreSQL keeps the file open and appends to it, so it is copied and truncated; lines written in between are lost.
    """
    if not path.exists() or path.stat().st_size <= MAX_BYTES:
        return
    source = open_private(path, account)
    with os.fdopen(source, "rb") as content:
        content.seek(-MAX_BYTES, os.SEEK_END)
        target = open_private(path.with_name(f"{path.name}.1"), account, os.O_WRONLY | os.O_TRUNC)
        with os.fdopen(target, "wb") as copy:
            shutil.copyfileobj(content, copy)
        os.ftruncate(source, 0)


def reason(output: bytes) -> str:
    """Return what tells why a program of PostgreSQL failed: the first error, or else the last line."""
    if error := ERROR.search(output):
        return error[0].decode(errors="replace").strip()
    return (output.strip().splitlines() or [b"no reason is told"])[-1].decode(errors="replace").strip()


def reason_since(path: Path, offset: int) -> str:
    """Return the same of what was written to the log since it had ``offset`` bytes."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(min(offset, end), end - TAIL_BYTES))
        return reason(file.read())
