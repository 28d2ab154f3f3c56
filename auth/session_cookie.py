"""Browser sessions: signed cookies that contain what identifies the principal; the server stores nothing."""

import os
import secrets
import time
from pathlib import Path
from typing import Any

import msgspec
from tornado.options import Error
from tornado.web import create_signed_value, decode_signed_value

from auth.authenticator import Authenticator
from auth.principal import Principal
from settings import Settings

COOKIE_PURPOSE = "chatterd-session"
"""Part of the signed data, so that the signature is not valid for any other purpose."""

MIN_SECRET_LENGTH = 32
"""Minimum characters of the secret."""

MAX_AGE_DAYS = 36_500.0
"""100 years: Tornado requires a maximum age, but the session contains its own expiry."""


class SessionCookies:
    """Issues and verifies session cookies (Tornado's signed values: HMAC-SHA256, compared in constant time).

    :param secret: key of the signatures; the same in all processes.
    :param lifetime: seconds after which a session expires, unless its token expires first.
    :param authenticator: converts tokens to sessions, and sessions to principals.
    """

    def __init__(self, secret: str, lifetime: float, authenticator: Authenticator) -> None:
        self._secret = secret
        self._lifetime = lifetime
        self._authenticator = authenticator

    def issue(self, token: str, principal: Principal) -> tuple[str, float]:
        """Issue a session cookie for a verified token.

        :returns: the cookie's value, and when the session expires, in seconds since the Unix epoch.
        """
        until = time.time() + self._lifetime
        token_expiry = self._authenticator.expires_at(token)
        if token_expiry is not None:
            until = min(until, token_expiry)
        session = msgspec.json.encode({"until": until, **self._authenticator.to_session(token, principal)})
        return create_signed_value(self._secret, COOKIE_PURPOSE, session).decode(), until

    def verify(self, cookie: str) -> Principal | None:
        """Return the principal of a session cookie, or None if the cookie is not valid or the session has expired."""
        signed = decode_signed_value(self._secret, COOKIE_PURPOSE, cookie, max_age_days=MAX_AGE_DAYS, min_version=2)
        if signed is None:
            return None
        session: dict[str, Any] = msgspec.json.decode(signed)
        return self._authenticator.from_session(session) if session["until"] > time.time() else None


def load_secret(settings: Settings) -> str:
    """Return ``--cookie-secret``, or the secret stored in ``--data-dir``, which is generated on first use.

    :raises tornado.options.Error: the secret is too short, or the file can be neither read nor created.
    """
    if settings.cookie_secret:
        return _check_length(settings.cookie_secret, "--cookie-secret")
    path = Path(settings.data_dir, "cookie-secret")
    try:
        return _check_length(path.read_text().strip(), str(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Error(f"the cookie secret cannot be read: {error}") from error
    try:
        return _create_secret(path)
    except OSError as error:
        raise Error(f"the cookie secret cannot be stored; set CHATTERD_COOKIE_SECRET: {error}") from error


def _check_length(secret: str, source: str) -> str:
    if len(secret) < MIN_SECRET_LENGTH:
        raise Error(f"{source} is too short: at least {MIN_SECRET_LENGTH} random characters are required")
    return secret


def _create_secret(path: Path) -> str:
    """Create the file atomically. If several processes do so concurrently, all return the secret of the first."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        if os.geteuid() == 0:  # one start as root in a user's folder must not lock the user out
            owner = (missing[-1] if missing else path).parent.stat()
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            for folder in missing:
                os.chown(folder, owner.st_uid, owner.st_gid, follow_symlinks=False)
        file.write(secrets.token_urlsafe(MIN_SECRET_LENGTH) + "\n")
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process has created it
    finally:
        temporary.unlink()
    return path.read_text().strip()
