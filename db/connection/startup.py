"""What must be right before the database is used, and which errors of the first connection are final."""

import asyncio
import logging
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass
from os import environ

import asyncpg

from db.connection.connector import Connector
from db.connection.parameters import ConnectionOptions
from db.connection.reasons import UNAVAILABLE_ERRORS
from errors import StartupError
from logging_setup import describe

log = logging.getLogger("chatterd.db")

MIN_VERSION = 13
"""The oldest major version of PostgreSQL that has all functions of the statements (``gen_random_uuid``)."""

ENCODINGS = ("UTF8", "SQL_ASCII")
"""Encodings of a database that keep every text. SQL_ASCII stores the bytes as they come, which are UTF-8."""

SESSIONS = 2
"""Connections of a process besides its pool: the lease and the journal."""

PROBE_TIMEOUT = 2.0
"""Seconds for a server to respond to the request for TLS, and to two blank lines after it."""

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
"""The request for TLS. PostgreSQL responds with one byte, ``S`` or ``N``; versions before 7.0 with ``E`` (PostgreSQL
manual, section 54.2.10)."""

RETRIED_ERRORS = (*UNAVAILABLE_ERRORS, asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.TransactionRollbackError)
"""Errors that may pass by themselves. A database with ALLOW_CONNECTIONS false raises the second."""

CATCHABLE_ERRORS = (*RETRIED_ERRORS, asyncpg.PostgresError, ValueError)
"""Errors of connecting and migrating. asyncpg raises ValueError for an invalid PGPORT."""


@dataclass(frozen=True, slots=True)
class ServerProperties:
    """What chatterd depends on.

    :ivar version: major version of PostgreSQL.
    :ivar encoding: of the database.
    :ivar standby: whether the server is a standby.
    :ivar read_only: whether sessions are read-only by default.
    :ivar role_limit: connections that the role may open; None: no limit.
    :ivar database_limit: connections that the database accepts; None: no limit.
    """

    version: int
    encoding: str
    standby: bool = False
    read_only: bool = False
    role_limit: int | None = None
    database_limit: int | None = None


async def read_properties(connection: asyncpg.Connection) -> ServerProperties:
    """Read the properties of the server and the database. Superusers have no limits."""
    [row] = await connection.fetch(
        """
        SELECT current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby,
               current_setting('default_transaction_read_only') = 'on' AS read_only,
               CASE WHEN rolsuper OR rolconnlimit < 0 THEN NULL ELSE rolconnlimit END AS role_limit,
               CASE WHEN rolsuper OR datconnlimit < 0 THEN NULL ELSE datconnlimit END AS database_limit
        FROM pg_roles, pg_database WHERE rolname = session_user AND datname = current_database()
        """
    )
    return ServerProperties(connection.get_server_version().major, **dict(row))


def check_properties(properties: ServerProperties, options: ConnectionOptions, needed: int, wanted: int) -> None:
    """Check that chatterd can work with the database.

    :param needed: connections without which no prompt can be answered.
    :param wanted: connections that this process opens at most.
    :raises StartupError: it cannot.
    """
    name = options.database
    if properties.version < MIN_VERSION:
        raise StartupError(
            f"the server is PostgreSQL {properties.version}, and chatterd needs {MIN_VERSION} or newer. Upgrade it."
        )
    if properties.encoding not in ENCODINGS:
        raise StartupError(
            f'the database "{name}" has the encoding {properties.encoding}, which cannot store every text. Create one'
            f" with UTF-8, createdb --encoding=UTF8 --template=template0 NAME, and name it in {options.setting}."
        )
    if properties.standby:
        raise StartupError(
            f"the server is a standby, which is read-only. Name the primary in {options.setting}, or all servers"
            " (host1,host2)."
        )
    if properties.read_only:
        raise StartupError(
            f'the database "{name}" is read-only for this role: default_transaction_read_only is on. Turn it off (ALTER'
            " DATABASE or ALTER ROLE ... RESET default_transaction_read_only)."
        )
    for limit, owner, command in (
        (properties.role_limit, f'the role "{options.user}"', "ALTER ROLE"),
        (properties.database_limit, f'the database "{name}"', "ALTER DATABASE"),
    ):
        if limit is not None and limit < needed:
            raise StartupError(
                f"{owner} is limited to {limit} connections, and chatterd needs {needed}. Raise the limit ({command}"
                " ... CONNECTION LIMIT), or lower --pool-size."
            )
        if limit is not None and limit < wanted:
            log.warning(
                "%s is limited to %d connections, and this process opens up to %d: --pool-size and %d more.",
                owner.capitalize(),
                limit,
                wanted,
                SESSIONS,
            )


