"""Every setting once: its name, default, environment variable and help.

A value comes from the command line, else from the setting's environment variable, else from its default.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tornado.log import define_logging_options
from tornado.options import Error, OptionParser

VERSION = "1.0.0"
"""Of chatterd, as ``static/openapi.json`` says it too."""


def _setting(default: Any, help: str, env: str | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "env": env})


@dataclass(frozen=True)
class Settings:
    """What chatterd was started with. Sizes are in bytes, times in seconds."""

    port: int = _setting(8000, "TCP port to listen on; 0 takes any free one", env="PORT")
    address: str = _setting("127.0.0.1", "address to listen on")
    certfile: str = _setting("", "certificate with its chain, PEM; clients then speak https")
    keyfile: str = _setting("", "private key of the certificate, PEM; empty if --certfile has it too")
    data_dir: str = _setting("data", "folder of the embedded PostgreSQL; used only without --database-url")
    database_url: str = _setting(
        "", "PostgreSQL, as postgresql://user:password@host/database; empty starts the embedded one", env="DATABASE_URL"
    )
    session_database_url: str = _setting(
        "",
        "the same database, asked directly, where --database-url leads through a pooler (PgBouncer, transaction mode)",
        env="SESSION_DATABASE_URL",
    )
    ollama_host: str = _setting("127.0.0.1:11434", "where Ollama answers, in Ollama's own notation", env="OLLAMA_HOST")
    embedded_model: bool = _setting(True, "start a small model of our own if no Ollama answers at the start")

    auth: str = _setting("none", "how who is asking is known: none, token or jwt")
    allow_unauthenticated: bool = _setting(False, "listen on any address without --auth, too")
    token_file: str = _setting("", "file with the hashes of tokens, for --auth=token")
    jwt_issuer: str = _setting("", "who signs the tokens (claim iss), for --auth=jwt")
    jwt_audience: str = _setting("", "whom they are for (claim aud): this service")
    jwt_keys: str = _setting("", "the issuer's public keys (JWKS): a file, or an https URL")
    jwt_tenant_claim: str = _setting("sub", "the claim that says whose conversations a token opens")
    jwt_operator_claim: str = _setting("", "operators' claim: NAME if it is true, NAME=VALUE if it is or holds VALUE")
    cookie_secret: str = _setting(
        "", "signs the cookies of browsers; empty: made in --data-dir", env="CHATTERD_COOKIE_SECRET"
    )
    session_lifetime: float = _setting(604_800.0, "seconds that a browser stays signed in")
    cors_origins: str = _setting("", "origins of other sites whose pages may use the API, with commas between")

    context_messages: int = _setting(500, "messages of a conversation given to the model, newest first")
    context_bytes: int = _setting(1_000_000, "bytes of a conversation given to the model, newest first")
    collapse_whitespace: bool = _setting(False, "store a reply with each run of white space as one space")

    trusted_proxies: str = _setting("", "addresses and networks whose X-Forwarded-For and X-Forwarded-Proto count")
    requests_per_minute: int = _setting(0, "requests of one tenant in a minute; 0 is no limit")
    max_replies_per_tenant: int = _setting(0, "replies generated at once for one tenant; 0 is no limit")
    max_prompt_characters: int = _setting(0, "characters of text in one prompt, images aside; 0 is no limit")
    address_requests_per_minute: int = _setting(0, "requests from one address in a minute; 0 is no limit")
    max_replies_per_address: int = _setting(0, "replies generated at once for one address; 0 is no limit")

    max_replies: int = _setting(2_000, "replies generated at once; one more is refused with 503")
    max_viewers: int = _setting(10_000, "viewers of replies at once; one more is refused with 503")
    max_reply_bytes: int = _setting(67_108_864, "size of a reply's lines; the reply ends there")
    max_messages: int = _setting(1_000, "messages in one prompt")
    max_json_depth: int = _setting(100, "levels to which a prompt's JSON may be nested")
    max_body_bytes: int = _setting(33_554_432, "size of a request's body")
    max_total_body_bytes: int = _setting(536_870_912, "size of all bodies read at once; beyond, 503")
    max_header_bytes: int = _setting(32_768, "size of a request's line and headers together")
    max_url_bytes: int = _setting(8_192, "size of a request's URL")
    max_line_bytes: int = _setting(33_554_432, "size of one line from Ollama; a longer one ends the reply")
    connect_timeout: float = _setting(5.0, "seconds to connect to Ollama")
    reply_timeout: float = _setting(1_800.0, "seconds a reply may take in all")
    ollama_read_timeout: float = _setting(600.0, "seconds without a byte from Ollama that end a reply")
    idle_connection_timeout: float = _setting(
        120.0, "seconds without a complete request head after which a connection is closed"
    )
    body_timeout: float = _setting(10.0, "seconds a client may send nothing of its request's body")

    heartbeat_interval: float = _setting(15.0, "seconds of silence after which a stream shows a comment")
    client_write_timeout: float = _setting(60.0, "seconds a client may take nothing of a stream before it is dropped")
    reply_log_retention: float = _setting(3_600.0, "seconds for which the lines of a finished reply can be read again")
    journal_interval: float = _setting(0.004, "seconds between two batches of lines written to the reply log")
    drain_timeout: float = _setting(10.0, "seconds that running replies get after SIGTERM")

    log_format: str = _setting("text", "how the log is written: text, or json for one object a line")

    pool_size: int = _setting(10, "connections to PostgreSQL")
    acquire_timeout: float = _setting(5.0, "seconds to wait for a connection to PostgreSQL")
    db_retry_timeout: float = _setting(60.0, "seconds to keep trying to store a reply while PostgreSQL is away")


def read(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings and set up logging (tornado.options parses, and answers ``--help``).

    :param arguments: the command line without the program's name.
    :raises tornado.options.Error: an unknown option, or a value of the wrong kind.
    """
    parser = OptionParser()
    for field in dataclasses.fields(Settings):
        env = field.metadata["env"]
        parser.define(
            field.name.replace("_", "-"),
            default=field.default,
            type=type(field.default),
            help=field.metadata["help"] + (f" (environment: {env})" if env else ""),
            group="chatterd",
        )
        if env and environment.get(env):
            _parse(parser, [f"--{field.name}={environment[env]}"], final=False)
    define_logging_options(parser)
    _parse(parser, arguments, final=True)
    return Settings(**{field.name: parser[field.name] for field in dataclasses.fields(Settings)})


