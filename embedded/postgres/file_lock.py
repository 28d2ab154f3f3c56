"""Locks between processes: flock(2) on files that only the owner of the data may open.

The kernel releases such a lock when the last process that holds its open file ends, however it ends. A child process
that inherits the open file holds the lock, too.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedded.postgres.account import Account
from embedded.postgres.waiting import wait_until
from errors import StartupError


def open_private(path: Path, account: Account, flags: int = os.O_RDWR) -> int:
    """Open a file, create it if it is missing, and return its descriptor. It belongs to the account, with mode 0600.

    :raises StartupError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        account.take(descriptor)
    except OSError as error:
        raise StartupError(f"{path} cannot be opened: {error.strerror}") from error
    return descriptor


def try_lock(descriptor: int, operation: int) -> bool:
    """Take a lock, ``fcntl.LOCK_EX`` or ``LOCK_SH``, if no other open file conflicts; return whether it was taken.

    :raises StartupError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StartupError(
            f"the file system of --data-dir does not support locks ({error.strerror}); use a folder on a local disk"
        ) from error
    return True


class LockTimeout(Exception):
    """Another process did not release a lock in time."""


@contextmanager
def exclusive(
    path: Path, account: Account, interrupted: threading.Event, timeout: float = float("inf")
) -> Iterator[int]:
    """Hold a lock for the block; yield its descriptor. A child process that inherits it holds the lock until it ends.

    :raises StartupError: ``interrupted`` was set while another process held it.
    :raises LockTimeout: another process held it for ``timeout`` seconds.
    """
    descriptor = open_private(path, account)
    try:
        what = f"Waiting for another process that starts or stops the embedded PostgreSQL: it has locked {path}"
        if not wait_until(lambda: try_lock(descriptor, fcntl.LOCK_EX), what, interrupted, timeout):
            raise LockTimeout(what)
        yield descriptor
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the exclusive lock of a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)
