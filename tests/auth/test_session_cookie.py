"""Session cookies: their principals, their expiry, and that they cannot be forged."""

import asyncio
import os
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


def test_a_session_has_the_principal_of_its_token_and_ends_with_it(
    tokens: TokenFileAuthenticator, tmp_path: Path
) -> None:
    token = create_token(tmp_path / "tokens", "alice", "", operator=True)
    tokens.reload()
    principal = asyncio.run(tokens.verify(token))
    cookies = SessionCookies(SECRET, 60, tokens)
    cookie, until = cookies.issue(token, principal)
    assert token not in cookie and 50 < until - time.time() <= 60
    assert cookies.verify(cookie) == principal
    assert SessionCookies(SECRET, 60, tokens).verify(cookie) == principal  # in another process
    assert SessionCookies("t" * 32, 60, tokens).verify(cookie) is None
    (tmp_path / "tokens").write_text("")
    tokens.reload()
    assert cookies.verify(cookie) is None


def test_a_session_expires(tokens: TokenFileAuthenticator, tmp_path: Path) -> None:
    token = create_token(tmp_path / "tokens", "alice", "", operator=False)
    tokens.reload()
    cookies = SessionCookies(SECRET, -1, tokens)
    cookie, _ = cookies.issue(token, asyncio.run(tokens.verify(token)))
    assert cookies.verify(cookie) is None


def test_a_modified_session_is_rejected(tokens: TokenFileAuthenticator, tmp_path: Path) -> None:
    token = create_token(tmp_path / "tokens", "alice", "", operator=False)
    tokens.reload()
    cookies = SessionCookies(SECRET, 60, tokens)
    cookie, _ = cookies.issue(token, asyncio.run(tokens.verify(token)))
    assert cookies.verify(cookie)
    for place in range(len(cookie)):
        other = "1" if cookie[place] != "1" else "2"
        assert cookies.verify(cookie[:place] + other + cookie[place + 1 :]) is None
    assert cookies.verify(create_signed_value(SECRET, "another purpose", b"{}").decode()) is None


@given(st.text())
def test_any_text_is_rejected_as_a_session(cookie: str) -> None:
    assert SessionCookies(SECRET, 60, None).verify(cookie) is None  # type: ignore[arg-type]


def test_a_session_of_another_authenticator_is_rejected(tokens: TokenFileAuthenticator) -> None:
    jwt = JWTAuthenticator(Settings(jwt_issuer="i"), JWKSClient.__new__(JWKSClient))
    stored = jwt.to_session("", Principal("alice", True, name="Alice"))
    assert jwt.from_session(stored) == Principal("alice", True, name="Alice")
    assert tokens.from_session(stored) is None
    assert jwt.from_session({"token": "0" * 64}) is None
    assert JWTAuthenticator(Settings(jwt_issuer="other"), JWKSClient.__new__(JWKSClient)).from_session(stored) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can create files of other users")
def test_the_secret_that_root_generates_in_a_folder_of_a_user_is_the_users(tmp_path: Path) -> None:
    os.chown(tmp_path, 1, 1)
    folder = tmp_path / "new" / "data"
    session_cookie.load_secret(Settings(data_dir=str(folder)))
    assert {path.stat().st_uid for path in (folder.parent, folder, folder / "cookie-secret")} == {1}


def test_the_secret_is_generated_once_for_all_processes(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    settings = Settings(data_dir=str(folder))
    secret = session_cookie.load_secret(settings)
    assert len(secret) >= 32 and session_cookie.load_secret(settings) == secret
    assert [path.name for path in folder.iterdir()] == ["cookie-secret"]
    assert stat.S_IMODE((folder / "cookie-secret").stat().st_mode) == 0o600
    assert session_cookie.load_secret(Settings(cookie_secret=SECRET)) == SECRET
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    for invalid_folder, message in (("file", "cannot be read"), ("link", "CHATTERD_COOKIE_SECRET")):
        with pytest.raises(Error, match=message):
            session_cookie.load_secret(Settings(data_dir=str(tmp_path / invalid_folder)))
    for short in (Settings(cookie_secret="short"), settings):
        (folder / "cookie-secret").write_text("short\n")
        with pytest.raises(Error, match="too short"):
            session_cookie.load_secret(short)
