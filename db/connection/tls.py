"""TLS of connections to PostgreSQL: libpq's ``ssl...`` parameters as arguments of asyncpg.

The certificates are read once here, so that a wrong path or file ends the start with a sentence. asyncpg reads them
itself for each connection.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from errors import StartupError

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""libpq's values of ``sslmode``."""

ALIASES = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
"""Values of ``ssl``, which node-postgres and JDBC have instead of ``sslmode``; libpq accepts ``ssl=true``, too."""

NO_VERIFY = "no-verify"
"""A value of ``sslmode`` of node-postgres: TLS without any check of the certificate."""

SYSTEM = "system"
"""A value of ``sslrootcert`` of libpq: the certificate authorities that this machine trusts."""

FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")

PASSED = (*FILES, "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version")
"""Parameters that asyncpg takes in its URL only."""

TLS_PARAMETERS = ("ssl", "sslmode", *PASSED)
"""All parameters that :func:`tls_arguments` interprets."""

ALPN_PROTOCOLS = ["postgresql"]
"""PostgreSQL's name in ALPN (PostgreSQL manual, section 54.2.11)."""


def tls_arguments(parameters: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments ``ssl`` and ``dsn`` of ``asyncpg.connect``, or neither.

    :param environment: libpq's PGSSLMODE and PGSSLROOTCERT have effect where no parameter is given.
    :raises StartupError: a value is unknown, or a certificate is missing or not readable.
    """
    mode = _mode(parameters, environment)
    root = parameters.get("sslrootcert") or environment.get("PGSSLROOTCERT")
    if root == SYSTEM:
        if mode not in (None, "verify-full"):
            raise StartupError(f"sslrootcert=system needs sslmode=verify-full, not {mode}")
        return {"ssl": _context(ssl.create_default_context())}
    if mode == NO_VERIFY:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return {"ssl": _context(context)}
    arguments: dict[str, Any] = {"ssl": mode} if mode else {}
    if mode in ("verify-ca", "verify-full") and not root and not _default("root.crt").is_file():
        raise StartupError(
            f"sslmode={mode} needs a root certificate; add sslrootcert=/path/to/ca.pem, or, if a public authority has"
            " issued the server's certificate, sslmode=verify-full&sslrootcert=system"
        )
    if mode != "disable":
        _check_files({**parameters, "sslrootcert": root or ""})
    if passed := {name: parameters[name] for name in PASSED if name in parameters}:
        arguments["dsn"] = "postgresql://?" + urlencode(passed, quote_via=quote)
    return arguments


def _mode(parameters: Mapping[str, str], environment: Mapping[str, str]) -> str | None:
    if (value := parameters.get("sslmode")) is not None:
        name = "sslmode"
    elif (value := parameters.get("ssl")) is not None:
        name, value = "ssl", ALIASES.get(value, value)
    else:
        name, value = "PGSSLMODE", environment.get("PGSSLMODE") or None
    if value is not None and value not in (*MODES, NO_VERIFY):
        raise StartupError(f"{name} must be one of {', '.join(MODES)}")
    if parameters.get("channel_binding") == "require":  # libpq needs TLS for it; asyncpg cannot bind the channel
        if value == "disable":
            raise StartupError(f"channel_binding=require needs TLS, which {name}=disable forbids")
        return value if value in (NO_VERIFY, *MODES[3:]) else "require"
    return value


def _context(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    return context


def _check_files(parameters: Mapping[str, str]) -> None:
    """Read the files as asyncpg will.

    :raises StartupError: one is missing, not readable, or does not contain what it should.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in FILES:
        if path := parameters.get(name):
            try:
                Path(path).read_bytes()
            except OSError as error:
                raise StartupError(f"the file of {name}, {path}, cannot be read ({error.strerror})") from None
    try:
        for name in ("sslrootcert", "sslcrl"):
            if parameters.get(name):
                context.load_verify_locations(cafile=parameters[name])
        if certificate := parameters.get("sslcert"):
            name, default_key = "sslcert", _default("postgresql.key")
            key = parameters.get("sslkey") or (str(default_key) if default_key.exists() else None)
            context.load_cert_chain(certificate, key, lambda: parameters.get("sslpassword", ""))
    except (ssl.SSLError, OSError):
        raise StartupError(
            f"the file of {name}, {parameters[name]}, is not a certificate in PEM format, or sslkey is not its key, or"
            " sslpassword not the key's password"
        ) from None


def _default(name: str) -> Path:
    """Return the path of one of libpq's default files."""
    try:
        return Path.home() / ".postgresql" / name
    except RuntimeError:  # no home directory
        return Path("/nonexistent", name)
