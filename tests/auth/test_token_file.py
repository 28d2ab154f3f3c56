"""The token file: parsing, errors, and the creation of tokens."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.options import Error

from auth import token_file
from auth.principal import Principal, TenantLimits
from auth.token_file import TokenFileAuthenticator, create_token, digest, parse

HASH = digest("secret")


def entry(**fields: Any) -> str:
    return json.dumps({"name": "a", "tenant": "t", "sha256": HASH} | fields)


def test_a_line_contains_a_principal_and_its_limits() -> None:
    principals = parse(f"# a comment\n\n{entry(operator=True, limits={'max_replies': 3})}\n")
    assert principals == {HASH: Principal("t", True, TenantLimits(max_replies=3), "a")}
    assert parse(entry())[HASH] == Principal("t", name="a")
    assert parse("") == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: "),
        (entry(operatr=True), "line 2: .*operatr"),
        (entry(operator=1), "line 2: .*operator"),
        (entry(tenant=None), "line 2: .*tenant"),
        ('{"name": "a"}', "line 2: .*tenant"),
        (entry(name=""), "line 2: name"),
        (entry(name="a\nb"), "line 2: name"),
        (entry(tenant="a\0b"), "line 2: tenant"),
        (entry(sha256="secret"), "line 2: sha256"),
        (entry(sha256=HASH.upper()), "line 2: sha256"),
        (entry(limits={"replies": 3}), "line 2: limits has 'replies'"),
        (entry(limits={"max_replies": -1}), "line 2: limits"),
        (entry(limits={"max_replies": "3"}), "line 2: .*limits"),
        (entry(name="b"), "line 2: duplicate sha256"),
        (entry(sha256="0" * 64), "line 2: duplicate name 'a'"),
        ("[" * 10_000, "line 2: "),
    ],
)
def test_an_invalid_line_is_rejected_by_its_number(line: str, message: str) -> None:
    with pytest.raises(Error, match=f"^{message}"):
        parse(f"{entry()}\n{line}\n")


@given(st.text())
def test_any_text_is_parsed_or_rejected_with_a_message(text: str) -> None:
    try:
        parse(text)
    except Error as error:
        assert str(error).startswith("line ")


def test_a_token_is_created_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    token = create_token(path, "alice", "", operator=False)
    other = create_token(path, "bob", "family", operator=True)
    assert len(token) == len(token_file.PREFIX) + 43 and token != other
    assert token not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    authenticator = TokenFileAuthenticator(path)
    assert authenticator.lookup(token) == Principal("alice", name="alice")
    assert authenticator.lookup(other) == Principal("family", True, name="bob")
    assert authenticator.lookup(token[:-1]) is authenticator.lookup("") is authenticator.lookup("\ud800") is None
    with pytest.raises(Error, match="already has a token named 'alice'"):
        create_token(path, "alice", "", operator=False)


def test_a_token_is_appended_on_a_new_line_but_not_to_an_invalid_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(entry())
    create_token(path, "b", "", operator=False)
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["a", "b"]
    path.write_text("{")
    with pytest.raises(Error, match="line 1"):
        create_token(path, "c", "", operator=False)
    assert path.read_text() == "{"


@pytest.mark.parametrize(("name", "tenant"), [("\udcff", ""), ("a", "\udcff")])
def test_a_name_that_is_not_valid_unicode_is_rejected(tmp_path: Path, name: str, tenant: str) -> None:
    """Python decodes an invalid UTF-8 byte on the command line as a lone surrogate (PEP 383)."""
    with pytest.raises(Error, match="characters"):
        create_token(tmp_path / "tokens", name, tenant, operator=False)
    assert not (tmp_path / "tokens").exists()


@pytest.mark.expects_log("The tokens were not reloaded")
def test_the_previous_tokens_remain_valid_if_the_file_is_invalid_at_reload(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    alice = create_token(path, "alice", "", operator=False)
    authenticator = TokenFileAuthenticator(path)
    good = path.read_text()
    path.write_text(good + "{")
    authenticator.reload()
    assert authenticator.lookup(alice)
    path.unlink()
    authenticator.reload()
    assert authenticator.lookup(alice)
    path.write_text("")
    authenticator.reload()
    assert authenticator.lookup(alice) is None
    with pytest.raises(Error):
        TokenFileAuthenticator(tmp_path / "nothing")
