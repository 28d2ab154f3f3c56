"""The meaning of a connection URL's parameters for chatterd, as arguments of ``asyncpg.connect``.

libpq's parameters have libpq's meaning (PostgreSQL manual, section 34.1.2 "Parameter Key Words"). Those of Prisma,
node-postgres, JDBC and SQLAlchemy that providers hand out are understood, too. asyncpg would send a parameter that it
does not know to the server as a setting; here it is rejected.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from getpass import getuser
from os import environ
from typing import Any

from db.connection.tls import TLS_PARAMETERS, tls_arguments
from db.connection.url import split_url
from errors import StartupError

DIRECT = ("user", "password", "passfile", "service", "krbsrvname", "gsslib")
"""Parameters that are arguments of asyncpg under the same name."""

SETTINGS = {
    "application_name": "application_name",
    "options": "options",
    "schema": "search_path",
    "currentSchema": "search_path",
    "search_path": "search_path",
}
"""Parameters that are settings of the session, with their names in PostgreSQL. ``schema`` is Prisma's,
``currentSchema`` JDBC's."""

HARMLESS = {
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "sslcertmode",
    "sslcompression",
    "sslsni",
    "supa",
    "tcp_user_timeout",
    "uselibpqcompat",
    "workaround",
}
"""Parameters that asyncpg cannot apply, and whose absence changes neither what is reached nor how secure that is.
``supa`` and ``workaround`` are Supabase's marks for Vercel, ``uselibpqcompat`` is node-postgres'."""

INSTEAD = {
    "connection_limit": "set --pool-size",
    "pool_timeout": "set --acquire-timeout",
    "pool_size": "set --pool-size",
    "require_auth": "chatterd cannot enforce it, so remove it",
    "requirepeer": "chatterd cannot enforce it, so remove it",
    "scram_client_key": "write the password",
    "servicefile": "set PGSERVICEFILE",
}
"""What to do instead of a parameter that is rejected."""

