"""How this server finds out who is asking: what ``--auth`` and its settings come to."""

import ipaddress
from contextlib import AsyncExitStack
from pathlib import Path

from tornado.options import Error

from access import sessions
from access.asker import Asker
from access.authenticator import Authenticator
from access.jwts import Jwts
from access.key_set import KeySet
from access.sessions import Sessions
from access.tokens import Tokens
from errors import Unauthorized
from settings import Settings

MODES = ("none", "token", "jwt")

BELONGS = {
    "token_file": "token",
    "jwt_issuer": "jwt",
    "jwt_audience": "jwt",
    "jwt_keys": "jwt",
    "jwt_tenant_claim": "jwt",
    "jwt_operator_claim": "jwt",
}
"""Settings, and the ``--auth`` that each is for; all but the last must be given with it."""

SIGN_IN = "Say who you are: sign in at /sign-in, or send your token in the header Authorization: Bearer."


class Identity:
    """Knows who is asking, by a token or a browser's session."""

    def __init__(self, authenticator: Authenticator, sessions: Sessions) -> None:
        self._authenticator = authenticator
        self._sessions = sessions

    def known(self, token: str | None, cookie: str | None) -> Asker | None:
        """Who is asking, if that can be said at once. A token counts before a cookie.

        :raises Unauthorized: nothing says it.
        """
        if token is not None:
            return self._authenticator.known(token)
        asker = self._sessions.asker(cookie) if cookie else None
        if asker is None:
            raise Unauthorized(SIGN_IN)
        return asker

    async def check(self, token: str) -> Asker:
        """Who is asking with a token that is not known at once.

        :raises Unauthorized: nobody has it.
        :raises Unavailable: it cannot be checked now.
        """
        return await self._authenticator.check(token)

    async def sign_in(self, token: str) -> tuple[Asker, str, float]:
        """Exchange a token for a session: who it is, the cookie's value, and when it ends (s since 1970).

        :raises Unauthorized: nobody has it.
        :raises Unavailable: it cannot be checked now.
        """
        asker = await self._authenticator.check(token)
        return asker, *self._sessions.begin(token, asker)

    def reload(self) -> None:
        """Read tokens or keys again; if they are wrong, those that are known stay. For SIGHUP."""
        self._authenticator.reload()


def check(settings: Settings) -> None:
    """Refuse settings that do not go together.

    :raises Error: with a sentence that says what to change.
    """
    if settings.auth not in MODES:
        raise Error(f"--auth is one of {', '.join(MODES)}, not {settings.auth!r}")
    for name, mode in BELONGS.items():
        option = f"--{name.replace('_', '-')}"
        if mode == settings.auth and not getattr(settings, name) and name != "jwt_operator_claim":
            raise Error(f"--auth={mode} needs {option}")
        if mode != settings.auth and getattr(settings, name) != getattr(Settings, name):
            raise Error(f"{option} is for --auth={mode}, but --auth is {settings.auth}")
    if settings.auth == "none" and not settings.insecure and not _is_loopback(settings.address):
        raise Error(
            f"without --auth anybody who reaches {settings.address or 'this machine'} may read and change every "
            "conversation; give --auth=token or --auth=jwt, listen on --address=127.0.0.1, or allow it with --insecure"
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


async def open_identity(parts: AsyncExitStack, settings: Settings) -> Identity | None:
    """Make what knows the askers; None where everybody is anybody.

    :raises Error: settings or files are wrong.
    """
    if settings.auth == "none":
        return None
    authenticator: Authenticator
    if settings.auth == "token":
        authenticator = Tokens(Path(settings.token_file))
    else:
        keys = KeySet(settings.jwt_keys)
        parts.callback(keys.close)
        await keys.open()
        authenticator = Jwts(settings, keys)
    return Identity(authenticator, Sessions(sessions.secret(settings), settings.session_lifetime, authenticator))
