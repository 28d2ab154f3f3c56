"""The pool of connections to PostgreSQL, and the conversion of its errors to those of :mod:`errors`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

import asyncpg

from db.connection.availability import Availability
from db.connection.connector import Connector
from db.connection.opening import (
    COMMAND_TIMEOUT,
    DIRECT_OPTIONS,
    POOLER_ADVICE,
    SESSION_SETTINGS,
    open_pool,
    startup_error,
)
from db.connection.parameters import parse_url
from db.connection.reasons import UNAVAILABLE_ERRORS, WRITE_REASONS, Reason, reason_of
from db.connection.refusals import refusal
from db.connection.sqlstates import RECONNECT, UNCERTAIN, Verdict, is_of, verdict_of
from db.connection.startup import CATCHABLE_ERRORS
from errors import ChatterdError, ConnectionLost, NotAcceptable, ServiceUnavailable, StartupError, StatementFailed
from logging_setup import describe

log = logging.getLogger("chatterd.db")
logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)  # its warnings repeat what is logged here

UNAVAILABLE_MESSAGE = "The database cannot be reached. Try again in a moment."

NOTHING_STORED_MESSAGE = "The database cannot store anything at the moment. Try again in a moment."

STATEMENT_FAILED_MESSAGE = "The database could not do this at the moment. Try again in a moment."

LOG_INTERVAL = 5.0
"""Seconds between two lines in the log about failed statements."""

RETRY_INTERVAL = 1.0
"""Seconds between two attempts to connect to a database that was unavailable at startup, or failed since."""

POOL = "pool"
"""The name of the pool among the users of the database (see :class:`Availability`)."""


class Database:
    """A pool of connections to a migrated database.

    :ivar size: maximum number of pooled connections.
    :ivar availability: whether the database works for the pool and for the users of :meth:`open_dedicated`.
    :ivar startup_error: why the database, which was unavailable at startup, can never be used.
    :param url: connection URL of PostgreSQL or key=value string, as libpq accepts them.
    :param size: maximum number of pooled connections.
    :param acquire_timeout: seconds to wait for a free connection, and for opening one.
    :param session_url: URL of PostgreSQL itself, if ``url`` leads to a pooler in transaction mode. Used by what needs a
        session (advisory locks, LISTEN, session settings): migrations and :meth:`open_dedicated`.
    :param on_acquired: called with the seconds that a caller of :meth:`acquire` waited.
    :param on_startup_error: called when ``startup_error`` is set.
    :raises StartupError: a URL can never work.
    """

    def __init__(
        self,
        url: str,
        size: int,
        acquire_timeout: float,
        session_url: str = "",
        on_acquired: Callable[[float], object] = lambda seconds: None,
        on_startup_error: Callable[[], object] = lambda: None,
    ) -> None:
        self._connector = Connector(parse_url(url, "--database-url"), acquire_timeout)
        self._session_connector = self._connector
        if session_url:
            self._session_connector = Connector(parse_url(session_url, "--session-database-url"), acquire_timeout)
        elif self._connector.options.is_pooler:
            raise StartupError(POOLER_ADVICE)
        self.size = size
        self.availability = Availability()
        self.availability.expect(POOL)
        self.startup_error: StartupError | None = None
        self._on_acquired = on_acquired
        self._on_startup_error = on_startup_error
        self._acquire_timeout = acquire_timeout
        self._pool: Any = None
        self._opening: asyncio.Task[None] | None = None
        self._rechecking: asyncio.Task[None] | None = None
        self._next_log = 0.0

    async def open(self) -> None:
        """Connect and migrate. If the database is unavailable, return and retry in the background.

        :raises StartupError: it can never be used as it is, or a migration failed.
        """
        for connector in {self._connector, self._session_connector}:
            if ignored := connector.options.ignored:
                log.info("%s: without effect here: %s.", connector.options.setting, ", ".join(ignored))
        if not await self._try_connect():
            self._opening = asyncio.create_task(self._keep_connecting())

    async def _try_connect(self) -> bool:
        """Connect; return False if the database is unavailable.

        :raises StartupError: it can never be used as it is.
        """
        try:
            self._pool = await open_pool(self._connector, self._session_connector, self.size, self._in_service)
        except CATCHABLE_ERRORS as error:
            final = await startup_error(error, self._connector, self._session_connector)
            if final:
                raise final from error
            self.availability.failed(POOL, error)
            return False
        self.availability.restored(POOL)
        return True

    def _in_service(self) -> bool:
        return self.availability.failure(POOL) is None

    async def _keep_connecting(self) -> None:
        while self._pool is None:
            await asyncio.sleep(RETRY_INTERVAL)
            try:
                await self._try_connect()
            except StartupError as error:
                self.startup_error = error
                self._on_startup_error()
                return
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
        :raises StatementFailed: PostgreSQL has rolled back a statement inside the block.
        :raises NotAcceptable: the database refuses a text inside the block; see :mod:`db.connection.sqlstates`.
        """
        pool = self._pool
        if pool is None:
            raise ServiceUnavailable(UNAVAILABLE_MESSAGE)
        started = monotonic()
        try:
            connection = await pool.acquire(timeout=self._acquire_timeout)
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:  # any error that prevents a session
            self._report(error, self._all_busy(pool) and isinstance(error, TimeoutError))
            raise ServiceUnavailable(UNAVAILABLE_MESSAGE) from error
        self._on_acquired(monotonic() - started)
        try:
            yield connection
        except ChatterdError:
            raise
        except Exception as error:
            failure = await self._failure(pool, connection, error)
            if failure is None:
                raise
            try:
                raise failure from error
            finally:
                del failure  # its traceback refers to this frame: a reference cycle
        finally:
            await _release(pool, connection)

    async def _failure(self, pool: Any, connection: asyncpg.Connection, error: Exception) -> ChatterdError | None:
        """Return what an error of a statement means for its caller; None if it is not the database's."""
        verdict = verdict_of(error) if isinstance(error, asyncpg.PostgresError) else None
        lost = _is_lost(connection)
        if not lost and isinstance(error, asyncpg.PostgresError) and is_of(error, RECONNECT + UNCERTAIN):
            connection.terminate()
            lost = True
        unavailable = isinstance(error, UNAVAILABLE_ERRORS) and verdict is not Verdict.CONFLICT
        if lost or unavailable:
            # If the connection is lost between two steps of a statement, asyncpg may raise any exception.
            self._report(error if unavailable else ConnectionResetError())
            await pool.expire_connections()  # the others may be lost, too
            message = NOTHING_STORED_MESSAGE if reason_of(error) in WRITE_REASONS else UNAVAILABLE_MESSAGE
            if lost or verdict is None:
                return ConnectionLost(message)
            return StatementFailed(message, perhaps_refused=False)
        if verdict is None:
            return None
        if verdict is Verdict.REFUSAL and isinstance(error, asyncpg.PostgresError):
            log.info("The database rejected a text: %s", describe(error))
            return NotAcceptable(refusal(error))
        self._log_failed_statement(error)
        return StatementFailed(STATEMENT_FAILED_MESSAGE, perhaps_refused=verdict is Verdict.DEFECT)

    def _log_failed_statement(self, error: Exception) -> None:
        if monotonic() >= self._next_log:
            self._next_log = monotonic() + LOG_INTERVAL
            state = getattr(error, "sqlstate", None)
            log.warning("The database has rolled back a statement (SQLSTATE %s): %s", state, describe(error))

    def _all_busy(self, pool: Any) -> bool:
        return bool(pool.get_size() >= self.size and pool.get_idle_size() == 0)

    def _report(self, error: BaseException, all_busy: bool = False) -> None:
        """Report a failure of the pool, and check until it has passed."""
        if self._pool is None:  # closed
            return
        self.availability.failed(POOL, error, Reason.POOL_BUSY if all_busy else None)
        if self._rechecking is None or self._rechecking.done():
            self._rechecking = asyncio.create_task(self._recheck())

    async def _recheck(self) -> None:
        while self.availability.failure(POOL):
            await asyncio.sleep(RETRY_INTERVAL)
            with suppress(ServiceUnavailable):
                await self.ping()

    async def ping(self) -> None:
        """Check that the database executes statements and, as far as can be told, stores what they write.

        :raises ServiceUnavailable: it does not, or all connections were busy for the acquire timeout.
        """
        async with self.acquire() as connection:
            if await connection.fetchval("SELECT current_setting('transaction_read_only')") == "on":
                raise asyncpg.ReadOnlySQLTransactionError("sessions are read-only")
            if self.availability.failure(POOL) in WRITE_REASONS:
                await _write_to_disk(connection)
        self.availability.restored(POOL)

    async def open_dedicated(self, name: str, **settings: str) -> asyncpg.Connection:
        """Open a connection outside the pool, to PostgreSQL itself even behind a pooler. The caller must close it.

        :param name: of the caller, which reports to ``availability`` whether the connection works.
        :param settings: PostgreSQL's settings of the session.
        :raises ServiceUnavailable: the database is unavailable, or not migrated yet.
        """
        if self._pool is None:
            raise ServiceUnavailable(UNAVAILABLE_MESSAGE)
        try:
            connection: asyncpg.Connection = await self._session_connector.connect(
                command_timeout=COMMAND_TIMEOUT, **DIRECT_OPTIONS | {"server_settings": SESSION_SETTINGS | settings}
            )
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:
            self.availability.failed(name, error)
            raise ServiceUnavailable(UNAVAILABLE_MESSAGE) from error
        return connection

    async def close(self) -> None:
        """Close all connections, including acquired ones."""
        self.availability.close()
        for task in (self._opening, self._rechecking):
            if task:
                task.cancel()
        pool, self._pool = self._pool, None
        if pool:
            pool.terminate()


def _is_lost(connection: asyncpg.Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # the pool has already taken the connection back
        return True


async def _release(pool: Any, connection: asyncpg.Connection) -> None:
    try:
        await pool.release(connection)
    except UNAVAILABLE_ERRORS as error:
        log.debug("A connection could not be returned to the pool: %s", describe(error))


async def _write_to_disk(connection: asyncpg.Connection) -> None:
    """Write a temporary file of about 400 kB where PostgreSQL keeps its data.

    :raises asyncpg.DiskFullError: there is no room for it.
    """
    async with connection.transaction():
        await connection.execute("SET LOCAL work_mem = '64kB'")  # a function's rows beyond this go to a file
        await connection.execute("SELECT count(*) FROM generate_series(1, 20000)")
