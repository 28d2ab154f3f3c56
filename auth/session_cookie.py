"""Sessions of browsers: a signed cookie in which a token's sign-in is kept, with nothing to keep in the server."""

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
"""What the signature is for, so that it can be taken for nothing else."""

SECRET_LENGTH = 32
"""Characters that a secret must have at least."""

NO_EXPIRY_DAYS = 36_500.0
"""Days. A session says itself when it ends."""


class SessionCookies:
    """Begins sessions, and knows askers by them (HMAC-SHA256, compared in constant time, by Tornado).

    :param secret: the same in all processes.
    :param lifetime: seconds that a session lasts, unless its token ends before.
    """

    def __init__(self, secret: str, lifetime: float, authenticator: Authenticator) -> None:
        self._secret = secret
        self._lifetime = lifetime
        self._authenticator = authenticator

    def issue(self, token: str, asker: Principal) -> tuple[str, float]:
        """Begin the session of who sent a token that was checked.

        :returns: the cookie's value, and when it ends, in seconds since 1970.
        """
        until = time.time() + self._lifetime
        ends = self._authenticator.expires_at(token)
        if ends is not None:
            until = min(until, ends)
        kept = msgspec.json.encode({"until": until, **self._authenticator.to_session(token, asker)})
        return create_signed_value(self._secret, COOKIE_PURPOSE, kept).decode(), until

    def verify(self, cookie: str) -> Principal | None:
        """Whose session it is; None if it has ended, or is none."""
        kept = decode_signed_value(self._secret, COOKIE_PURPOSE, cookie, max_age_days=NO_EXPIRY_DAYS, min_version=2)
        if kept is None:
            return None
        session: dict[str, Any] = msgspec.json.decode(kept)
        return self._authenticator.from_session(session) if session["until"] > time.time() else None


def load_secret(settings: Settings) -> str:
    """The secret that sessions are signed with: ``--cookie-secret``, else one that is made once, in ``--data-dir``.

    :raises Error: it is too short, or can neither be read nor written.
    """
    if settings.cookie_secret:
        return _check_length(settings.cookie_secret, "--cookie-secret")
    path = Path(settings.data_dir, "cookie-secret")
    try:
        return _check_length(path.read_text().strip(), str(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Error(f"the secret of cookies cannot be read: {error}") from error
    try:
        return _create_secret(path)
    except OSError as error:
        raise Error(f"the secret of cookies cannot be kept, so give CHATTERD_COOKIE_SECRET: {error}") from error


def _check_length(secret: str, where: str) -> str:
    if len(secret) < SECRET_LENGTH:
        raise Error(f"{where} is too short: it needs {SECRET_LENGTH} characters that nobody can guess")
    return secret


def _create_secret(path: Path) -> str:
    """Make the file, whole or not at all: several processes may start at once, and all take what the first has made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(SECRET_LENGTH) + "\n")
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was faster: its secret counts
    finally:
        draft.unlink()
    return path.read_text().strip()
