"""Why the database is unavailable: asyncpg's errors, by class and SQLSTATE, as reasons in words. Pure."""

import socket
import ssl
from enum import Enum

import asyncpg

UNAVAILABLE_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresIOError,
)
"""Raised by asyncpg while PostgreSQL is unreachable, starting, stopping, out of resources or not the primary."""


class Reason(Enum):
    """Why the database is unavailable. The value is for operators; it names no host, user or database."""

    CONNECTING = "not connected yet"
    UNREACHABLE = "unreachable"
    NAME_UNKNOWN = "its host name cannot be resolved"
    NO_RESPONSE = "no response in time"
    CONNECTION_LOST = "connection lost"
    STARTING = "starting up or shutting down"
    SHUT_DOWN = "shut down"
    CRASHED = "recovering from a crash"
    NOT_ACCEPTING = "not accepting connections"
    TOO_MANY_CONNECTIONS = "too many connections"
    POOL_BUSY = "all connections of --pool-size are busy"
    DISK_FULL = "disk full"
    OUT_OF_MEMORY = "out of memory"
    READ_ONLY = "read-only"
    DISK_ERROR = "disk error"
    LOGIN_REJECTED = "login rejected"
    WRONG_PASSWORD = "wrong password"  # noqa: S105 - not a password
    NO_DATABASE = "no such database"
    NO_PERMISSION = "permission denied"
    TLS_FAILED = "TLS failed"
    TIMED_OUT = "statement timed out"
    OTHER = "error"


WRITE_REASONS = frozenset({Reason.DISK_FULL, Reason.READ_ONLY, Reason.DISK_ERROR, Reason.OUT_OF_MEMORY})
"""Reasons for which PostgreSQL can be read but stores nothing."""

_BY_SQLSTATE = {
    "25006": Reason.READ_ONLY,
    "28000": Reason.LOGIN_REJECTED,
    "28P01": Reason.WRONG_PASSWORD,
    "3D000": Reason.NO_DATABASE,
    "42501": Reason.NO_PERMISSION,
    "53100": Reason.DISK_FULL,
    "53200": Reason.OUT_OF_MEMORY,
    "53300": Reason.TOO_MANY_CONNECTIONS,
    "55000": Reason.NOT_ACCEPTING,
    "57014": Reason.TIMED_OUT,
    "57P01": Reason.SHUT_DOWN,
    "57P02": Reason.CRASHED,
    "57P03": Reason.STARTING,
    "58030": Reason.DISK_ERROR,
}
"""SQLSTATEs (PostgreSQL manual, appendix A)."""

_BY_CLASS: tuple[tuple[type[BaseException], Reason], ...] = (
    (socket.gaierror, Reason.NAME_UNKNOWN),
    (ssl.SSLError, Reason.TLS_FAILED),
    (TimeoutError, Reason.NO_RESPONSE),
    (asyncpg.TargetServerAttributeNotMatched, Reason.READ_ONLY),
    (asyncpg.PostgresConnectionError, Reason.CONNECTION_LOST),
    (ConnectionResetError, Reason.CONNECTION_LOST),
    (asyncpg.InterfaceError, Reason.CONNECTION_LOST),
    (asyncpg.InternalClientError, Reason.CONNECTION_LOST),
    (OSError, Reason.UNREACHABLE),
)


def reason_of(error: BaseException) -> Reason:
    """Return the reason that an error tells.

    >>> reason_of(ConnectionRefusedError()).value
    'unreachable'
    """
    state = getattr(error, "sqlstate", None)
    if state in _BY_SQLSTATE:
        return _BY_SQLSTATE[state]
    return next((reason for kind, reason in _BY_CLASS if isinstance(error, kind)), Reason.OTHER)
