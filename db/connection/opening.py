"""Opens the pool: checks the server and the database, migrates, and prepares the first connections."""

from collections.abc import Callable
from typing import Any

import asyncpg

from db import reply_begin, reply_end
from db.connection.connector import Connector
from db.connection.retries import RetryingConnection
from db.connection.startup import CATCHABLE_ERRORS, SESSIONS, check_properties, final_error, read_properties
from db.migrate import migrate
from errors import StartupError

COMMAND_TIMEOUT = 10.0
"""Maximum duration of a statement in seconds; migrations may take longer."""

SESSION_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "jit": "off",
    "default_transaction_isolation": "read committed",
}
"""All statements select by key, so one generic plan suits all parameters, and JIT compilation never pays.

Sequential scans are disabled because a plan made while the tables are empty stays in use when they have grown. The
statements are written for READ COMMITTED: where they wait for another session, they go on with the row as it is then
(PostgreSQL manual, section 13.2.1); with a stricter default of the role or the database they would fail.
"""

DIRECT_OPTIONS: dict[str, Any] = {"server_settings": SESSION_SETTINGS, "max_cached_statement_lifetime": 0}
"""Arguments of asyncpg for connections to PostgreSQL itself: prepared statements are kept until the session ends."""

POOLER_OPTIONS: dict[str, Any] = {"statement_cache_size": 0}
"""Arguments of asyncpg for connections to a pooler in transaction mode, where each transaction may use another session.

Prepared statements are not kept, and the pooler sets the session's settings (``connect_query`` in
deploy/pgbouncer.ini).
"""

POOLER_ADVICE = (
    "--database-url leads to a pooler in transaction mode. Set --session-database-url (SESSION_DATABASE_URL) to the"
    " address of PostgreSQL itself as well."
)

MIN_CONNECTIONS = 4
"""Connections opened at startup: the number of concurrent statements that begin and finish replies."""


async def open_pool(url: Connector, session_url: Connector, size: int, in_service: Callable[[], bool]) -> Any:
    """Migrate the database and open a pool of connections to it.

    :param url: opens connections for the pool.
    :param session_url: opens connections to PostgreSQL itself, if ``url`` leads to a pooler in transaction mode; else
        the same as ``url``.
    :param size: maximum number of pooled connections.
    :param in_service: whether the database is available, as far as known; see :class:`RetryingConnection`.
    :returns: an ``asyncpg.Pool``.
    :raises StartupError: chatterd cannot work with the database as it is.
    """
    start_size = min(MIN_CONNECTIONS, size)
    behind_pooler = url is not session_url
    # Sends session settings, which it does not need, to detect a pooler: the lock of migrations needs a session.
    connection = await session_url.connect(server_settings=SESSION_SETTINGS)
    try:
        properties = await read_properties(connection)
        needed, wanted = (0, 0) if behind_pooler else (start_size, size)
        check_properties(properties, session_url.options, needed + SESSIONS, wanted + SESSIONS)
        if behind_pooler:
            await _check_same_database(url, connection)
        await migrate(connection)
    finally:
        await connection.close()
    options = POOLER_OPTIONS if behind_pooler else DIRECT_OPTIONS

    async def set_up(connection: RetryingConnection) -> None:
        connection.in_service = in_service

    init: Any = set_up
    connect: Any = url.connect_for_pool  # the stubs want all parameters of asyncpg.connect by name
    pool: Any = await asyncpg.create_pool(
        connect=connect,
        min_size=start_size,
        max_size=size,
        max_inactive_connection_lifetime=0,
        command_timeout=COMMAND_TIMEOUT,
        connection_class=RetryingConnection,
        init=init,
        **options,
    )
    try:
        if not behind_pooler:
            await _warm_plans(pool, start_size)
    except BaseException:
        pool.terminate()
        raise
    return pool


async def startup_error(error: Exception, url: Connector, session_url: Connector) -> StartupError | None:
    """Return what tells the operator that :func:`open_pool` can never succeed; None if it may succeed later.

    :param error: what it raised.
    """
    if isinstance(error, asyncpg.ProtocolViolationError) and url is session_url:
        try:  # poolers in transaction mode reject session settings, but not the connection
            await (await url.connect(**POOLER_OPTIONS)).close()
        except CATCHABLE_ERRORS:
            return None
        return StartupError(POOLER_ADVICE)
    return await final_error(error, session_url)


async def _check_same_database(url: Connector, direct: asyncpg.Connection) -> None:
    pooled = await url.connect(**POOLER_OPTIONS)
    try:
        same = await pooled.fetchval(_DATABASE_IDENTITY) == await direct.fetchval(_DATABASE_IDENTITY)
    finally:
        await pooled.close()
    if not same:
        raise StartupError("--session-database-url and --database-url lead to different databases.")


_DATABASE_IDENTITY = """
    SELECT concat(oid, ' ', extract(epoch FROM pg_postmaster_start_time()))
    FROM pg_database WHERE datname = current_database()
"""
"""Identifies a database and the server it belongs to."""


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
