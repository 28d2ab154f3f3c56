"""Processes of the operating system: whether a process id still means the process that it meant, and signals to it."""

import os
import signal
import subprocess
from pathlib import Path

PROC = Path("/proc")
"""Linux; elsewhere ps(1) is asked."""


def identity(pid: int) -> str | None:
    """Return the id and the start time of a process, which no other process has; None if it has ended."""
    if not (PROC / "self/stat").exists():
        started = _ps(pid, "lstart=")
        return f"{pid} {started}" if started else None
    try:
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(") ")[2].split()
    except OSError:
        return None
    # proc_pid_stat(5): state is the 3rd field, the start time the 22nd. A zombie has ended.
    return None if fields[0] in "ZX" else f"{pid} {fields[19]}"


def owner(pid: int) -> int | None:
    """Return the user id of a process; None if it has ended."""
    if not (PROC / "self/stat").exists():
        return int(_ps(pid, "uid=") or -1)
    try:
        return (PROC / str(pid)).stat().st_uid
    except OSError:
        return None


def is_postgres_in(pid: int, folder: Path) -> bool:
    """Return whether a process is a postmaster whose data are in ``folder``: its current folder is that one.

    Without ``/proc`` its arguments are searched for the folder.
    """
    if not (PROC / "self/stat").exists():
        return "postgres" in (arguments := _ps(pid, "args=")) and str(folder) in arguments
    try:
        program = (PROC / str(pid) / "exe").readlink()
        return program.name.startswith("postgres") and (PROC / str(pid) / "cwd").samefile(folder)
    except OSError:  # ended, or another user's
        return False


def send_signal(identified: str, number: int) -> bool:
    """Send a signal to the process of this :func:`identity`; return whether it exists.

    On Linux a file descriptor of the process ensures that no other one receives the signal (pidfd_open(2)).

    :raises PermissionError: it is another user's.
    """
    pid = int(identified.split()[0])
    try:
        if not hasattr(os, "pidfd_open"):
            exists = identity(pid) == identified
            if exists:
                os.kill(pid, number)
            return exists
        return _send_signal_by_descriptor(pid, identified, number)
    except ProcessLookupError:
        return False


def _send_signal_by_descriptor(pid: int, identified: str, number: int) -> bool:
    descriptor = os.pidfd_open(pid)
    try:
        if identity(pid) != identified:
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    finally:
        os.close(descriptor)


def _ps(pid: int, column: str) -> str:
    command = ["/bin/ps", "-o", column, "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()  # noqa: S603 - no shell
