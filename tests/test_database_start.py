"""The start with databases of every kind: what works as it is pasted, and what ends the start with a sentence."""

import asyncio
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from db.connection.parameters import parse_url
from db.connection.startup import ServerProperties, check_properties
from db.pool import Database
from errors import StartupError
from tests import pgbouncer
from tests.balancers import free_ports
from tests.client import Client
from tests.database import execute
from tests.fakes.ollama import Head, Lines, ScriptedOllama, last_line, line
from tests.fakes.proxy import CuttingProxy
from tests.fakes.sockets import bound_socket
from tests.program import Program, failed_start
from tests.secure_postgres import PASSWORD, SecurePostgres

pytestmark = pytest.mark.skipif(pgbouncer.EVERYTHING, reason="names its own servers, which no pooler is in front of")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecurePostgres]:
    with SecurePostgres(tmp_path_factory.mktemp("secure")) as server:
        yield server


def opened(url: str, query: str = "SELECT true", timeout: float = 5.0, size: int = 2) -> object:
    """Open a database as the program does, and return the value of a query on a connection of its pool."""

    async def run() -> object:
        database = Database(url, size, timeout)
        try:
            await database.open()
            assert database.availability.reason is None
            async with database.acquire() as connection:
                return await connection.fetchval(query)
        finally:
            await database.close()

    return asyncio.run(run())


def refused(server: SecurePostgres, role: str, query: str = "", **parts: str) -> str:
    """Return the sentence with which the start would end; several tests let the program say it."""
    with pytest.raises(StartupError) as raised:
        # Without TLS, whose end takes longer than this event loop lives.
        opened(server.url_of(role, f"sslmode=disable&{query}", **parts), timeout=2.0, size=10)
    assert PASSWORD not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("query", "encrypted"),
    [
        ("sslmode=require", True),
        ("sslmode=require&channel_binding=require", True),
        ("", True),
        ("sslmode=prefer", True),
        ("sslmode=allow", False),
        ("sslmode=disable", False),
        ("ssl=true", True),
        ("ssl=false", False),
        ("sslmode=no-verify", True),
        ("sslmode=verify-ca&sslrootcert={authority}", True),
        ("sslmode=verify-full&sslrootcert={authority}", True),
        ("sslmode=require&ssl_min_protocol_version=TLSv1.3", True),
    ],
)
def test_tls_is_used_as_sslmode_says(server: SecurePostgres, query: str, encrypted: bool) -> None:
    with_tls, without = server.tls.encrypted, server.tls.plain
    assert opened(server.url_of("plain", query.format(authority=server.authority)))
    assert (server.tls.encrypted > with_tls, server.tls.plain > without) == (encrypted, not encrypted)


def test_other_parameters_have_their_effect(server: SecurePostgres) -> None:
    url = server.url_of("plain", "application_name=my%20chat&connect_timeout=3&options=-c%20search_path%3Dpublic")
    assert opened(url, "SELECT current_setting('application_name')") == "my chat"
    assert opened(url, "SELECT current_setting('search_path')") == "public"
    execute(server.url_of("plain"), 'CREATE SCHEMA "Mine"')
    url = server.url_of("plain", "schema=Mine")
    assert opened(url, "SELECT count(*) FROM \"Mine\".chatts WHERE current_schema() = 'Mine'") == 0


def test_key_value_pairs_and_sockets_work(server: SecurePostgres) -> None:
    assert opened(f"host=127.0.0.1 port={server.port} user=plain dbname=plain password='{PASSWORD}'")
    assert opened(f"'{server.url}'")
    folder = server.socket_folder
    assert opened(f"postgresql+psycopg://postgres@{folder.replace('/', '%2F')}/postgres")
    assert opened(f"postgresql://postgres@/postgres?host={folder}&sslmode=require")