UNKNOWN_ADVICE = "remove it, or, if it is a setting of PostgreSQL, write options=-c%20name%3Dvalue"


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What a connection URL says.

    :ivar setting: the setting that contains the URL, for messages.
    :ivar hosts: host name, address or socket folder, and port, in the order in which to try them. None: asyncpg's
        default, from the environment (PGHOST, PGPORT), a service file, or the usual socket folders and localhost.
    :ivar arguments: further arguments of ``asyncpg.connect``.
    :ivar server_settings: settings of the session.
    :ivar connect_timeout: seconds for opening a connection to one host; None: not specified.
    :ivar is_pooler: whether the URL says that it leads to a pooler in transaction mode (Prisma's ``pgbouncer=true``).
    :ivar ignored: parameters that have no effect.
    """

    setting: str
    hosts: tuple[tuple[str | None, int | None], ...]
    arguments: Mapping[str, Any] = field(repr=False)
    server_settings: Mapping[str, str]
    connect_timeout: float | None = None
    is_pooler: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def user(self) -> str:
        """The user's name, for messages."""
        return str(self.arguments.get("user") or environ.get("PGUSER") or "")

    @property
    def database(self) -> str:
        """The database's name, for messages; the user's name if the URL names none."""
        return str(self.arguments.get("database") or environ.get("PGDATABASE") or self.user)


def parse_url(text: str, setting: str, environment: Mapping[str, str] = environ) -> ConnectionOptions:
    """Parse a connection URL or a key=value string.

    :param setting: the setting that contains it, for error messages.
    :param environment: of libpq's variables, those with certificates are read.
    :raises StartupError: it can never work. The message quotes no value that may be a part of the password.
    """
    try:
        return _interpret(split_url(text), setting, environment)
    except StartupError as error:
        raise StartupError(f"{setting} cannot be used: {error}.") from None


def _interpret(parameters: dict[str, str], setting: str, environment: Mapping[str, str]) -> ConnectionOptions:
    parameters = {name: value for name, value in parameters.items() if value}
    _check_names(parameters)
    hosts = _hosts(parameters)
    arguments: dict[str, Any] = {name: parameters[name] for name in DIRECT if name in parameters}
    if database := parameters.get("dbname") or parameters.get("database"):
        arguments["database"] = database
    arguments |= tls_arguments(parameters, environment)
    if attributes := _target_session_attrs(parameters, several=len(hosts) > 1):
        arguments["target_session_attrs"] = attributes
    _check_user(parameters, environment)
    settings = {SETTINGS[name]: value for name, value in parameters.items() if name in SETTINGS}
    if schema := parameters.get("schema"):  # Prisma takes it as a name, not as a list
        settings["search_path"] = '"' + schema.replace('"', '""') + '"'
    if fallback := parameters.get("fallback_application_name"):
        settings.setdefault("application_name", fallback)
    return ConnectionOptions(
        setting,
        hosts,
        arguments,
        settings,
        _connect_timeout(parameters),
        parameters.get("pgbouncer") == "true",
        tuple(_ignored(parameters)),
    )


def _ignored(parameters: Mapping[str, str]) -> Iterator[str]:
    yield from (name for name in parameters if name in HARMLESS)
    if parameters.get("channel_binding") == "require":  # asyncpg logs in without it
        yield "channel_binding=require"


def _check_names(parameters: Mapping[str, str]) -> None:
    for name, allowed in ENUMERATIONS.items():
        if name in parameters and parameters[name].lower() not in allowed:
            raise StartupError(f"chatterd can work with {name}={' or '.join(allowed)} only")
    known = {*DIRECT, *SETTINGS, *HARMLESS, *TLS_PARAMETERS, *ENUMERATIONS, *OTHERS}
    password_seen = False
    for name in parameters:
        if name not in known:
            if password_seen:
                raise StartupError("the password is followed by an unknown parameter; write & in the password as %26")
            raise StartupError(f"it has the unknown parameter {name}; {INSTEAD.get(name, UNKNOWN_ADVICE)}")
        password_seen = password_seen or name == "password"


OTHERS = ("host", "hostaddr", "port", "dbname", "database", "connect_timeout", "fallback_application_name")
"""Parameters with a function of their own below."""

ENUMERATIONS: Mapping[str, tuple[str, ...]] = {
    "channel_binding": ("disable", "prefer", "require"),
    "client_encoding": ("utf8", "utf-8", "unicode", "auto"),
    "gssencmode": ("disable", "prefer"),
    "pgbouncer": ("true", "false"),
    "replication": ("false", "off", "no", "0"),
    "target_session_attrs": ("any", "read-write", "primary"),
}
"""Parameters of which chatterd, which writes text in UTF-8 over asyncpg, can obey some values only."""


def _check_user(parameters: Mapping[str, str], environment: Mapping[str, str]) -> None:
    if not (parameters.get("user") or environment.get("PGUSER") or parameters.get("service")):
        try:
            getuser()
        except (KeyError, OSError):  # a container whose user has no name
            raise StartupError(
                "it names no user, and the operating system has no name for this process's user"
            ) from None


def _hosts(parameters: Mapping[str, str]) -> tuple[tuple[str | None, int | None], ...]:
    if "hostaddr" in parameters and "host" in parameters and parameters.get("sslmode") == "verify-full":
        raise StartupError(
            "with sslmode=verify-full, hostaddr cannot be used beside host; asyncpg would check its name"
        )
    addresses = parameters.get("hostaddr") or parameters.get("host", "")
    hosts = [host or None for host in addresses.split(",")]
    ports = [_port(port) for port in parameters.get("port", "").split(",")]
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise StartupError(f"it has {len(hosts)} hosts but {len(ports)} ports")
    return tuple(zip(hosts, ports, strict=True))


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= 65535):
        raise StartupError("its port is not a number from 1 to 65535; write : and / in the password as %3A and %2F")
    return int(text)


def _target_session_attrs(parameters: Mapping[str, str], several: bool) -> str | None:
    """Return which server to look for. Of several the one that can be written to, since chatterd writes."""
    attributes = parameters.get("target_session_attrs")
    if several and attributes in (None, "any"):
        return "read-write"
    return attributes


def _connect_timeout(parameters: Mapping[str, str]) -> float | None:
    text = parameters.get("connect_timeout")
    if text is None:
        return None
    try:
        seconds = int(text)
    except ValueError:
        raise StartupError("connect_timeout is not a whole number of seconds") from None
    return float(seconds) if seconds > 0 else None