async def final_error(error: Exception, connector: Connector) -> StartupError | None:
    """Return what tells the operator that connecting can never succeed; None if it may succeed later."""
    options = connector.options
    if isinstance(error, ssl.SSLCertVerificationError):
        return StartupError(
            f"the certificate of PostgreSQL is not trusted ({error.verify_message.rstrip('.')}). Set sslrootcert in"
            f" {options.setting} to the file of its certificate authority."
        )
    if isinstance(error, ssl.SSLError):
        return StartupError(f"TLS with PostgreSQL fails ({error.reason or error}). Check sslmode in {options.setting}.")
    for kind, sentence in _FINAL:
        if isinstance(error, kind):
            # Of its own errors asyncpg's text is quoted; it names parameters and variables, no passwords.
            own = isinstance(error, ValueError) and error.args
            message = str(error.args[0]) if own else describe(error).partition(": ")[2] or describe(error)
            return StartupError(
                sentence.format(
                    user=options.user, database=options.database, setting=options.setting, error=message.rstrip(".")
                )
            )
    if isinstance(error, ConnectionError | TimeoutError | asyncpg.PostgresConnectionError):
        return await _probe(connector)
    return None if isinstance(error, RETRIED_ERRORS) else StartupError(f"PostgreSQL reports: {describe(error)}.")


_FINAL: tuple[tuple[type[Exception], str], ...] = (
    (
        asyncpg.InvalidPasswordError,
        'PostgreSQL rejects the password of the role "{user}", or has no such role. Correct {setting}.',
    ),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "PostgreSQL rejects the login: {error}. Correct {setting}, create the role (createuser), or allow the"
        " connection in pg_hba.conf.",
    ),
    (
        asyncpg.InvalidCatalogNameError,
        'the database "{database}" does not exist. Create it, createdb {database}, or correct {setting}.',
    ),
    (asyncpg.InsufficientPrivilegeError, 'PostgreSQL denies the role "{user}" permission: {error}. Grant it.'),
    (
        asyncpg.InvalidSchemaNameError,
        "PostgreSQL has no schema to create tables in: {error}. Create it (CREATE SCHEMA).",
    ),
    (asyncpg.ReadOnlySQLTransactionError, "the database is read-only. Name the primary in {setting}."),
    (asyncpg.ClientConfigurationError, "{setting} cannot be used: {error}."),
    (ValueError, "PGPORT or another of libpq's environment variables has no valid value ({error})."),
)
"""Errors that never pass by themselves, with a sentence for each."""


async def _probe(connector: Connector) -> StartupError | None:
    """Find out whether the host speaks TLS, or anything but PostgreSQL's protocol."""
    options = connector.options
    for host, port in options.hosts:
        if host is None or host.startswith("/"):
            continue
        port = port or int(environ.get("PGPORT", 5432))
        response = await _first_byte(host, port)
        if response == b"N" and options.arguments.get("ssl") not in (None, "disable", "allow", "prefer"):
            return StartupError(f"PostgreSQL at {host} offers no TLS. Enable it there, or change sslmode.")
        if response not in (b"", b"S", b"N", b"E"):
            return StartupError(f"what listens at {host}:{port} is not PostgreSQL. Correct {options.setting}.")
    return None


async def _first_byte(host: str, port: int) -> bytes:
    """Return the first byte of the response to a request for TLS; nothing if there is none.

    PostgreSQL responds at once. What waits for the end of a line, as some HTTP servers do, gets one.
    """
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), PROBE_TIMEOUT)
        try:
            for data in (SSL_REQUEST, b"\r\n\r\n"):
                writer.write(data)
                with suppress(TimeoutError):
                    return await asyncio.wait_for(reader.read(1), PROBE_TIMEOUT)
        finally:
            writer.close()
    except (OSError, TimeoutError):
        pass
    return b""
