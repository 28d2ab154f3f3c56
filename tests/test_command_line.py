"""The command line: each mistake ends the start with one sentence that names the setting."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from tornado.options import Error

import listening
from command_line import load_settings
from errors import StartupError
from settings import Settings
from tests.program import NAMED_BY_OPTIONS, ROOT, Program

NUMBERS = [field for field in fields(Settings) if field.type in (int, float)]


def failure(*arguments: str, module: str = "server.py", **environment: str) -> str:
    """Start the program, or ``-m module``, and return the only line that it writes before it exits with status 1."""
    start = [module] if module.endswith(".py") else ["-m", module]
    inherited = {name: value for name, value in os.environ.items() if name not in (*NAMED_BY_OPTIONS, "PORT")}
    done = subprocess.run(
        [sys.executable, *start, *arguments], cwd=ROOT, env=inherited | environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stdout
    [line] = done.stderr.splitlines()
    return line


def rejection(*arguments: str, environment: Mapping[str, str] = {}) -> str:
    """Return the sentence about the arguments."""
    with pytest.raises(Error) as raised:
        load_settings(arguments, environment)
    return str(raised.value)


@pytest.mark.parametrize("text", ["-1", "1e300", "nan", "inf", "-inf", "", "many", "9" * 5_000])
def test_a_number_out_of_its_range_is_told_with_the_range(text: str) -> None:
    for field in NUMBERS:
        name = f"--{field.name.replace('_', '-')}"
        assert re.fullmatch(rf"{name} must be a .*number.* from \d.* to \d+, not .*", rejection(f"{name}={text}"))


@pytest.mark.parametrize("end", ["minimum", "maximum"])
def test_the_ends_of_a_range_are_in_it(end: str) -> None:
    ends = {field.name: field.metadata[end] for field in NUMBERS}
    loaded = load_settings([f"--{name}={value}" for name, value in ends.items()], {})
    assert {name: getattr(loaded, name) for name in ends} == ends


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--port=80000", "--port must be a whole number from 0 to 65535, not '80000'"),
        ("--port=1.5", "--port must be a whole number from 0 to 65535, not '1.5'"),
        ("--reply_timeout=0", "--reply-timeout must be a number of seconds from 0.001 to 3155760000, not '0'"),
        ("--embedded-model=perhaps", "--embedded-model must be true or false, not 'perhaps'"),
        ("--embedded-model=", "--embedded-model must be true or false, not ''"),
        ("--address=", "--address must not be empty"),
        (
            "--base-path=/a b",
            "--base-path must be a path of letters, digits, '-', '.', '_' and '~', such as /chat, not '/a b'",
        ),
        ("--data-dir=", "--data-dir must not be empty"),
        ("--prot=9000", "there is no setting --prot (did you mean --port?)"),
        ("--heartbeat_intervall=4", "there is no setting --heartbeat_intervall (did you mean --heartbeat-interval?)"),
        ("--qqq", "there is no setting --qqq"),
        ("-p=9000", "there is no setting --p"),
        ("port=9000", "unexpected argument 'port=9000': write each setting as --name=value, such as --port=9000"),
        ("9000", "unexpected argument '9000': write each setting as --name=value, such as --port=9000"),
        ("--port", "--port requires a value after an equals sign: --port=..."),
        ("--logging=loud", "--logging must be one of debug, info, warning, error, none, not 'loud'"),
        (
            "--log-rotate-interval=x",
            "--log-rotate-interval=x cannot be used: invalid literal for int() with base 10: 'x'",
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence(argument: str, sentence: str) -> None:
    assert rejection(argument) == sentence


def test_a_value_after_a_blank_is_told_how_to_write_it() -> None:
    assert rejection("--port", "9000") == "--port requires a value after an equals sign: --port=9000"


@pytest.mark.parametrize("value", ["abc", "70000", "tcp://10.0.0.1:80"])
def test_a_mistake_in_the_environment_is_told_with_the_variable(value: str) -> None:
    expected = f"the environment variable PORT must be a whole number from 0 to 65535, not {value!r}"
    assert rejection(environment={"PORT": value}) == expected


def test_a_mistake_in_the_environment_ends_the_start_with_a_sentence() -> None:
    expected = "the environment variable PORT must be a whole number from 0 to 65535, not 'abc'"
    assert failure(PORT="abc") == f"chatterd: {expected}. `server.py --help` lists the settings."


@pytest.mark.parametrize(
    ("text", "value"), [("no", False), ("Off", False), ("0", False), ("yes", True), ("TRUE", True)]
)
def test_a_boolean_may_be_written_as_people_do(text: str, value: bool) -> None:
    assert load_settings([f"--embedded-model={text}"], {}).embedded_model is value


@pytest.mark.parametrize(
    ("text", "path"), [("/chat", "/chat"), ("chat", "/chat"), ("/chat/", "/chat"), ("/a/b~c.d", "/a/b~c.d"), ("/", "")]
)
def test_a_base_path_may_be_written_with_and_without_slashes(text: str, path: str) -> None:
    assert load_settings([f"--base-path={text}"], {}).base_path == path


@pytest.mark.parametrize(
    "text", ["/..", "/a/../b", "/a//b", "/%41", "/é", "http://example.org/chat", "/a?b", "/a;b", "/\n"]
)
def test_a_base_path_that_is_none_is_told(text: str) -> None:
    assert rejection(f"--base-path={text}").startswith("--base-path must be a path of letters")


def test_a_boolean_without_a_value_is_true() -> None:
    assert load_settings(["--collapse-whitespace"], {}).collapse_whitespace


@pytest.mark.parametrize("module", ["server.py", "embedded.install"])
def test_a_typing_error_is_one_line(module: str) -> None:
    assert failure("--prot=1", module=module) == (
        "chatterd: there is no setting --prot (did you mean --port?). `server.py --help` lists the settings."
    )


def test_a_log_file_that_cannot_be_written_is_told() -> None:
    line = failure("--log-file-prefix=/nowhere/chatterd.log")
    assert (
        line
        == "chatterd cannot start: --log-file-prefix=/nowhere/chatterd.log cannot be written: No such file or directory"
    )


# Addresses.


@pytest.mark.parametrize("module", ["server.py", "embedded.install"])
def test_a_port_in_use_is_told_before_anything_is_installed_or_started(module: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = failure(f"--port={port}", f"--data-dir={tmp_path}/data", module=module)
    assert line == (
        f"chatterd cannot start: --port={port} is in use by another program on 127.0.0.1. Stop that program, or choose "
        "another port."
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("192.0.2.1", "--address=192.0.2.1 is not an address of this machine."),  # TEST-NET-1, RFC 5737
        ("lo", "--address=lo is neither an IP address nor a host name"),
        ("a..b", "--address=a..b is neither an IP address nor a host name"),
        ("example.invalid", "--address=example.invalid is neither an IP address nor a host name"),  # RFC 6761
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # bind_sockets() closes no socket then
def test_an_address_that_cannot_be_used_is_told(address: str, sentence: str) -> None:
    with pytest.raises(StartupError, match=re.escape(sentence)):
        listening.check(address, 0)
    assert sentence in failure(f"--address={address}", "--allow-unauthenticated", module="embedded.install")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its rights")
def test_a_privileged_port_is_told() -> None:
    program = "import listening, os; os.setuid(65534); listening.check('127.0.0.1', 81)"
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 81:
        pytest.skip("no port is privileged here")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert "StartupError: --port=81 is reserved for privileged users." in done.stderr


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_localhost_and_wildcards_are_shown_as_urls_that_a_browser_opens() -> None:
    expected = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}
    for address, shown in (expected | ({"::1": "[::1]"} if has_ipv6() else {})).items():
        sockets = listening.listen(address, 0)
        port = sockets[0].getsockname()[1]
        assert listening.url("http", sockets[0]) == f"http://{shown}:{port}"
        for one in sockets:
            one.close()


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_two_colons_are_all_addresses_of_both_families() -> None:
    sockets = listening.listen("::", 0)
    assert {one.family for one in sockets} == {socket.AF_INET, socket.AF_INET6}
    for one in sockets:
        one.close()


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("address", ["::1", "[::1]"])
def test_an_ipv6_address_is_served_and_shown_in_brackets(address: str, database_url: str) -> None:
    with Program(database_url=database_url, address=address, ollama_host="127.0.0.1:1", embedded_model="no") as program:
        assert re.fullmatch(r"http://\[::1\]:\d+", program.url)
        assert not program.alarms(["Ollama is unreachable"])
