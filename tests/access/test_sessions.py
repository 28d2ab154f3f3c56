"""Sessions: whose they are, when they end, and that nobody can make one."""

import asyncio
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.options import Error
from tornado.web import create_signed_value

from access import sessions
from access.asker import Asker
from access.jwts import Jwts
from access.key_set import KeySet
from access.sessions import Sessions
from access.tokens import Tokens, make
from settings import Settings

SECRET = "s" * 32


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    (tmp_path / "tokens").touch()
    return Tokens(tmp_path / "tokens")


def test_a_session_is_its_tokens_and_ends_with_it(tokens: Tokens, tmp_path: Path) -> None:
    token = make(tmp_path / "tokens", "alice", "", operator=True)
    tokens.reload()
    asker = asyncio.run(tokens.check(token))
    known = Sessions(SECRET, 60, tokens)
    cookie, until = known.begin(token, asker)
    assert token not in cookie and 50 < until - time.time() <= 60
    assert known.asker(cookie) == asker
    assert Sessions(SECRET, 60, tokens).asker(cookie) == asker  # in another process
    assert Sessions("t" * 32, 60, tokens).asker(cookie) is None
    (tmp_path / "tokens").write_text("")
    tokens.reload()
    assert known.asker(cookie) is None


def test_a_session_ends_in_time(tokens: Tokens, tmp_path: Path) -> None:
    token = make(tmp_path / "tokens", "alice", "", operator=False)
    tokens.reload()
    known = Sessions(SECRET, -1, tokens)
    cookie, _ = known.begin(token, asyncio.run(tokens.check(token)))
    assert known.asker(cookie) is None


def test_a_session_that_anything_was_changed_of_is_none(tokens: Tokens, tmp_path: Path) -> None:
    token = make(tmp_path / "tokens", "alice", "", operator=False)
    tokens.reload()
    known = Sessions(SECRET, 60, tokens)
    cookie, _ = known.begin(token, asyncio.run(tokens.check(token)))
    assert known.asker(cookie)
    for place in range(len(cookie)):
        other = "1" if cookie[place] != "1" else "2"
        assert known.asker(cookie[:place] + other + cookie[place + 1 :]) is None
    assert known.asker(create_signed_value(SECRET, "another purpose", b"{}").decode()) is None


@given(st.text())
def test_whatever_a_cookie_holds_is_no_session(cookie: str) -> None:
    assert Sessions(SECRET, 60, None).asker(cookie) is None  # type: ignore[arg-type]


def test_a_session_of_another_way_to_sign_in_is_none(tokens: Tokens) -> None:
    jwt = Jwts(Settings(jwt_issuer="i"), KeySet.__new__(KeySet))
    kept = jwt.remember("", Asker("alice", True, name="Alice"))
    assert jwt.recall(kept) == Asker("alice", True, name="Alice")
    assert tokens.recall(kept) is None
    assert jwt.recall({"token": "0" * 64}) is None
    assert Jwts(Settings(jwt_issuer="other"), KeySet.__new__(KeySet)).recall(kept) is None


def test_the_secret_is_made_once_for_all_processes(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    settings = Settings(data_dir=str(folder))
    made = sessions.secret(settings)
    assert len(made) >= 32 and sessions.secret(settings) == made
    assert [path.name for path in folder.iterdir()] == ["cookie-secret"]
    assert stat.S_IMODE((folder / "cookie-secret").stat().st_mode) == 0o600
    assert sessions.secret(Settings(cookie_secret=SECRET)) == SECRET
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    for folder_that_is_none, sentence in (("file", "cannot be read"), ("link", "CHATTERD_COOKIE_SECRET")):
        with pytest.raises(Error, match=sentence):
            sessions.secret(Settings(data_dir=str(tmp_path / folder_that_is_none)))
    for short in (Settings(cookie_secret="short"), settings):
        (folder / "cookie-secret").write_text("short\n")
        with pytest.raises(Error, match="too short"):
            sessions.secret(short)
