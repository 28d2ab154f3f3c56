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

from auth import session_cookie
from auth.jwks import JWKSClient
from auth.jwt_authenticator import JWTAuthenticator
from auth.principal import Principal
from auth.session_cookie import SessionCookies
from auth.token_file import TokenFileAuthenticator, create_token
from settings import Settings

SECRET = "s" * 32


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFileAuthenticator:
    (tmp_path / "tokens").touch()
    return TokenFileAuthenticator(tmp_path / "tokens")


def test_a_session_is_its_tokens_and_ends_with_it(tokens: TokenFileAuthenticator, tmp_path: Path) -> None:
    token = create_token(tmp_path / "tokens", "alice", "", operator=True)
    tokens.reload()
    asker = asyncio.run(tokens.verify(token))
    known = SessionCookies(SECRET, 60, tokens)
    cookie, until = known.issue(token, asker)
    assert token not in cookie and 50 < until - time.time() <= 60
    assert known.verify(cookie) == asker
    assert SessionCookies(SECRET, 60, tokens).verify(cookie) == asker  # in another process
    assert SessionCookies("t" * 32, 60, tokens).verify(cookie) is None
    (tmp_path / "tokens").write_text("")
    tokens.reload()
    assert known.verify(cookie) is None


def test_a_session_ends_in_time(tokens: TokenFileAuthenticator, tmp_path: Path) -> None:
    token = create_token(tmp_path / "tokens", "alice", "", operator=False)
    tokens.reload()
    known = SessionCookies(SECRET, -1, tokens)
    cookie, _ = known.issue(token, asyncio.run(tokens.verify(token)))
    assert known.verify(cookie) is None


def test_a_session_that_anything_was_changed_of_is_none(tokens: TokenFileAuthenticator, tmp_path: Path) -> None:
    token = create_token(tmp_path / "tokens", "alice", "", operator=False)
    tokens.reload()
    known = SessionCookies(SECRET, 60, tokens)
    cookie, _ = known.issue(token, asyncio.run(tokens.verify(token)))
    assert known.verify(cookie)
    for place in range(len(cookie)):
        other = "1" if cookie[place] != "1" else "2"
        assert known.verify(cookie[:place] + other + cookie[place + 1 :]) is None
    assert known.verify(create_signed_value(SECRET, "another purpose", b"{}").decode()) is None


@given(st.text())
def test_whatever_a_cookie_holds_is_no_session(cookie: str) -> None:
    assert SessionCookies(SECRET, 60, None).verify(cookie) is None  # type: ignore[arg-type]


def test_a_session_of_another_way_to_sign_in_is_none(tokens: TokenFileAuthenticator) -> None:
    jwt = JWTAuthenticator(Settings(jwt_issuer="i"), JWKSClient.__new__(JWKSClient))
    kept = jwt.to_session("", Principal("alice", True, name="Alice"))
    assert jwt.from_session(kept) == Principal("alice", True, name="Alice")
    assert tokens.from_session(kept) is None
    assert jwt.from_session({"token": "0" * 64}) is None
    assert JWTAuthenticator(Settings(jwt_issuer="other"), JWKSClient.__new__(JWKSClient)).from_session(kept) is None


def test_the_secret_is_made_once_for_all_processes(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    settings = Settings(data_dir=str(folder))
    made = session_cookie.load_secret(settings)
    assert len(made) >= 32 and session_cookie.load_secret(settings) == made
    assert [path.name for path in folder.iterdir()] == ["cookie-secret"]
    assert stat.S_IMODE((folder / "cookie-secret").stat().st_mode) == 0o600
    assert session_cookie.load_secret(Settings(cookie_secret=SECRET)) == SECRET
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    for folder_that_is_none, sentence in (("file", "cannot be read"), ("link", "CHATTERD_COOKIE_SECRET")):
        with pytest.raises(Error, match=sentence):
            session_cookie.load_secret(Settings(data_dir=str(tmp_path / folder_that_is_none)))
    for short in (Settings(cookie_secret="short"), settings):
        (folder / "cookie-secret").write_text("short\n")
        with pytest.raises(Error, match="too short"):
            session_cookie.load_secret(short)