def _parse(parser: OptionParser, arguments: Sequence[str], final: bool) -> None:
    try:
        if rest := parser.parse_command_line(["", *arguments], final=final):
            raise Error(f"Not a setting: {rest[0]!r}")
    except ValueError as error:  # tornado lets int() and float() speak for themselves
        raise Error(f"A setting has a value of the wrong kind: {error}") from error


def ollama_url(host: str) -> str:
    """Turn ``OLLAMA_HOST`` into a base URL without a trailing slash.

    As Ollama's own tools read it (ollama ``envconfig/config.go``, ``Host``): scheme, port and path may be missing;
    the port is 80 or 443 if a scheme is given, else 11434; quotes and white space around it do not count. The
    wildcard addresses, which a server listens on, become loopback, which a client can connect to.

    >>> ollama_url("gpu:1234")
    'http://gpu:1234'
    """
    scheme, separator, rest = host.strip().strip("\"'").partition("://")
    scheme = scheme.lower() if separator else scheme
    if not separator:
        scheme, rest = "http", scheme
        default_port = 11434
    else:
        default_port = 443 if scheme == "https" else 80
    authority, slash, path = rest.partition("/")
    name, port = _split_port(authority)
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        port = str(default_port)
    name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(name, name)  # noqa: S104 - a name to look up, nothing binds to it
    return f"{scheme}://{name}:{port}{slash}{path}".rstrip("/")


def _split_port(authority: str) -> tuple[str, str]:
    """Split ``host:port``, where host may be an IPv6 address, in brackets or, without a port, bare."""
    if match := re.fullmatch(r"(\[[^\]]*\])(?::(.*))?", authority):
        return match[1], match[2] or ""
    if authority.count(":") > 1:
        return f"[{authority}]", ""
    name, _, port = authority.partition(":")
    return name, port
