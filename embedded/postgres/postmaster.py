"""The PostgreSQL of one data folder: find it running, start it, wait until it accepts connections, stop it.

Its processes inherit an exclusive lock on ``server.lock``. So it runs as long as the lock is held, whatever
``postmaster.pid`` says; the lock file contains the postmaster's process id and start time. All functions that change
something are called under ``start.lock``.
"""

import fcntl
import logging
import os
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from embedded.postgres import log_file, process, socket_folder
from embedded.postgres.binaries import Binaries
from embedded.postgres.data_folder import DataFolder
from embedded.postgres.file_lock import is_locked, open_private, try_lock
from embedded.postgres.waiting import wait_until
from errors import StartupError

log = logging.getLogger("chatterd")

LOST_TIMEOUT = 10.0
"""Seconds for a PostgreSQL that another process started to create its socket, or for the rest of one to end."""

FAST_SHUTDOWN_TIMEOUT = 60.0
"""Seconds for PostgreSQL to write its data before it is stopped without that; its next start then recovers them."""

NEVER = threading.Event()


class Postmaster:
    """The PostgreSQL of a data folder.

    :param interrupted: set by another thread to end the waiting.
    """

    def __init__(self, folder: DataFolder, programs: Binaries, interrupted: threading.Event) -> None:
        self._folder = folder
        self._programs = programs
        self._interrupted = interrupted
        self._child: subprocess.Popen[bytes] | None = None

    def is_locked(self) -> bool:
        """Return whether a process of it runs, started by this process or another one that uses the data."""
        self._reap()
        return is_locked(self._folder.server_lock)

    def is_serving(self) -> bool:
        """Return whether it runs and its socket is there; it may not accept connections yet."""
        path = socket_folder.find(self._folder)
        return self.is_locked() and path is not None and (path / socket_folder.SOCKET).exists()

    def ensure_running(self) -> str:
        """Start it unless it runs, wait until it accepts connections, and return its URL.

        :raises StartupError: it does not start, or the wait was interrupted.
        """
        if self.is_locked() and not self._wait_for_socket():
            self.stop()
        if not self.is_locked():
            self.stop_unlocked()
            self._start()
        path = socket_folder.find(self._folder)
        if path is None:
            raise StartupError(f"the folder of PostgreSQL's socket, named by {self._folder.socket_link}, is missing")
        return socket_folder.url(path)

    def _wait_for_socket(self) -> bool:
        """Wait for a PostgreSQL that another process started; return whether it accepts connections.

        It may also be the rest of one whose postmaster was killed, which ends by itself.
        """

        def is_settled() -> bool:
            return self.is_serving() or not self.is_locked()

        what = f"Waiting for the PostgreSQL that another process started on {self._folder.path}"
        return wait_until(is_settled, what, self._interrupted, LOST_TIMEOUT) and self._wait_ready(0)

    def stop_unlocked(self) -> None:
        """Stop a PostgreSQL without the lock: one that an older version of chatterd started, or somebody by hand.

        If ``postmaster.pid`` names any other process, or none, the file is left from a crash and removed: PostgreSQL
        does not start if a process of that id exists.

        :raises StartupError: it does not stop.
        """
        pid = self._pid_in_file()
        if pid and process.is_postgres_in(pid, self._folder.path) and (identity := process.identity(pid)):
            log.info("Restarting the PostgreSQL that runs on %s already (process %d)", self._folder.path, pid)
            self._signal(identity)
            if process.identity(pid) == identity:
                raise StartupError(f"PostgreSQL runs on {self._folder.path} already and does not stop (process {pid})")
        self._folder.pid_file.unlink(missing_ok=True)

    def _pid_in_file(self) -> int | None:
        try:
            pid = int(self._folder.pid_file.read_bytes().split(b"\n")[0])
        except (OSError, ValueError):
            return None
        return pid if pid > 1 else None

    def _start(self) -> None:
        sockets = socket_folder.prepare(self._folder)
        log_file.limit(self._folder.log, self._folder.account)
        lock = open_private(self._folder.server_lock, self._folder.account)
        output = open_private(self._folder.log, self._folder.account, os.O_WRONLY | os.O_APPEND)
        try:
            if not wait_until(
                lambda: try_lock(lock, fcntl.LOCK_EX), "Waiting for a lock", self._interrupted, LOST_TIMEOUT
            ):
                raise StartupError(f"{self._folder.server_lock} stays locked, and its process is not a PostgreSQL")
            offset = os.fstat(output).st_size
            command: list[str | Path] = [self._programs.path("postgres"), *self._arguments(sockets)]
            self._child = self._folder.account.popen(command, output, pass_fds=[lock])
            os.ftruncate(lock, 0)
            os.pwrite(lock, (process.identity(self._child.pid) or "").encode(), 0)
        finally:
            os.close(output)
            os.close(lock)
        if not self._wait_ready(offset):
            raise StartupError(
                f"PostgreSQL did not start: {log_file.reason_since(self._folder.log, offset)} (from {self._folder.log})"
            )

    def _arguments(self, sockets: Path) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": sockets,
            "unix_socket_permissions": "0700",
            "port": socket_folder.PORT,
        }
        return ["-D", str(self._folder.path), *(f"--{name}={value}" for name, value in settings.items())]

    def _wait_ready(self, offset: int) -> bool:
        """Wait until it accepts connections, for as long as it runs; return False if it has ended.

        :param offset: size of the log when it was started.
        """

        def is_settled() -> bool:
            return self._accepts() or not self._runs()

        wait_until(
            is_settled,
            f"Waiting for PostgreSQL, which starts on {self._folder.path} and may recover from a crash",
            self._interrupted,
        )
        return self._runs()

    def _runs(self) -> bool:
        return self.is_locked() or self._child is not None

    def _accepts(self) -> bool:
        path = socket_folder.find(self._folder)
        if path is None or not (path / socket_folder.SOCKET).exists():
            return False
        arguments = ["--quiet", "--timeout=1", f"--host={path}", f"--port={socket_folder.PORT}"]
        return self._folder.account.succeeds([self._programs.path("pg_isready"), *arguments])

    def _reap(self) -> None:
        if self._child and self._child.poll() is not None:
            self._child = None

    def stop(self) -> None:
        """Stop it and wait until it has ended.

        :raises StartupError: its process cannot be found.
        """
        if self.is_locked():
            if identity := self._identity():
                self._signal(identity)
            if not wait_until(lambda: not self.is_locked(), "Waiting for PostgreSQL to stop", NEVER, LOST_TIMEOUT):
                raise StartupError(
                    f"PostgreSQL runs on {self._folder.path}, but its process cannot be found here or is another "
                    "user's; does another container use the folder?"
                )
        socket_folder.remove(self._folder)

    def _identity(self) -> str | None:
        """Return the identity of the postmaster that holds the lock, if it is alive."""
        if self._child:
            return process.identity(self._child.pid)
        with suppress(OSError, ValueError):
            recorded = self._folder.server_lock.read_text()
            pid = int(recorded.partition(" ")[0])
            # The account may write what it likes into the file, and this process may be root's.
            if process.identity(pid) == recorded and process.owner(pid) == self._folder.account.uid:
                return recorded
        in_file = self._pid_in_file()
        if in_file and process.is_postgres_in(in_file, self._folder.path):
            return process.identity(in_file)
        return None

    def _signal(self, identity: str) -> None:
        """Stop the postmaster with this identity and wait until it has ended.

        SIGINT is PostgreSQL's fast shutdown: sessions are ended and data are written. SIGQUIT ends it at once.
        """
        pid = int(identity.split()[0])

        def has_ended() -> bool:
            self._reap()
            return process.identity(pid) != identity

        for number, timeout in ((signal.SIGINT, FAST_SHUTDOWN_TIMEOUT), (signal.SIGQUIT, LOST_TIMEOUT)):
            try:
                process.send_signal(identity, number)
            except PermissionError:
                return
            if wait_until(has_ended, "Waiting for PostgreSQL to stop", NEVER, timeout):
                return
            log.warning("PostgreSQL (process %d) has not stopped within %.0f s.", pid, timeout)
