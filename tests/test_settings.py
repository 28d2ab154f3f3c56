"""Settings: precedence of their sources, rejected values, and the notation of OLLAMA_HOST."""

import dataclasses
import logging
import re
import string
from collections.abc import Iterator
from typing import Any

import pytest
import tornado.options
from hypothesis import example, given
from hypothesis import strategies as st
from ollama._client import _parse_host

from command_line import load_settings
from errors import StartupError
from settings import Settings, ollama_url

FIELDS = dataclasses.fields(Settings)
ENVIRONMENT = {
    "port": "PORT",
    "database_url": "DATABASE_URL",
    "session_database_url": "SESSION_DATABASE_URL",
    "ollama_host": "OLLAMA_HOST",
    "cookie_secret": "CHATTERD_COOKIE_SECRET",
}


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Restore the root logger, which loading the settings configures."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def another(field: "dataclasses.Field[Any]") -> tuple[str, Any]:
    """Return a value other than the field's default, as text and parsed."""
    if isinstance(field.default, bool):
        return str(not field.default).lower(), not field.default
    if field.name == "base_path":
        return "/a/b", "/a/b"
    return {int: ("7", 7), float: ("2.5", 2.5), str: ("a b=c", "a b=c")}[type(field.default)]


def test_without_arguments_and_environment_all_settings_have_their_defaults() -> None:
    assert load_settings([], {}) == Settings()


@pytest.mark.parametrize("separator", ["_", "-"])
def test_every_setting_can_be_set_on_the_command_line(separator: str) -> None:
    for field in FIELDS:
        text, value = another(field)
        loaded = load_settings([f"--{field.name.replace('_', separator)}={text}"], {})
        assert loaded == dataclasses.replace(Settings(), **{field.name: value})


def test_every_setting_has_help_that_names_its_environment_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        load_settings(["--help"], {})
    assert not exited.value.code
    output = " ".join("".join(capsys.readouterr()).split())
    for field in FIELDS:
        _, found, description = output.partition(f" --{field.name.replace('_', '-')} ")
        assert found and len(field.metadata["help"]) > 10
        assert field.metadata["help"] in description
        assert field.metadata["env"] == ENVIRONMENT.get(field.name)
        if field.name in ENVIRONMENT:
            assert f"{field.metadata['help']} (environment: {ENVIRONMENT[field.name]})" in description


@pytest.mark.parametrize(
    ("arguments", "environment", "port"),
    [
        ([], {}, 8000),
        ([], {"PORT": "2"}, 2),
        (["--port=3"], {"PORT": "2"}, 3),
        (["--port=3"], {}, 3),
        (["--port=8000"], {"PORT": "2"}, 8000),
        (["--port=3", "--port=4"], {"PORT": "2"}, 4),
        ([], {"PORT": ""}, 8000),
        ([], {"port": "2", "CHATTERD_PORT": "2"}, 8000),
        (["--port=0"], {"PORT": "2"}, 0),
    ],
)
def test_the_command_line_takes_precedence_over_the_environment_and_the_default(
    arguments: list[str], environment: dict[str, str], port: int
) -> None:
    assert load_settings(arguments, environment) == dataclasses.replace(Settings(), port=port)


def test_a_value_from_the_environment_is_not_modified() -> None:
    url = "postgresql://me:--p=w:1,2@host:5432/db?options=-c%20a%3Db"
    assert load_settings([], {"DATABASE_URL": url}).database_url == url


def test_an_empty_value_on_the_command_line_overrides_the_environment() -> None:
    assert load_settings(["--database-url="], {"DATABASE_URL": "postgresql://host/db"}).database_url == ""


