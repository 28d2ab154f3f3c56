"""Splits a connection URL or a key=value string into libpq's parameters.

The grammar is libpq's (PostgreSQL manual, section 34.1.1 "Connection Strings"; ``fe-connect.c``,
``conninfo_uri_parse_options`` and ``conninfo_parse``), not urllib's: a password may contain ``?``, and a host may be a
list. What libpq and other programs understand differently (``#``, ``@`` and ``/`` in a password) is rejected. Messages
never quote a value, which might be a part of the password.
"""

import re
from urllib.parse import unquote_to_bytes

from errors import StartupError

FORM = "postgresql://user:password@host/database"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

_PAIR = re.compile(r"\s*([^\s=]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:\\.|[^\s\\])*))", re.DOTALL)
"""One pair of a key=value string: the key, and its value in quotes or without."""


def split_url(text: str) -> dict[str, str]:
    """Return the parameters of a connection URL or a key=value string, by their names in libpq.

    ``host`` and ``port`` are lists separated by commas, as in libpq. The order is that of the text, except that what
    stands before the ``?`` of a URL comes last. White space and quotes around ``text`` are removed:
    Docker's ``--env-file`` keeps them.

    :raises StartupError: the text is neither.

    >>> split_url("postgresql://me@[::1]:5433,other/db?sslmode=require")
    {'sslmode': 'require', 'host': '::1,other', 'port': '5433,', 'dbname': 'db', 'user': 'me'}
    >>> split_url("host=/run/postgresql dbname='my db'")
    {'host': '/run/postgresql', 'dbname': 'my db'}
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    scheme = _SCHEME.match(text)
    if scheme:
        if scheme[1].lower().partition("+")[0] not in ("postgresql", "postgres"):  # "+" and a driver: SQLAlchemy
            raise StartupError(f"{scheme[1]}:// is not PostgreSQL's scheme; write {FORM}")
        return _split_uri(text[scheme.end() :])
    if "=" in text and not text.lower().startswith(("postgres", "jdbc:")):
        return _split_pairs(text)
    raise StartupError(f"it is not a connection URL; write {FORM}")


def _split_uri(rest: str) -> dict[str, str]:
    if "#" in rest:
        raise StartupError("it contains #; write # as %23, also in the password")
    user, at, location = rest.partition("@")
    if not at or "/" in user:
        user, location = "", rest
    user, _, password = user.partition(":")
    location, _, query = location.partition("?")
    hosts, _, database = location.partition("/")
    if "@" in hosts:
        raise StartupError("it contains more than one @; write @ in the user name and password as %40")
    if "@" in database:
        raise StartupError("it contains @ behind a slash; write / in the password as %2F, and @ as %40")
    parts = _split_hosts(hosts) | {
        "dbname": _decode(database, "database name"),
        "user": _decode(user, "user name and password"),
        "password": _decode(password, "user name and password"),
    }
    parameters = _split_query(query)  # these come first, and take precedence
    return parameters | {name: value for name, value in parts.items() if value and name not in parameters}


def _split_hosts(text: str) -> dict[str, str]:
    if not text:
        return {}
    hosts, ports = [], []
    for part in text.split(","):
        if part.startswith("["):
            match = re.fullmatch(r"\[([^\]]+)\](?::(.*))?", part)
            if not match:
                raise StartupError("its IPv6 address is incomplete; write [address]:port")
            host, port = match[1], match[2] or ""
        else:
            host, _, port = part.partition(":")
            if ":" in port:
                raise StartupError("its host contains several colons; write an IPv6 address as [address]:port")
        hosts.append(_decode(host, "host"))
        ports.append(_decode(port, "port"))
    return {"host": ",".join(hosts)} | ({"port": ",".join(ports)} if any(ports) else {})


def _split_query(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        name = _decode(name, "parameters")
        if not equals:
            raise StartupError(
                "the password is followed by a parameter without a value; write & in the password as %26"
                if "password" in parameters
                else f"its parameter {name} has no value"
            )
        parameters[name] = _decode(value, f"parameter {name}")
    return parameters


def _split_pairs(text: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _PAIR.match(text, position)
        value = match and (match[2] if match[2] is not None else match[3])
        if match is None or value is None or (match[2] is None and value.startswith("'")):
            raise StartupError("it is not a list of key=value; write a value with blanks in single quotes")
        parameters[match[1]] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        position = match.end()
    return parameters


def _decode(text: str, where: str) -> str:
    """Decode percent-encoding, as strictly as libpq does."""
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise StartupError(f"% is not followed by two hexadecimal digits; write % in the {where} as %25")
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise StartupError(f"the percent-encoding in the {where} is not UTF-8") from None
    if "\0" in decoded:
        raise StartupError(f"the {where} may not contain %00")
    return decoded
