"""The pool of connections to PostgreSQL, and the conversion of its errors to those of :mod:`errors`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import asyncpg

from db import reply_begin, reply_end
from db.migrate import migrate
from errors import ChatterdError, ConnectionLost, NotAcceptable, ServiceUnavailable
from logging_setup import describe

log = logging.getLogger("chatterd.db")
logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)  # its warnings repeat what is logged here

UNAVAILABLE_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""Raised by asyncpg while PostgreSQL is unreachable, starting, stopping, out of resources or not the primary."""

UNAVAILABLE_MESSAGE = "The database cannot be reached. Try again in a moment."

RETRY_INTERVAL = 1.0
"""Seconds between two attempts to connect to a database that was unavailable at startup."""

COMMAND_TIMEOUT = 10.0
"""Maximum duration of a statement in seconds; migrations may take longer."""

SESSION_SETTINGS = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "jit": "off"}
"""All statements select by key, so one generic plan suits all parameters, and JIT compilation never pays.

Sequential scans are disabled because a plan made while the tables are empty stays in use when they have grown.
"""

DIRECT_OPTIONS: dict[str, Any] = {"server_settings": SESSION_SETTINGS, "max_cached_statement_lifetime": 0}
"""Arguments of asyncpg for connections to PostgreSQL itself: prepared statements are kept until the session ends."""

POOLER_OPTIONS: dict[str, Any] = {"statement_cache_size": 0}
"""Arguments of asyncpg for connections to a pooler in transaction mode, where each transaction may use another session.

Prepared statements are not kept, and the pooler sets the session's settings (``connect_query`` in
deploy/pgbouncer.ini).
"""

POOLER_HINT = ". If this is a pooler in transaction mode, set --session-database-url to the address of PostgreSQL."
"""Added to the error by which poolers reject session settings."""

MIN_CONNECTIONS = 4
"""Connections opened at startup: the number of concurrent statements that begin and finish replies."""


class _Connection(asyncpg.Connection):
    """A pooled connection that is returned without a reset query, since no statement changes the session's state."""

    def get_reset_query(self) -> str:
        return ""