def test_the_password_comes_from_a_file_or_the_environment(
    server: SecurePostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(server.url, "CREATE ROLE filed LOGIN PASSWORD 'in a file'; CREATE SCHEMA filed AUTHORIZATION filed")
    url = f"postgresql://filed@127.0.0.1:{server.port}/postgres?schema=filed"
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{server.port}:*:filed:in a file\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSWORD", "in a file")
    assert opened(url)
    monkeypatch.delenv("PGPASSWORD")
    assert opened(f"{url}&passfile={file}")
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert opened(url)


def test_of_several_hosts_each_is_tried_with_a_time_of_its_own(server: SecurePostgres) -> None:
    [closed] = free_ports(1)
    silent = bound_socket(0)
    silent.listen()  # it accepts, and never responds
    try:
        host = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{closed},127.0.0.1:{server.port}"
        assert opened(server.url_of("plain", host=host), timeout=1.0, size=4)
    finally:
        silent.close()


def test_the_program_serves_a_database_that_requires_tls(
    server: SecurePostgres, start_chatterd: Callable[..., Program]
) -> None:
    program = start_chatterd(database_url=server.url_of("plain", "sslmode=require&channel_binding=require"))
    with Client(program.url) as client:
        assert client.ask("hi")[-1].json["done"] is True
    assert "without effect here: channel_binding=require" in program.log
    assert PASSWORD not in program.log and "%23" not in program.log


def test_every_word_is_kept_in_a_database_without_encoding(
    server: SecurePostgres, start_chatterd: Callable[..., Program], ollama: ScriptedOllama
) -> None:
    """PostgreSQL counts bytes there instead of characters, in ``left`` and ``char_length`` alike."""
    execute(server.url, "CREATE DATABASE bytes OWNER plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    program = start_chatterd(database_url=server.url_of("plain", database="bytes"))
    prompt, answer = "Grüße 😀 \u2028 日本 " * 100, "Ünïcödé 😀"
    ollama.script(Head(), Lines(line(answer), last_line("日")))
    ollama.script(Head(), Lines(last_line("本 weiter")))
    with Client(program.url, "ä😀" * 20) as client:
        client.ask(prompt)
        assert client.messages() == [("user", prompt), ("assistant", answer + "日")]
        body = {"appID": client.appid, "model": "m", "messages": [], "stream": True}
        assert client.http.post("/llmchat", json=body).status_code == 200
        assert client.messages() == [("user", prompt), ("assistant", answer + "日本 weiter")]
        path = client.begin("again")
        assert client.view(path)[-1].json["done"] is True


# What ends the start.


def test_a_wrong_password(server: SecurePostgres) -> None:
    message = failed_start(database_url=f"postgresql://plain:geheim@127.0.0.1:{server.port}/plain")
    assert message == (
        'PostgreSQL rejects the password of the role "plain", or has no such role. Correct --database-url.'
    )
    message = failed_start(database_url=f"postgresql://plain@127.0.0.1:{server.port}/plain")
    assert 'password of the role "plain"' in message


@pytest.mark.extended
def test_an_unknown_role(server: SecurePostgres) -> None:
    assert 'rejects the password of the role "somebody", or has no such role' in refused(server, "somebody")
    parts = urlsplit(server.url)
    message = failed_start(database_url=urlunsplit(parts._replace(netloc="stranger@")))
    assert message == (
        'PostgreSQL rejects the login: role "stranger" does not exist. Correct --database-url, create the role'
        " (createuser), or allow the connection in pg_hba.conf."
    )


def test_an_unknown_database(server: SecurePostgres) -> None:
    assert refused(server, "plain", database="missing") == (
        'the database "missing" does not exist. Create it, createdb missing, or correct --database-url.'
    )


def test_a_login_that_pg_hba_rejects(server: SecurePostgres) -> None:
    assert "pg_hba.conf rejects connection for host" in refused(server, "refused")


def test_a_read_only_database(server: SecurePostgres) -> None:
    execute(
        server.url, "CREATE ROLE reader LOGIN PASSWORD 'x'; ALTER ROLE reader SET default_transaction_read_only = on"
    )
    message = failed_start(database_url=f"postgresql://reader:x@127.0.0.1:{server.port}/plain")
    assert message.startswith('the database "plain" is read-only for this role: default_transaction_read_only is on.')


@pytest.mark.extended
def test_a_standby(server: SecurePostgres) -> None:
    def check() -> None:
        assert refused(server, "plain").startswith("the server is a standby, which is read-only. Name the primary in")

    server.as_standby(check)


@pytest.mark.parametrize("encoding", ["LATIN1", pytest.param("WIN1252", marks=pytest.mark.extended)])
def test_an_encoding_that_cannot_store_every_text(server: SecurePostgres, encoding: str) -> None:
    execute(server.url, f"CREATE DATABASE {encoding} OWNER plain ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    message = refused(server, "plain", database=encoding.lower())
    assert f'"{encoding.lower()}" has the encoding {encoding}' in message and "createdb --encoding=UTF8" in message


def test_too_few_connections_for_a_prompt(server: SecurePostgres, start_chatterd: Callable[..., Program]) -> None:
    execute(server.url, "ALTER ROLE plain CONNECTION LIMIT 5")
    try:
        assert refused(server, "plain") == (
            'the role "plain" is limited to 5 connections, and chatterd needs 6. Raise the limit (ALTER ROLE ...'
            " CONNECTION LIMIT), or lower --pool-size."
        )
        program = start_chatterd(database_url=server.url_of("plain"), pool_size=3)
        with Client(program.url) as client:
            assert client.ask("hi")[-1].json["done"] is True
    finally:
        execute(server.url, "ALTER ROLE plain CONNECTION LIMIT -1")


def test_a_certificate_that_is_not_trusted(server: SecurePostgres) -> None:
    message = failed_start(
        database_url=server.url_of("plain", f"sslmode=verify-ca&sslrootcert={server.other_authority}")
    )
    assert message.startswith("the certificate of PostgreSQL is not trusted (") and "sslrootcert" in message
    host = f"localhost:{server.port}"
    url = server.url_of("plain", f"sslmode=verify-full&sslrootcert={server.authority}", host=host)
    message = failed_start(database_url=url)
    assert message.startswith("the certificate of PostgreSQL is not trusted (") and "localhost" in message


def test_a_server_without_tls(database_url: str) -> None:
    with CuttingProxy(database_url) as proxy:
        message = failed_start(database_url=proxy.url.replace("sslmode=disable", "sslmode=require"))
    assert message == "PostgreSQL at 127.0.0.1 offers no TLS. Enable it there, or change sslmode."


@pytest.mark.extended
@pytest.mark.parametrize("query", ["", "sslmode=disable", "sslmode=require"])
def test_a_server_that_is_not_postgresql(query: str) -> None:
    class Silent(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Log nothing."""

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent) as other:
        other.daemon_threads = True
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        port = other.server_address[1]
        message = failed_start(database_url=f"postgresql://u:p@127.0.0.1:{port}/d?{query}", acquire_timeout=1)
        other.shutdown()
        thread.join()
    assert message == f"what listens at 127.0.0.1:{port} is not PostgreSQL. Correct --database-url."


def test_settings_that_postgresql_rejects(server: SecurePostgres) -> None:
    message = refused(server, "plain", "options=-c%20no_such_setting%3D1")
    assert "no_such_setting" in message
    assert "--database-url cannot be used" in refused(server, "plain", "nonsense=1")
    assert "needs a root certificate" in refused(server, "plain", "sslmode=verify-full")


def test_settings_that_asyncpg_rejects(server: SecurePostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(server, "plain", "sslmode=prefer&sslnegotiation=direct") == (
        "--database-url cannot be used: direct TLS requires sslmode=require, verify-ca, or verify-full."
    )
    monkeypatch.setenv("PGPORT", "many")
    assert "PGPORT or another of libpq's environment variables has no valid value" in refused(
        server, "plain", host="127.0.0.1"
    )


def test_a_pooler_named_by_its_url(server: SecurePostgres) -> None:
    assert refused(server, "plain", "pgbouncer=true").startswith("--database-url leads to a pooler in transaction mode")


def test_an_error_that_appears_when_the_database_does_ends_the_program(
    server: SecurePostgres, database_url: str, start_chatterd: Callable[..., Program]
) -> None:
    with CuttingProxy(database_url, away=True) as proxy:
        url = urlunsplit(urlsplit(proxy.url)._replace(path="/missing"))
        program = Program(database_url=url, embedded_model=False, acquire_timeout=1)
        assert "chatterd listens and waits for the database (unreachable): open http://" in program.log
        assert "chatterd is ready" not in program.log
        proxy.restore()
        assert program.wait() == 1
    assert program.log.splitlines()[-1].startswith('chatterd cannot start: the database "missing" does not exist.')
    assert "Traceback" not in program.log


def check(**properties: object) -> None:
    good = {"version": 18, "encoding": "UTF8"}
    options = parse_url("postgresql://me@h/d", "--database-url")
    check_properties(ServerProperties(**{**good, **properties}), options, needed=6, wanted=12)  # type: ignore[arg-type]


@pytest.mark.expects_log('The role "me" is limited to 11 connections')
@pytest.mark.extended
def test_properties_of_servers_that_are_not_at_hand(caplog: pytest.LogCaptureFixture) -> None:
    check()
    check(version=13, encoding="SQL_ASCII", role_limit=12)
    with pytest.raises(StartupError, match="the server is PostgreSQL 12, and chatterd needs 13 or newer"):
        check(version=12)
    with pytest.raises(StartupError, match='the database "d" is limited to 5 connections'):
        check(database_limit=5)
    check(role_limit=11)
    assert "this process opens up to 12" in caplog.text
