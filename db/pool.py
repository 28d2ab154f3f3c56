"""The pool of connections to PostgreSQL, and what its failures mean to a client."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import asyncpg

from db import replies
from db.migrate import migrate
from errors import ChatterdError, ConnectionLost, NotAcceptable, ServiceUnavailable
from logging_setup import describe

log = logging.getLogger("chatterd.db")
logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)  # it warns with a stack trace of what is logged here already

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
"""What asyncpg raises while PostgreSQL is absent, starting, stopping, full or no longer the primary."""

UNAVAILABLE_MESSAGE = "The database cannot be reached. Try again in a moment."

RETRY_INTERVAL = 1.0
"""Seconds between two attempts to reach a database that was away when chatterd started."""

COMMAND_TIMEOUT = 10.0
"""Seconds that a statement may take; migrations may take longer."""


SESSION_SETTINGS = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "jit": "off"}
"""Every statement here goes by a key, whatever its values: to plan it once is enough, to compile it never pays, and to
read a whole table must not seem best because it is empty yet: the plan stays when it is not any more."""

DIRECT_OPTIONS: dict[str, Any] = {"server_settings": SESSION_SETTINGS, "max_cached_statement_lifetime": 0}
"""How asyncpg connects to PostgreSQL itself: statements stay prepared for as long as the session lives."""

POOLER_OPTIONS: dict[str, Any] = {"statement_cache_size": 0}
"""How it connects to a pooler in transaction mode, where each transaction may be another session's: nothing stays
prepared, and the session's settings are the pooler's to make (``connect_query`` in deploy/pgbouncer.ini)."""

POOLER_HINT = ". If it is a pooler in transaction mode, say with --session-database-url where PostgreSQL itself is."
"""What a pooler's refusal of a session's settings is about."""

MIN_CONNECTIONS = 4
"""Connections that are there from the start: as many as statements begin and end replies at once."""


class _Connection(asyncpg.Connection):
    """A pooled connection that is given back without a round trip: nothing here changes the session's state."""

    def get_reset_query(self) -> str:
        return ""


class Database:
    """Lends connections to a migrated database.

    :ivar size: how many it lends at most.
    :param url: libpq connection URI.
    :param size: connections at most.
    :param acquire_timeout: seconds to wait for a free connection, and to open one.
    :param on_acquired: called with the seconds that a caller waited for a connection.
    :param session_url: PostgreSQL itself, if ``url`` leads to a pooler in transaction mode. What needs a session of its
        own (advisory locks, LISTEN, a session's settings) goes there: see :meth:`open_dedicated`, and migrations.
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
        self._pooled = bool(session_url)
        self.size = size
        self._on_acquired = on_acquired
        self._acquire_timeout = acquire_timeout
        self._pool: Any = None
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect and migrate. If the database is away, keep trying in the background and return all the same.

        :raises asyncpg.PostgresError: the database refuses this user, or a migration.
        """
        try:
            await self._connect()
        except UNAVAILABLE_ERRORS as error:
            hint = POOLER_HINT if isinstance(error, asyncpg.ProtocolViolationError) else ""
            log.warning("The database cannot be reached, trying on: %s%s", error, hint)
            self._opening = asyncio.create_task(self._keep_connecting())

    async def _connect(self) -> None:
        # With settings though it needs none: a pooler refuses them, and a migration's lock needs a session.
        connection = await asyncpg.connect(
            self._session_url, timeout=self._acquire_timeout, server_settings=SESSION_SETTINGS
        )
        try:
            if self._pooled:
                await self._check_same(connection)
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
            **(POOLER_OPTIONS if self._pooled else DIRECT_OPTIONS),
        )
        try:
            if not self._pooled:
                await _warm_plans(pool, min(MIN_CONNECTIONS, self.size))
        except BaseException:
            pool.terminate()
            raise
        self._pool = pool

    async def _check_same(self, direct: asyncpg.Connection) -> None:
        pooled = await asyncpg.connect(self._url, timeout=self._acquire_timeout, **POOLER_OPTIONS)
        try:
            same = await pooled.fetchval(_DATABASE_IDENTITY) == await direct.fetchval(_DATABASE_IDENTITY)
        finally:
            await pooled.close()
        if not same:
            raise OSError("--session-database-url leads to another database than --database-url")

    async def _keep_connecting(self) -> None:
        while self._pool is None:
            await asyncio.sleep(RETRY_INTERVAL)
            try:
                await self._connect()
                log.info("The database is reachable now.")
            except UNAVAILABLE_ERRORS:
                continue
            except Exception:
                log.exception("The database is there, but cannot be used; trying on.")

    @property
    def connections(self) -> tuple[int, int]:
        """How many connections of the pool are lent now, and how many are idle."""
        if self._pool is None:
            return 0, 0
        idle = self._pool.get_idle_size()
        return self._pool.get_size() - idle, idle

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection for the ``async with`` block.

        :raises Unavailable: the database cannot be reached, or all connections were busy for the acquire timeout.
        :raises ConnectionLost: it went away inside the block; what was under way may be committed or not.
        :raises NotAcceptable: it refuses a text inside the block (PostgreSQL class 22, data exception).
        """
        pool = self._pool
        if pool is None:
            raise ServiceUnavailable(UNAVAILABLE_MESSAGE)
        asked = monotonic()
        try:
            connection = await pool.acquire(timeout=self._acquire_timeout)
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:  # whatever keeps a session from beginning
            log.warning("No connection to the database: %s", describe(error))
            raise ServiceUnavailable(UNAVAILABLE_MESSAGE) from error
        self._on_acquired(monotonic() - asked)
        try:
            yield connection
        except ChatterdError:
            raise
        except asyncpg.DataError as error:
            log.info("The database refused a text: %s", error)
            raise NotAcceptable(
                "The database cannot store this text: it holds a NUL or another character that is not valid Unicode."
            ) from error
        except Exception as error:
            # A connection that is cut at a bad moment makes asyncpg raise what is in no list.
            if not isinstance(error, UNAVAILABLE_ERRORS) and not _is_lost(connection):
                raise
            level = logging.WARNING if self._pool else logging.INFO
            log.log(level, "The connection to the database was lost: %s", describe(error))
            await pool.expire_connections()  # what became of this one may have become of all
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
        """Open a connection outside the pool, and past a pooler, for what lives as long as a session does. The caller
        closes it.

        :param settings: PostgreSQL's settings for the session.
        :raises Unavailable: the database cannot be reached, or was not migrated yet.
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
        """Close all connections, those still lent too."""
        if self._opening:
            self._opening.cancel()
        pool, self._pool = self._pool, None
        if pool:
            pool.terminate()


_DATABASE_IDENTITY = """
    SELECT concat(oid, ' ', extract(epoch FROM pg_postmaster_start_time()))
    FROM pg_database WHERE datname = current_database()
"""
"""Tells a database from all others."""


def _is_lost(connection: asyncpg.Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # so much so that the pool has taken it back from under its borrower
        return True


async def _release(pool: Any, connection: asyncpg.Connection) -> None:
    try:
        await pool.release(connection)
    except UNAVAILABLE_ERRORS as error:
        log.info("A connection could not be given back: %s", error)


async def _warm_plans(pool: Any, count: int) -> None:
    """Let PostgreSQL plan, on so many connections, what each prompt needs before anybody waits for it: a session's
    first takes ten times as long.

    Not on each connection as it opens: the statements take locks, for which one that only reads must not wait.
    """
    connections = [await pool.acquire() for _ in range(count)]
    for connection in connections:
        await replies.begin(connection, [])
        await replies.finish(connection, [])
    for connection in connections:
        await pool.release(connection)