class Database:
    """A pool of connections to a migrated database.

    :ivar size: maximum number of pooled connections.
    :param url: libpq connection URI.
    :param size: maximum number of pooled connections.
    :param acquire_timeout: seconds to wait for a free connection, and for opening one.
    :param session_url: URI of PostgreSQL itself, if ``url`` leads to a pooler in transaction mode. Used by what needs a
        session (advisory locks, LISTEN, session settings): migrations and :meth:`open_dedicated`.
    :param on_acquired: called with the seconds that a caller of :meth:`acquire` waited.
    """

    def __init__(
        self,
        url: str,
        size: int,
        acquire_timeout: float,
        session_url: str = "",
        on_acquired: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        self._url = url
        self._session_url = session_url or url
        self._behind_pooler = bool(session_url)
        self.size = size
        self._on_acquired = on_acquired
        self._acquire_timeout = acquire_timeout
        self._pool: Any = None
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect and migrate. If the database is unavailable, return and retry in the background.

        :raises asyncpg.PostgresError: authentication or a migration failed.
        """
        try:
            await self._connect()
        except UNAVAILABLE_ERRORS as error:
            hint = POOLER_HINT if isinstance(error, asyncpg.ProtocolViolationError) else ""
            log.warning("The database cannot be reached; retrying: %s%s", error, hint)
            self._opening = asyncio.create_task(self._keep_connecting())

    async def _connect(self) -> None:
        # Sends session settings, which it does not need, to detect a pooler: the lock of migrations needs a session.
        connection = await asyncpg.connect(
            self._session_url, timeout=self._acquire_timeout, server_settings=SESSION_SETTINGS
        )
        try:
            if self._behind_pooler:
                await self._check_same_database(connection)
            await migrate(connection)
        finally:
            await connection.close()
        pool = await asyncpg.create_pool(
            self._url,
            min_size=min(MIN_CONNECTIONS, self.size),
            max_size=self.size,
            max_inactive_connection_lifetime=0,
            timeout=self._acquire_timeout,
            command_timeout=COMMAND_TIMEOUT,
            connection_class=_Connection,
            **(POOLER_OPTIONS if self._behind_pooler else DIRECT_OPTIONS),
        )
        try:
            if not self._behind_pooler:
                await _warm_plans(pool, min(MIN_CONNECTIONS, self.size))
        except BaseException:
            pool.terminate()
            raise
        self._pool = pool

    async def _check_same_database(self, direct: asyncpg.Connection) -> None:
        pooled = await asyncpg.connect(self._url, timeout=self._acquire_timeout, **POOLER_OPTIONS)
        try:
            same = await pooled.fetchval(_DATABASE_IDENTITY) == await direct.fetchval(_DATABASE_IDENTITY)
        finally:
            await pooled.close()
        if not same:
            raise OSError("--session-database-url and --database-url lead to different databases")

    async def _keep_connecting(self) -> None:
        while self._pool is None:
            await asyncio.sleep(RETRY_INTERVAL)
            try:
                await self._connect()
                log.info("The database is reachable now.")
            except UNAVAILABLE_ERRORS:
                continue
            except Exception:
                log.exception("The database is reachable but cannot be used; retrying.")

    @property
    def connections(self) -> tuple[int, int]:
        """The numbers of acquired and of idle connections in the pool."""
        if self._pool is None:
            return 0, 0
        idle = self._pool.get_idle_size()
        return self._pool.get_size() - idle, idle

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[asyncpg.Connection]:
        """Acquire a connection for the ``async with`` block.

        :raises ServiceUnavailable: the database is unavailable, or no connection was free within the acquire timeout.
        :raises ConnectionLost: the connection was lost inside the block; the statement may or may not have been
            committed.
        :raises NotAcceptable: the database rejects a text inside the block (SQLSTATE class 22, data exception).
        """
        pool = self._pool
        if pool is None:
            raise ServiceUnavailable(UNAVAILABLE_MESSAGE)
        started = monotonic()
        try:
            connection = await pool.acquire(timeout=self._acquire_timeout)
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:  # any error that prevents a session
            log.warning("No connection to the database: %s", describe(error))
            raise ServiceUnavailable(UNAVAILABLE_MESSAGE) from error
        self._on_acquired(monotonic() - started)
        try:
            yield connection
        except ChatterdError:
            raise
        except asyncpg.DataError as error:
            log.info("The database rejected a text: %s", error)
            raise NotAcceptable(
                "The database cannot store this text. Remove NUL characters and invalid Unicode from it."
            ) from error
        except Exception as error:
            # If the connection is lost between two steps of a statement, asyncpg may raise any exception.
            if not isinstance(error, UNAVAILABLE_ERRORS) and not _is_lost(connection):
                raise
            level = logging.WARNING if self._pool else logging.INFO
            log.log(level, "The connection to the database was lost: %s", describe(error))
            await pool.expire_connections()  # the others may be lost, too
            raise ConnectionLost(UNAVAILABLE_MESSAGE) from error
        finally:
            await _release(pool, connection)

    async def ping(self) -> None:
        """Check that the database executes statements.

        :raises ServiceUnavailable: it cannot be reached, or all connections were busy for the acquire timeout.
        """
        async with self.acquire() as connection:
            await connection.execute("SELECT 1")

    async def open_dedicated(self, **settings: str) -> asyncpg.Connection:
        """Open a connection outside the pool, to PostgreSQL itself even behind a pooler. The caller must close it.

        :param settings: PostgreSQL's settings of the session.
        :raises ServiceUnavailable: the database is unavailable, or not migrated yet.
        """
        if self._pool is None:
            raise ServiceUnavailable(UNAVAILABLE_MESSAGE)
        try:
            return await asyncpg.connect(
                self._session_url,
                timeout=self._acquire_timeout,
                command_timeout=COMMAND_TIMEOUT,
                **DIRECT_OPTIONS | {"server_settings": SESSION_SETTINGS | settings},
            )
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:
            raise ServiceUnavailable(UNAVAILABLE_MESSAGE) from error

    async def close(self) -> None:
        """Close all connections, including acquired ones."""
        if self._opening:
            self._opening.cancel()
        pool, self._pool = self._pool, None
        if pool:
            pool.terminate()


_DATABASE_IDENTITY = """
    SELECT concat(oid, ' ', extract(epoch FROM pg_postmaster_start_time()))
    FROM pg_database WHERE datname = current_database()
"""
"""Identifies a database and the server it belongs to."""


def _is_lost(connection: asyncpg.Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # the pool has already taken the connection back
        return True


async def _release(pool: Any, connection: asyncpg.Connection) -> None:
    try:
        await pool.release(connection)
    except UNAVAILABLE_ERRORS as error:
        log.info("A connection could not be returned to the pool: %s", error)


async def _warm_plans(pool: Any, count: int) -> None:
    """Plan the statements of a prompt on ``count`` connections: a session's first execution takes ten times as long.

    This is not done whenever a connection opens, because these statements take locks, and a connection that is opened
    for reading must not wait for them.
    """
    connections = [await pool.acquire() for _ in range(count)]
    for connection in connections:
        await reply_begin.begin(connection, [])
        await reply_end.finish(connection, [])
    for connection in connections:
        await pool.release(connection)
