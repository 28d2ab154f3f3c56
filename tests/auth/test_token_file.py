"""The file of tokens: what is read of it, what is refused, and how a token is made."""

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


def test_a_line_says_who_has_the_token_and_how_much_they_may() -> None:
    askers = parse(f"# who may come\n\n{entry(operator=True, limits={'max_replies': 3})}\n")
    assert askers == {HASH: Principal("t", True, TenantLimits(max_replies=3), "a")}
    assert parse(entry())[HASH] == Principal("t", name="a")
    assert parse("") == {}


@pytest.mark.parametrize(
    ("line", "sentence"),
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
        (entry(name="b"), "line 2: 'b' or its hash"),
        (entry(sha256="0" * 64), "line 2: 'a' or its hash"),
        ("[" * 10_000, "line 2: "),
    ],
)
def test_a_line_that_is_wrong_is_refused_by_its_number(line: str, sentence: str) -> None:
    with pytest.raises(Error, match=f"^{sentence}"):
        parse(f"{entry()}\n{line}\n")


@given(st.text())
def test_whatever_a_file_holds_is_read_or_refused_with_a_sentence(text: str) -> None:
    try:
        parse(text)
    except Error as error:
        assert str(error).startswith("line ")


def test_a_token_is_made_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    token = create_token(path, "alice", "", operator=False)
    other = create_token(path, "bob", "family", operator=True)
    assert len(token) == len(token_file.PREFIX) + 43 and token != other
    assert token not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    known = TokenFileAuthenticator(path)
    assert known.lookup(token) == Principal("alice", name="alice")
    assert known.lookup(other) == Principal("family", True, name="bob")
    assert known.lookup(token[:-1]) is known.lookup("") is known.lookup("\ud800") is None
    with pytest.raises(Error, match="'alice' already"):
        create_token(path, "alice", "", operator=False)


def test_a_token_is_added_on_a_line_of_its_own_and_to_no_file_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(entry())
    create_token(path, "b", "", operator=False)
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["a", "b"]
    path.write_text("{")
    with pytest.raises(Error, match="line 1"):
        create_token(path, "c", "", operator=False)
    assert path.read_text() == "{"


@pytest.mark.parametrize(("name", "tenant"), [("\udcff", ""), ("a", "\udcff")])
def test_a_name_that_is_not_text_makes_no_token(tmp_path: Path, name: str, tenant: str) -> None:
    """A byte on the command line that is no UTF-8 comes as half of a surrogate pair."""
    with pytest.raises(Error, match="characters"):
        create_token(tmp_path / "tokens", name, tenant, operator=False)
    assert not (tmp_path / "tokens").exists()


@pytest.mark.expects_log("The tokens stay as they were")
def test_a_file_that_is_wrong_when_it_is_read_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    alice = create_token(path, "alice", "", operator=False)
    known = TokenFileAuthenticator(path)
    good = path.read_text()
    path.write_text(good + "{")
    known.reload()
    assert known.lookup(alice)
    path.unlink()
    known.reload()
    assert known.lookup(alice)
    path.write_text("")
    known.reload()
    assert known.lookup(alice) is None
    with pytest.raises(Error):
        TokenFileAuthenticator(tmp_path / "nothing")
