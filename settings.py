"""The settings: name, default, range, environment variable and help text of each.

The command line takes precedence over the environment variable, which takes precedence over the default
(``command_line.py``).
"""

import dataclasses
import ipaddress
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from errors import StartupError

VERSION = "1.0.0"
"""The version of chatterd; ``static/openapi.json`` contains it, too."""

MAX_COUNT = 2_147_483_647
"""Largest count: several are integers of PostgreSQL."""

DEFAULT_OLLAMA_HOST = "127.0.0.1:11434"
"""Where Ollama listens by default, in the notation of ``OLLAMA_HOST``."""

MAX_BYTES = 1_099_511_627_776
"""Largest size: 1 TiB."""

MAX_SECONDS = 3_155_760_000.0
"""Longest time: 100 years, as for timers of the event loop (uvloop, ``loop.pyx``, ``MAX_SLEEP``)."""

MIN_SECONDS = 0.001
"""Shortest time, except where 0 has a meaning."""


def _setting(default: str | bool, help: str, env: str | None = None, required: bool = False) -> Any:
    """Define a text, which must not be empty if it is required, or a boolean."""
    return dataclasses.field(default=default, metadata={"help": help, "env": env, "required": required})


def _number(default: float, help: str, env: str | None, minimum: float, maximum: float) -> Any:
    metadata = {"help": help, "env": env, "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata=metadata)


def _count(default: int, help: str, env: str | None = None, minimum: int = 1, maximum: int = MAX_COUNT) -> Any:
    return _number(default, help, env, minimum, maximum)


def _bytes(default: int, help: str, maximum: int = MAX_BYTES) -> Any:
    return _number(default, help, None, 1, maximum)


def _seconds(default: float, help: str, minimum: float = MIN_SECONDS) -> Any:
    return _number(default, help, None, minimum, MAX_SECONDS)


@dataclass(frozen=True)
class Settings:
    """The values of all settings. Sizes are in bytes, times in seconds."""

    port: int = _count(8000, "TCP port to listen on; 0: any free port", env="PORT", minimum=0, maximum=65_535)
    address: str = _setting("127.0.0.1", "address to listen on", required=True)
    base_path: str = _setting("", "path below which a proxy serves this server, such as /chat; empty: /")
    certfile: str = _setting("", "PEM file with the certificate and its chain; enables https")
    keyfile: str = _setting("", "PEM file with the private key; empty: the key is in --certfile")
    data_dir: str = _setting(
        "data", "directory of the embedded PostgreSQL and of the generated cookie secret", required=True
    )
    database_url: str = _setting(
        "",
        "URL of PostgreSQL, postgresql://user:password@host/database; empty: the embedded one is started",
        env="DATABASE_URL",
    )
    session_database_url: str = _setting(
        "",
        "URL of the same database without a pooler, if --database-url leads to PgBouncer in transaction mode",
        env="SESSION_DATABASE_URL",
    )
    ollama_host: str = _setting(
        "",
        f"address of Ollama, in Ollama's own notation; empty: {DEFAULT_OLLAMA_HOST}, and the embedded model until an "
        "Ollama answers there",
        env="OLLAMA_HOST",
    )
    summarize: bool = _setting(False, "summarise what a cut leaves out of a conversation, with the same model")
    num_ctx: int = _count(
        0, "tokens of the models' windows, for requests that do not set num_ctx; 0: as Ollama chooses", minimum=0
    )
    embedded_model: bool = _setting(True, "let the embedded model stand in for an Ollama if --ollama-host is empty")

    auth: str = _setting("none", "authentication of requests: none, token or jwt")
    allow_unauthenticated: bool = _setting(False, "allow --auth=none on an address that is not loopback")
    token_file: str = _setting("", "file with the hashes of bearer tokens, for --auth=token")
    jwt_issuer: str = _setting("", "required issuer of tokens (claim iss), for --auth=jwt")
    jwt_audience: str = _setting("", "required audience of tokens (claim aud), for --auth=jwt")
    jwt_keys: str = _setting("", "file or https URL with the issuer's public keys (JWKS), for --auth=jwt")
    jwt_tenant_claim: str = _setting("sub", "claim that names the tenant, for --auth=jwt")
    jwt_operator_claim: str = _setting(
        "", "claim of operators, for --auth=jwt: NAME (must be true) or NAME=VALUE (must be or contain VALUE)"
    )
    cookie_secret: str = _setting(
        "", "key that signs session cookies; empty: generated in --data-dir", env="CHATTERD_COOKIE_SECRET"
    )
    session_lifetime: float = _seconds(604_800.0, "seconds after which a browser must sign in again", minimum=1.0)
    cors_origins: str = _setting("", "comma-separated origins whose pages may use the API")

    context_messages: int = _count(5_000, "maximum messages of a conversation read for the model, newest first")
    context_bytes: int = _bytes(
        2_000_000, "maximum bytes of a conversation's text read for the model, newest first", maximum=MAX_COUNT
    )
    context_image_bytes: int = _count(
        10_000_000,
        "bytes of a conversation's images (base64), newest first, after which older ones are not sent",
        minimum=0,
    )
    collapse_whitespace: bool = _setting(False, "replace each run of white space in a stored reply by one space")

    trusted_proxies: str = _setting("", "addresses and networks of proxies trusted for X-Forwarded-For and -Proto")
    requests_per_minute: int = _count(0, "maximum requests per minute of one tenant; 0: no limit", minimum=0)
    max_replies_per_tenant: int = _count(0, "maximum concurrent replies of one tenant; 0: no limit", minimum=0)
    max_prompt_characters: int = _count(0, "maximum characters of text in one prompt; 0: no limit", minimum=0)
    address_requests_per_minute: int = _count(0, "maximum requests per minute from one address; 0: no limit", minimum=0)
    max_replies_per_address: int = _count(0, "maximum concurrent replies for one address; 0: no limit", minimum=0)

    max_replies: int = _count(2_000, "maximum concurrent replies; further prompts are rejected with 503", minimum=0)
    max_waiting_prompts: int = _count(
        1_000,
        "maximum prompts that wait for the end of their conversation's reply; further ones are rejected with 503",
        minimum=0,
    )
    max_viewers: int = _count(10_000, "maximum concurrent viewers; further ones are rejected with 503")
    max_reply_bytes: int = _bytes(67_108_864, "maximum bytes of one reply's lines; a longer reply is truncated")
    max_messages: int = _count(1_000, "maximum messages in one prompt")
    max_json_depth: int = _count(100, "maximum nesting depth of a prompt's JSON")
    max_body_bytes: int = _bytes(33_554_432, "maximum bytes of a prompt's request body")
    max_total_body_bytes: int = _bytes(
        536_870_912,
        "maximum bytes of all request bodies in memory, half of them for one sender; others are rejected with 503",
    )
    max_header_bytes: int = _bytes(32_768, "maximum bytes of a request line and its headers")
    max_url_bytes: int = _bytes(8_192, "maximum bytes of a request URL")
    max_line_bytes: int = _bytes(33_554_432, "maximum bytes of one line from Ollama; a longer line ends the reply")
    connect_timeout: float = _seconds(5.0, "seconds after which connecting to Ollama fails")
    first_line_timeout: float = _seconds(
        3_600.0, "seconds after which a reply ends if Ollama has sent no line, for instance because of its queue"
    )
    ollama_read_timeout: float = _seconds(600.0, "seconds without data after a line from Ollama until a reply ends")
    reply_timeout: float = _seconds(1_800.0, "seconds from its first line after which a reply ends")
    ollama_retry_timeout: float = _seconds(
        60.0,
        "seconds for which replies wait for an Ollama that died or restarts before they end; 0: not at all",
        minimum=0,
    )
    idle_connection_timeout: float = _seconds(
        120.0, "seconds without a complete request line and headers after which a connection is closed"
    )
    body_timeout: float = _seconds(10.0, "seconds without data of a request body after which the request is rejected")

    heartbeat_interval: float = _seconds(4.0, "seconds without an event after which a stream sends a comment")
    client_write_timeout: float = _seconds(
        60.0, "seconds without progress in writing to a client after which its connection is closed"
    )
    reply_log_retention: float = _seconds(
        3_600.0, "seconds for which the lines of a finished reply are kept", minimum=0
    )
    journal_interval: float = _seconds(
        0.004, "minimum seconds between the starts of two batches written to the reply log", minimum=0
    )
    drain_timeout: float = _seconds(10.0, "seconds for running replies to finish after SIGTERM", minimum=0)

    log_format: str = _setting("text", "format of the log: text, or json (one object per line)")

    pool_size: int = _count(10, "maximum connections in the pool", maximum=10_000)
    acquire_timeout: float = _seconds(5.0, "seconds after which waiting for a connection to PostgreSQL fails")
    db_retry_timeout: float = _seconds(
        60.0, "seconds for which replies wait for an unavailable PostgreSQL before they end", minimum=0
    )


OLLAMA_PORTS = {"http": 80, "https": 443}
"""The schemes of an Ollama's URL, and the port of each if the URL names none."""

_USER_INFO = re.compile(r"(?<=//)[^/]*@")
_HOST_NAME = re.compile(r"[^\s\[\]:@/?#\\%]+")


def ollama_url(host: str) -> str:
    """Convert ``OLLAMA_HOST`` to a base URL without a trailing slash.

    The rules are those of Ollama's own tools (ollama ``envconfig/config.go``, ``Host``): scheme, port and path are
    optional; the default port is 80 or 443 with a scheme, 11434 without; surrounding quotes and white space are
    removed. Wildcard addresses, on which a server listens, become loopback addresses, to which a client connects.

    Beyond these, a user and a password may precede the host (``https://user:password@host``; RFC 3986, section 3.2.1).
    What can never work is rejected, where Ollama's tools would take the default port or fail at each request.

    :raises StartupError: there is no such scheme, host name or port. The message does not quote a password.

    >>> ollama_url("gpu:1234")
    'http://gpu:1234'
    """
    text = host.strip().strip("\"'").strip() or DEFAULT_OLLAMA_HOST
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower() if separator else "http"
    rest = rest if separator else text
    if scheme not in OLLAMA_PORTS:
        raise StartupError("OLLAMA_HOST must begin with http:// or https://, or with the name of a host.")
    default_port = OLLAMA_PORTS[scheme] if separator else 11434
    authority, slash, path = rest.partition("/")
    user_info, at, address = authority.rpartition("@")
    if re.search(r"[?#\s\\]", rest):
        raise StartupError(
            "OLLAMA_HOST contains a character that no address has: white space, ? or #. In a user or a password, write "
            "special characters as %20, %3F, %23."
        )
    name, port = _split_port(address)
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) <= 65535):
        raise StartupError(
            "The port in OLLAMA_HOST must be a number from 1 to 65535. If the address has a user and a password, write "
            "special characters in them as %2F (/), %3A (:), %40 (@)."
        )
    name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(name, name)  # noqa: S104 - looked up, never bound
    _check_host_name(name)
    return f"{scheme}://{_quote_user_info(user_info)}{at}{name}:{port or default_port}{slash}{path}".rstrip("/")


