"""How this server finds out who is asking: what ``--auth`` and its settings come to."""

import ipaddress
from contextlib import AsyncExitStack
from pathlib import Path

from tornado.options import Error

from auth import session_cookie
from auth.authenticator import Authenticator
from auth.jwks import JWKSClient
from auth.jwt_authenticator import JWTAuthenticator
from auth.principal import Principal
from auth.session_cookie import SessionCookies
from auth.token_file import TokenFileAuthenticator
from errors import Unauthorized
from settings import Settings

MODES = ("none", "token", "jwt")

REQUIRED_MODE = {
    "token_file": "token",
    "jwt_issuer": "jwt",
    "jwt_audience": "jwt",
    "jwt_keys": "jwt",
    "jwt_tenant_claim": "jwt",
    "jwt_operator_claim": "jwt",
}
"""Settings, and the ``--auth`` that each is for; all but the last must be given with it."""

SIGN_IN_REQUIRED = "Say who you are: sign in at /sign-in, or send your token in the header Authorization: Bearer."


class IdentityProvider:
    """Knows who is asking, by a token or a browser's session."""

    def __init__(self, authenticator: Authenticator, sessions: SessionCookies) -> None:
        self._authenticator = authenticator
        self._sessions = sessions

    def authenticate_now(self, token: str | None, cookie: str | None) -> Principal | None:
        """Who is asking, if that can be said at once. A token counts before a cookie.

        :raises Unauthorized: nothing says it.
        """
        if token is not None:
            return self._authenticator.lookup(token)
        asker = self._sessions.verify(cookie) if cookie else None
        if asker is None:
            raise Unauthorized(SIGN_IN_REQUIRED)
        return asker

    async def authenticate(self, token: str) -> Principal:
        """Who is asking with a token that is not known at once.

        :raises Unauthorized: nobody has it.
        :raises Unavailable: it cannot be checked now.
        """
        return await self._authenticator.verify(token)

    async def sign_in(self, token: str) -> tuple[Principal, str, float]:
        """Exchange a token for a session: who it is, the cookie's value, and when it ends (s since 1970).

        :raises Unauthorized: nobody has it.
        :raises Unavailable: it cannot be checked now.
        """
        asker = await self._authenticator.verify(token)
        return asker, *self._sessions.issue(token, asker)

    def reload(self) -> None:
        """Read tokens or keys again; if they are wrong, those that are known stay. For SIGHUP."""
        self._authenticator.reload()


def validate_settings(settings: Settings) -> None:
    """Refuse settings that do not go together.

    :raises Error: with a sentence that says what to change.
    """
    if settings.auth not in MODES:
        raise Error(f"--auth is one of {', '.join(MODES)}, not {settings.auth!r}")
    for name, mode in REQUIRED_MODE.items():
        option = f"--{name.replace('_', '-')}"
        if mode == settings.auth and not getattr(settings, name) and name != "jwt_operator_claim":
            raise Error(f"--auth={mode} needs {option}")
        if mode != settings.auth and getattr(settings, name) != getattr(Settings, name):
            raise Error(f"{option} is for --auth={mode}, but --auth is {settings.auth}")
    if settings.auth == "none" and not settings.allow_unauthenticated and not _is_loopback(settings.address):
        raise Error(
            f"without --auth anybody who reaches {settings.address or 'this machine'} may read and change every "
            "conversation; use --auth=token or --auth=jwt, --address=127.0.0.1, or --allow-unauthenticated"
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


async def open_identity_provider(parts: AsyncExitStack, settings: Settings) -> IdentityProvider | None:
    """Make what knows the askers; None where everybody is anybody.

    :raises Error: settings or files are wrong.
    """
    if settings.auth == "none":
        return None
    authenticator: Authenticator
    if settings.auth == "token":
        authenticator = TokenFileAuthenticator(Path(settings.token_file))
    else:
        keys = JWKSClient(settings.jwt_keys)
        parts.callback(keys.close)
        await keys.open()
        authenticator = JWTAuthenticator(settings, keys)
    return IdentityProvider(
        authenticator, SessionCookies(session_cookie.load_secret(settings), settings.session_lifetime, authenticator)
    )
