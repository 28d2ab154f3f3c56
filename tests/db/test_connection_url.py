"""Connection URLs and key=value strings, and what asyncpg is told of them."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from db.connection.parameters import ConnectionOptions, parse_url
from db.connection.url import split_url
from errors import StartupError

SECRET = "geheim"


def parse(text: str, environment: Mapping[str, str] | None = None) -> ConnectionOptions:
    return parse_url(text, "--database-url", environment or {})


def expect(
    hosts: list[tuple[str | None, int | None]], *, settings: Mapping[str, str] | None = None, **arguments: Any
) -> tuple[object, object, object]:
    return tuple(hosts), arguments, settings or {}


PLAIN = expect([("h", None)], user="u", password="p", database="d")

ACCEPTED = {
    # The spellings of a URL.
    "postgresql://u:p@h/d": PLAIN,
    "postgres://u:p@h/d": PLAIN,
    "POSTGRESQL://u:p@h/d": PLAIN,
    "postgresql+asyncpg://u:p@h/d": PLAIN,
    "postgresql+psycopg://u:p@h/d": PLAIN,
    "postgresql+psycopg2://u:p@h/d": PLAIN,
    "  'postgresql://u:p@h/d'  ": PLAIN,
    '"postgresql://u:p@h/d"': PLAIN,
    "postgresql://u:p@h/d\n": PLAIN,
    "postgresql://": expect([(None, None)]),
    "postgresql:///d": expect([(None, None)], database="d"),
    "postgresql://h": expect([("h", None)]),
    "postgresql://u@h:5433/": expect([("h", 5433)], user="u"),
    "postgresql://u:p@h:/d": PLAIN,
    "postgresql://[::1]/d": expect([("::1", None)], database="d"),
    "postgresql://u@[fe80::1%25eth0]:5433/d": expect([("fe80::1%eth0", 5433)], user="u", database="d"),
    "postgresql://%2Frun%2Fpg/d": expect([("/run/pg", None)], database="d"),
    "postgresql:///d?host=/run/pg&port=5433": expect([("/run/pg", 5433)], database="d"),
    "postgresql://h/d?user=u&password=p": PLAIN,
    "postgresql://x:y@h/d?user=u&password=p": PLAIN,
    "postgresql://u:p%40%2F%23%25@h/d": expect([("h", None)], user="u", password="p@/#%", database="d"),
    "postgresql://u:p?=&:x@h/d": expect([("h", None)], user="u", password="p?=&:x", database="d"),
    "postgresql://u:a+b@h/d": expect([("h", None)], user="u", password="a+b", database="d"),
    # Several hosts: chatterd needs the one that can be written to.
    "postgresql://a,b:5433/d": expect([("a", None), ("b", 5433)], database="d", target_session_attrs="read-write"),
    "postgresql://a,b/d?target_session_attrs=primary": expect(
        [("a", None), ("b", None)], database="d", target_session_attrs="primary"
    ),
    "host=a,b port=1,2": expect([("a", 1), ("b", 2)], target_session_attrs="read-write"),
    "host=a,b port=1": expect([("a", 1), ("b", 1)], target_session_attrs="read-write"),
    # The key=value form.
    "host=h user=u password=p dbname=d": PLAIN,
    "host = h  user= u password='p' dbname=d": PLAIN,
    r"host=h user=u password='p\'\\ #@' dbname=d": expect([("h", None)], user="u", password=r"p'\ #@", database="d"),
    r"host=h user=u password=a\ b dbname='my db'": expect([("h", None)], user="u", password="a b", database="my db"),
    "host=h hostaddr=10.0.0.1,::1 port=1 target_session_attrs=primary": expect(
        [("10.0.0.1", 1), ("::1", 1)], target_session_attrs="primary"
    ),
    "host=/run/postgresql": expect([("/run/postgresql", None)]),
    # As providers hand them out: Neon, Supabase (Prisma), Heroku, Render, Railway, Vercel.
    "postgresql://u:p@ep-x.eu.aws.neon.tech/d?sslmode=require&channel_binding=require": expect(
        [("ep-x.eu.aws.neon.tech", None)], user="u", password="p", database="d", ssl="require"
    ),
    "postgresql://u:p@h/d?sslmode=require&options=endpoint%3Dep-x": expect(
        [("h", None)], user="u", password="p", database="d", ssl="require", settings={"options": "endpoint=ep-x"}
    ),
    "postgres://u:p@h:6543/d?pgbouncer=false&sslmode=require&supa=base-pooler.x": expect(
        [("h", 6543)], user="u", password="p", database="d", ssl="require"
    ),
    "postgres://u:p@h/d?sslmode=require&uselibpqcompat=true": expect(
        [("h", None)], user="u", password="p", database="d", ssl="require"
    ),
    # Parameters.
    "postgresql://h/d?ssl=true": expect([("h", None)], database="d", ssl="require"),
    "postgresql://h/d?ssl=false": expect([("h", None)], database="d", ssl="disable"),
    "postgresql+asyncpg://h/d?ssl=prefer": expect([("h", None)], database="d", ssl="prefer"),
    "postgresql://h/d?sslmode=disable": expect([("h", None)], database="d", ssl="disable"),
    "postgresql://h/d?sslmode=allow": expect([("h", None)], database="d", ssl="allow"),
    "postgresql://h/d?channel_binding=require": expect([("h", None)], database="d", ssl="require"),
    "postgresql://h/d?channel_binding=prefer": expect([("h", None)], database="d"),
    "postgresql://h/d?application_name=a%20b": expect(
        [("h", None)], database="d", settings={"application_name": "a b"}
    ),
    "postgresql://h/d?fallback_application_name=a": expect(
        [("h", None)], database="d", settings={"application_name": "a"}
    ),
    "postgresql://h/d?options=-c%20search_path%3Dx": expect(
        [("h", None)], database="d", settings={"options": "-c search_path=x"}
    ),
    "postgresql://h/d?options=-csearch_path=x": expect(
        [("h", None)], database="d", settings={"options": "-csearch_path=x"}
    ),
    "postgresql://h/d?schema=My": expect([("h", None)], database="d", settings={"search_path": '"My"'}),
    "postgresql://h/d?currentSchema=a,b": expect([("h", None)], database="d", settings={"search_path": "a,b"}),
    "postgresql://h/d?client_encoding=UTF8&keepalives_idle=5&gssencmode=prefer": expect([("h", None)], database="d"),
    "postgresql://h/d?target_session_attrs=read-write": expect(
        [("h", None)], database="d", target_session_attrs="read-write"
    ),
    "postgresql://h/d?passfile=/x&service=s": expect([("h", None)], database="d", passfile="/x", service="s"),
    "postgresql://h/d?sslmode=require&sslnegotiation=direct&ssl_min_protocol_version=TLSv1.3": expect(
        [("h", None)],
        database="d",
        ssl="require",
        dsn="postgresql://?sslnegotiation=direct&ssl_min_protocol_version=TLSv1.3",
    ),
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_accepted(text: str) -> None:
    options = parse(text, {"PGUSER": "me"})
    assert (options.hosts, options.arguments, options.server_settings) == ACCEPTED[text]


REJECTED = {
    "": "it is not a connection URL; write postgresql://user:password@host/database",
    "chatterd": "it is not a connection URL",
    "localhost:5432/db": "it is not a connection URL",
    "mysql://u:geheim@h/d": "mysql:// is not PostgreSQL's scheme",
    "https://h/d": "https:// is not PostgreSQL's scheme",
    "jdbc:postgresql://h/d?user=u": "it is not a connection URL",
    "postgresql:/u:geheim@h/d?a=b": "it is not a connection URL",
    "postgresql://u:geheim#x@h/d": "it contains #; write # as %23",
    "postgresql://u:geheim@x@h/d": "it contains more than one @; write @ in the user name and password as %40",
    "postgresql://u:geheim/x@h/d": "it contains @ behind a slash; write / in the password as %2F",
    "postgresql://u:100%geheim@h/d": "write % in the user name and password as %25",
    "postgresql://u:geheim%@h/d": "write % in the user name and password as %25",
    "postgresql://u:geheim%00@h/d": "the user name and password may not contain %00",
    "postgresql://u:geheim%ff@h/d": "the percent-encoding in the user name and password is not UTF-8",
    "postgresql://h:99999/d": "its port is not a number from 1 to 65535",
    "postgresql://h:0/d": "its port is not a number from 1 to 65535",
    "postgresql://h:geheim/d": "its port is not a number from 1 to 65535",
    "postgresql://h:-1/d": "its port is not a number from 1 to 65535",
    "postgresql://::1:5432/d": "write an IPv6 address as [address]:port",
    "postgresql://[::1/d": "its IPv6 address is incomplete",
    "host=a,b port=1,2,3": "it has 2 hosts but 3 ports",
    "postgresql://h/d?frobnicate=1": "it has the unknown parameter frobnicate; remove it",
    "postgresql://h/d?work_mem=1MB": "unknown parameter work_mem; remove it, or, if it is a setting of PostgreSQL",
    "postgresql://h/d?connection_limit=5": "unknown parameter connection_limit; set --pool-size",
    "postgresql://h/d?sslmode": "its parameter sslmode has no value",
    "postgresql://h/d?password=a&geheim": "write & in the password as %26",
    "postgresql://h/d?password=a&geheim=b": "write & in the password as %26",
    "postgresql://u:geheim@h/d?nonsense=b": "unknown parameter nonsense",
    "host=h password=a geheim": "write a value with blanks in single quotes",
    "host=h password='geheim": "write a value with blanks in single quotes",
    "host=h nonsense=1": "unknown parameter nonsense",
    "postgresql://h/d?connect_timeout=soon": "connect_timeout is not a whole number of seconds",
    "postgresql://h/d?sslmode=no": "sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full",
    "postgresql://h/d?sslmode=disable&channel_binding=require": "channel_binding=require needs TLS",
    "postgresql://h/d?channel_binding=yes": "channel_binding=disable or prefer or require only",
    "postgresql://h/d?client_encoding=LATIN1": "client_encoding=utf8",
    "postgresql://h/d?target_session_attrs=standby": "target_session_attrs=any or read-write or primary only",
    "postgresql://h/d?gssencmode=require": "gssencmode=disable or prefer only",
    "postgresql://h/d?replication=database": "replication=",
    "postgresql://h/d?require_auth=md5": "unknown parameter require_auth; chatterd cannot enforce it",
    "postgresql://h/d?sslmode=verify-full": "sslmode=verify-full needs a root certificate; add sslrootcert=",
    "postgresql://h/d?sslmode=verify-ca": "sslmode=verify-ca needs a root certificate",
    "postgresql://h/d?sslmode=require&sslrootcert=system": "sslrootcert=system needs sslmode=verify-full",
    "postgresql://h/d?sslmode=require&sslrootcert=/no/ca": "the file of sslrootcert, /no/ca, cannot be read",
}


@pytest.mark.parametrize("text", REJECTED)
def test_rejected(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StartupError) as raised:
        parse(text, {"PGUSER": "me"})
    assert str(raised.value).startswith("--database-url cannot be used: ")
    assert REJECTED[text] in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__, "the context could quote the URL"


def test_connect_timeout_is_in_seconds_and_zero_means_none() -> None:
    assert parse("postgresql://h/d?connect_timeout=10").connect_timeout == 10.0
    assert parse("postgresql://h/d?connect_timeout=0").connect_timeout is None


def test_parameters_without_effect_are_named() -> None:
    assert parse("postgresql://h/d?keepalives=1&sslsni=1").ignored == ("keepalives", "sslsni")
    assert parse("postgresql://h/d?channel_binding=require").ignored == ("channel_binding=require",)


def test_a_pooler_is_recognised_by_prisma_s_parameter() -> None:
    assert parse("postgresql://h/d?pgbouncer=true").is_pooler
    assert not parse("postgresql://h/d?pgbouncer=false").is_pooler


def test_no_verify_encrypts_without_checking_a_certificate() -> None:
    context = parse("postgresql://h/d?sslmode=no-verify").arguments["ssl"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_the_system_s_authorities_check_certificate_and_name() -> None:
    for text in ("postgresql://h/d?sslrootcert=system", "postgresql://h/d?sslrootcert=system&sslmode=verify-full"):
        context = parse(text).arguments["ssl"]
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_the_environment_applies_where_the_url_is_silent(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(authority)
    environment = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(authority)}
    assert parse("postgresql://h/d", environment).arguments["ssl"] == "verify-full"
    assert parse("postgresql://h/d?sslmode=disable", environment).arguments["ssl"] == "disable"
    with pytest.raises(StartupError, match="PGSSLMODE must be one of"):
        parse("postgresql://h/d", {"PGSSLMODE": "maybe"})


def test_certificates_are_read_at_once(tmp_path: Path) -> None:
    authority, other = tmp_path / "a ca.pem", tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(authority)
    other.write_text("no certificate")
    url = "postgresql://h/d?sslmode=verify-ca&sslrootcert="
    assert parse(url + quote(str(authority))).arguments["ssl"] == "verify-ca"
    with pytest.raises(StartupError, match="not a certificate in PEM format"):
        parse(url + quote(str(other)))


def test_a_client_certificate_needs_its_own_key(tmp_path: Path) -> None:
    authority = trustme.CA()
    mine, other = authority.issue_cert("a"), authority.issue_cert("b")
    certificate, key, wrong = tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "w.pem"
    mine.cert_chain_pems[0].write_to_path(certificate)
    mine.private_key_pem.write_to_path(key)
    other.private_key_pem.write_to_path(wrong)
    url = f"postgresql://h/d?sslmode=require&sslcert={certificate}&sslkey="
    assert "sslkey" in parse(url + str(key)).arguments["dsn"]
    with pytest.raises(StartupError, match="sslkey is not its key"):
        parse(url + str(wrong))


def test_a_process_whose_user_has_no_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unnamed() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("db.connection.parameters.getuser", unnamed)
    with pytest.raises(StartupError, match="it names no user"):
        parse("postgresql://h/d")
    assert parse("postgresql://u@h/d").user == "u"


def test_no_text_form_of_the_options_has_the_password() -> None:
    options = parse(f"postgresql://u:{SECRET}@h/d?sslpassword={SECRET}")
    assert SECRET not in repr(options) + str(options)


# Text of a value: anything but NUL, which PostgreSQL cannot receive, and lone surrogates, which are no UTF-8.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(TEXT, TEXT, TEXT)
def test_encoded_values_arrive_unchanged(user: str, password: str, database: str) -> None:
    url = f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@h/{quote(database, safe='')}"
    assert split_url(url) == {"host": "h", "dbname": database, "user": user, "password": password}


@given(TEXT, TEXT)
def test_quoted_values_arrive_unchanged(password: str, database: str) -> None:
    def quoted(value: str) -> str:
        return "'" + value.replace("\\", r"\\").replace("'", r"\'") + "'"

    text = f"host=h password={quoted(password)} dbname={quoted(database)} port=1"
    assert split_url(text) == {"host": "h", "password": password, "dbname": database, "port": "1"}


@given(st.text())
def test_any_text_is_parsed_or_rejected_with_a_sentence(text: str) -> None:
    for url in (text, f"postgresql://{text}", f"postgresql://u:p@h/d?{text}", f"host=h {text}"):
        try:
            parse(url)
        except StartupError as error:
            assert str(error).startswith("--database-url cannot be used: ")
