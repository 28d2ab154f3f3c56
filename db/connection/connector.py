"""Opens connections to PostgreSQL: one host after the other, each with a timeout of its own."""

from collections.abc import Mapping
from typing import Any

import asyncpg

from db.connection.parameters import ConnectionOptions

NEXT_HOST_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.PostgresConnectionError,
    asyncpg.TargetServerAttributeNotMatched,
)
"""Errors after which the next host is tried, as libpq does: it cannot be reached, or is not the server wanted."""


class Connector:
    """Opens connections as a connection URL says.

    asyncpg tries the hosts of a list within one timeout, so that a host which drops packets would leave no time for the
    others. Here each has its own, and the next connection begins with the host that was reached last.

    :param timeout: seconds for opening a connection to one host; the URL's ``connect_timeout`` takes precedence.
    """

    def __init__(self, options: ConnectionOptions, timeout: float) -> None:
        self.options = options
        self._timeout = options.connect_timeout or timeout
        self._first = 0

    async def connect(self, *, server_settings: Mapping[str, str] | None = None, **arguments: Any) -> Any:
        """Open a connection.

        :param server_settings: settings of the session, which take precedence over those of the URL.
        :param arguments: further arguments of ``asyncpg.connect``.
        :returns: an ``asyncpg.Connection``.
        :raises OSError: (or another error of ``asyncpg.connect``) no host can be reached; the error of the last one.
        """
        settings = {**self.options.server_settings, **(server_settings or {})}
        hosts = self.options.hosts
        first = self._first
        for attempt in range(len(hosts)):
            index = (first + attempt) % len(hosts)
            try:
                connection = await self._connect_to(*hosts[index], server_settings=settings, **arguments)
            except BaseException as error:  # also a cancellation: the caller's timeout may be shorter than this one
                self._first = (index + 1) % len(hosts)
                if not isinstance(error, NEXT_HOST_ERRORS) or attempt == len(hosts) - 1:
                    raise
            else:
                self._first = index
                return connection
        raise AssertionError("a list of hosts is never empty")

    async def _connect_to(self, host: str | None, port: int | None, **arguments: Any) -> Any:
        return await asyncpg.connect(
            host=host, port=port, timeout=self._timeout, **{**self.options.arguments, **arguments}
        )

    async def connect_for_pool(self, dsn: str | None, **arguments: Any) -> Any:
        """Open a connection for an asyncpg pool, which passes its own URL, None."""
        return await self.connect(**arguments)
