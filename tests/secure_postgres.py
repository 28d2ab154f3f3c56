"""A PostgreSQL of its own for tests of connecting: it asks for passwords, and a proxy offers TCP and TLS."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import trustme

from tests.cluster import OwnPostgres
from tests.database import execute, rows
from tests.fakes.tls_terminator import TLSTerminator

PASSWORD = "p w#@/:%ü"
"""The password of all roles: with every character that needs an encoding in a URL."""

RULES = """
local   all postgres,stranger trust
local   all refused reject
local   all all scram-sha-256
"""
"""Its pg_hba.conf."""


class SecurePostgres:
    """Runs while its ``with`` block does, with the roles ``refused`` and ``plain``, each with a database of its name.

    :ivar tls: a proxy on TCP, with and without TLS; its certificate is for 127.0.0.1 only.
    :ivar port: the port of the proxy.
    :ivar url: as a superuser, over its socket in ``socket_folder``.
    :ivar authority: file of the certificate authority.
    :ivar other_authority: file of another one.
    """

    def __init__(self, folder: Path) -> None:
        self.authority = folder / "ca.pem"
        self.other_authority = folder / "other.pem"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._own = stack.enter_context(OwnPostgres())
            self._configure()
            authority = trustme.CA()
            authority.cert_pem.write_to_path(self.authority)
            trustme.CA().cert_pem.write_to_path(self.other_authority)
            socket = Path(self.socket_folder, ".s.PGSQL.5432")
            self.tls = stack.enter_context(TLSTerminator(socket, authority.issue_cert("127.0.0.1")))
            self.port = self.tls.port
            self._stack = stack.pop_all()
        return self

    def _configure(self) -> None:
        self.url = self._own.url
        self.data = Path(rows(self.url, "SHOW data_directory")[0][0])
        self.socket_folder = rows(self.url, "SHOW unix_socket_directories")[0][0].split(",")[0]
        for role in ("refused", "plain"):
            execute(self.url, f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
            execute(self.url, f"CREATE DATABASE {role} OWNER {role}")
        Path(rows(self.url, "SHOW hba_file")[0][0]).write_text(RULES)
        execute(self.url, "SELECT pg_reload_conf()")

    def url_of(self, role: str, query: str = "", database: str = "", host: str = "") -> str:
        """Return the URL of a role's own database, or another one, over TCP.

        :param host: instead of 127.0.0.1 and the proxy's port, another host with its port, or several.
        """
        password = quote(PASSWORD, safe="")
        return f"postgresql://{role}:{password}@{host or f'127.0.0.1:{self.port}'}/{database or role}?{query}"

    def as_standby(self, act: Callable[[], None]) -> None:
        """Call a function while the server is a hot standby."""
        signal = self.data / "standby.signal"
        signal.touch()
        if signal.owner() != self.data.owner():
            shutil.chown(signal, self.data.owner(), self.data.group())
        self._own.restart("fast")
        try:
            act()
        finally:
            signal.unlink()
            self._own.restart("fast")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