@pytest.mark.parametrize("arguments", [["--prot=1"], ["--x"], ["--port=1", "--no-such"]])
def test_an_unknown_option_is_rejected(arguments: list[str]) -> None:
    with pytest.raises(tornado.options.Error):
        load_settings(arguments, {})


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--port=many"], {}),
        (["--drain-timeout=long"], {}),
        (["--port=1.5"], {}),
        ([], {"PORT": "many"}),
        (["--port"], {}),
    ],
)
def test_a_value_of_the_wrong_type_is_rejected(arguments: list[str], environment: dict[str, str]) -> None:
    with pytest.raises(tornado.options.Error):
        load_settings(arguments, environment)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("gpu", "http://gpu:11434"),
        ("gpu:1234", "http://gpu:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("http://gpu", "http://gpu:80"),
        ("https://gpu", "https://gpu:443"),
        ("https://gpu:1234", "https://gpu:1234"),
        ("gpu/", "http://gpu:11434"),
        ("gpu/ollama", "http://gpu:11434/ollama"),
        ("https://gpu/a/b/", "https://gpu:443/a/b"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("http://0.0.0.0", "http://127.0.0.1:80"),
        ("[::]", "http://[::1]:11434"),
        ("[::]:1234", "http://[::1]:1234"),
        ("::", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:1234", "http://[::1]:1234"),
        ("https://[fe80::1]/x", "https://[fe80::1]:443/x"),
        (" gpu:1234\n", "http://gpu:1234"),
        ('"gpu:1234"', "http://gpu:1234"),
        ("'http://gpu'", "http://gpu:80"),
        ("gpu:", "http://gpu:11434"),
        ("gpu:65535", "http://gpu:65535"),
        ("HTTPS://gpu", "https://gpu:443"),
        ("user:password@gpu", "http://user:password@gpu:11434"),
        ("https://user:p%40ss%2Fw%3Ard@gpu/a", "https://user:p%40ss%2Fw%3Ard@gpu:443/a"),
        ("http://us@er:p@ss:w\u00f6rd@[::1]:1234", "http://us%40er:p%40ss%3Aw%C3%B6rd@[::1]:1234"),
        ("http://key@gpu", "http://key@gpu:80"),
        ("b\u00fccher.example", "http://b\u00fccher.example:11434"),
        ("[fe80::1%eth0]:1", "http://[fe80::1%eth0]:1"),
    ],
)
def test_ollama_host_is_parsed_in_ollamas_own_notation(host: str, url: str) -> None:
    assert ollama_url(host) == url


SECRET = "s3cret"


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("gpu:65536", "port in OLLAMA_HOST must be a number from 1 to 65535"),
        ("gpu:0", "port"),
        ("gpu:-1", "port"),
        ("gpu:abc", "port"),
        ("http://gpu:1 1434", "white space"),
        (f"http://user:{SECRET}/x@gpu", "%2F"),
        (f"http://user:{SECRET}#x@gpu", "%23"),
        (f"user:{SECRET}?@gpu", "%3F"),
        ("http://gpu/?x=1", "%3F"),
        ("ftp://gpu", "http:// or https://"),
        ("unix:///run/ollama.sock", "http:// or https://"),
        (f"user:{SECRET}://gpu", "http:// or https://"),
        ("1:2:3", "host"),
        ("[gpu]", "host"),
        ("[::1", "host"),
        ("http://a%20b", "host"),
        ("x" * 64, "host"),
        ("a..b", "host"),
    ],
)
def test_an_address_that_can_never_work_is_rejected_without_its_password(host: str, words: str) -> None:
    with pytest.raises(StartupError) as raised:
        ollama_url(host)
    assert words in str(raised.value)
    assert SECRET not in str(raised.value)
    assert not re.search(r"\n", str(raised.value))


names = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8).map(lambda name: "h" + name)
hosts = names | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda address: f"[{address}]")
wildcards = ("0.0.0.0", "[::]")
parts = st.tuples(
    st.sampled_from(["", "http://", "https://"]),
    hosts.filter(lambda host: host not in wildcards),
    st.just("") | st.integers(min_value=1, max_value=65535).map(lambda port: f":{port}"),
    st.sampled_from(["", "/", "/path", "/path/", "/a/b", "/a/b/"]),
)


@given(parts.map("".join))
@example("")
@example(":56789")
def test_ollamas_own_client_parses_the_same(host: str) -> None:
    assert ollama_url(host) == _parse_host(host)
