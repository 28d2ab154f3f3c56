"""The embedded PostgreSQL as chatterd uses it: started, supervised, shared with other processes, stopped."""

import fcntl
import logging
import os
import threading
from pathlib import Path

from embedded.postgres import account as accounts
from embedded.postgres import binaries, locale_repair, log_file
from embedded.postgres.data_folder import DataFolder
from embedded.postgres.file_lock import LockTimeout, exclusive, open_private, try_lock
from embedded.postgres.initialization import initialize
from embedded.postgres.postmaster import NEVER, Postmaster
from errors import StartupError

log = logging.getLogger("chatterd")

CHECK_INTERVAL = 0.5
"""Seconds between two checks whether PostgreSQL runs."""

MAX_RETRY_INTERVAL = 10.0
"""Seconds between two attempts to start a PostgreSQL that does not start, at most."""


LEAVE_TIMEOUT = 5.0
"""Seconds for which a process that stops waits for one that starts the server."""


class EmbeddedPostgres:
    """PostgreSQL with its data in ``folder``, reached over a socket in the file system only.

    Processes that name the same folder share one server. Each holds a shared lock; the process that stops when no other
    one holds it stops the server. The kernel releases the locks of killed processes, and the next start takes over the
    server that they left.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder
        self._interrupted = threading.Event()
        self._folder: DataFolder | None = None
        self._postmaster: Postmaster | None = None
        self._use: int | None = None
        self._supervisor: threading.Thread | None = None
        self._changing = threading.Lock()

    @staticmethod
    def installed() -> bool:
        """Return whether its package is installed completely."""
        return binaries.installed()

    def start(self) -> str:
        """Start it on the existing data, or use the one that runs, and return its URL. Blocks until it is ready.

        May be called again after its end.

        :raises StartupError: it cannot be started, or :meth:`stop` was called in another thread.
        """
        with self._changing:
            return self._start()

    def _start(self) -> str:
        path = self._path.absolute().resolve()
        account = accounts.find(path)
        if account.switch and not account.may("-x", _nearest(path)):
            account = account.reading_all()
        try:
            programs = binaries.find(account)
        except StartupError:
            if not account.switch or account.reads_all:
                raise
            account = account.reading_all()
            programs = binaries.find(account)
        self._folder = folder = DataFolder(path, account)
        folder.create_run_folder()
        with exclusive(folder.start_lock, account, self._interrupted) as lock:
            if not folder.is_initialized():
                initialize(folder, programs, lock, self._interrupted)
            folder.repair_ownership()
            folder.check_version(binaries.MAJOR_VERSION)
            if self._postmaster is None:
                self._postmaster = Postmaster(folder, programs, self._interrupted)
            if self._use is None:
                self._use = open_private(folder.users_lock, account)
                try_lock(self._use, fcntl.LOCK_SH)
            if not self._postmaster.is_locked():
                self._postmaster.stop_unlocked()
                locale_repair.repair(folder, programs, lock)
            return self._postmaster.ensure_running()

    def supervise(self) -> None:
        """Start a thread that starts PostgreSQL again whenever it ends before :meth:`stop`."""
        self._supervisor = threading.Thread(target=self._supervise, args=(self._folder, self._postmaster), daemon=True)
        self._supervisor.start()

    def stop(self) -> None:
        """Stop it, unless another process uses it. Blocks until it has stopped.

        A :meth:`start` that waits in another thread ends with StartupError before.
        """
        self._interrupted.set()
        with self._changing:
            if self._supervisor:
                self._supervisor.join()
                self._supervisor = None
            if self._folder and self._postmaster and self._use is not None:
                self._leave(self._folder, self._postmaster, self._use)
            self._use = None
            self._postmaster = None
            self._interrupted = threading.Event()

    def _leave(self, folder: DataFolder, postmaster: Postmaster, use: int) -> None:
        """Release the lock of the users, and stop the server if no other process holds it."""
        try:
            with exclusive(folder.start_lock, folder.account, NEVER, LEAVE_TIMEOUT):
                if try_lock(use, fcntl.LOCK_EX):
                    postmaster.stop()
        except LockTimeout:
            pass  # the process that has it is starting the server, uses it, and will stop it
        except StartupError as error:
            log.warning("The embedded PostgreSQL was not stopped: %s", error)
        finally:
            os.close(use)

    def _supervise(self, folder: DataFolder, postmaster: Postmaster) -> None:
        pause, problem = CHECK_INTERVAL, ""
        while not self._interrupted.wait(pause):
            try:
                log_file.limit(folder.log, folder.account)
                if not postmaster.is_serving():
                    if not problem:
                        log.warning("The embedded PostgreSQL has ended. Starting it again; its log is %s", folder.log)
                    with exclusive(folder.start_lock, folder.account, self._interrupted):
                        postmaster.ensure_running()
                    log.info("The embedded PostgreSQL runs again.")
                pause, problem = CHECK_INTERVAL, ""
            except (StartupError, OSError) as error:
                if self._interrupted.is_set():
                    return
                if str(error) != problem:
                    log.error("The embedded PostgreSQL has ended and cannot be started again yet: %s", error)
                pause, problem = min(pause * 2, MAX_RETRY_INTERVAL), str(error)


def _nearest(path: Path) -> Path:
    """Return the folder, or the nearest one above that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