def without_user_info(url: str) -> str:
    """Return a URL without its user and password, for logs.

    >>> without_user_info("https://user:password@gpu:443/a")
    'https://gpu:443/a'
    """
    return _USER_INFO.sub("", url)


def _split_port(address: str) -> tuple[str, str]:
    """Split ``host:port``. An IPv6 address is in brackets; without a port it may be bare."""
    if match := re.fullmatch(r"(\[[^\]]*\])(?::(.*))?", address):
        return match[1], match[2] or ""
    if address.count(":") > 1:
        return f"[{address}]", ""
    name, _, port = address.partition(":")
    return name, port


def _check_host_name(name: str) -> None:
    """Raise StartupError unless a name is an IPv6 address in brackets, or can be looked up."""
    try:
        if name.startswith("["):
            ipaddress.IPv6Address(name[1:-1])
            return
        name.encode("idna")
    except ValueError:
        pass
    else:
        if _HOST_NAME.fullmatch(name):
            return
    raise StartupError("OLLAMA_HOST does not name a host. Write it as host:port, or as http://host:port.")


def _quote_user_info(user_info: str) -> str:
    """Percent-encode ``user:password``, which may be encoded in part."""
    user, colon, password = user_info.partition(":")
    return quote(unquote(user), safe="") + colon + quote(unquote(password), safe="")
