"""The identity provider that ``--auth`` selects, and the validation of its settings."""

import ipaddress
from contextlib import AsyncExitStack
from pathlib import Path

from tornado.options import Error

from auth import session_cookie
from auth.authenticator import Authenticator
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
"""The mode that each of these settings belongs to, and which requires all of them except the last."""

SIGN_IN_REQUIRED = "Authentication required. Sign in at /sign-in, or send a token in the header Authorization: Bearer."


class IdentityProvider:
    """Authenticates requests by a bearer token or a session cookie."""

    def __init__(self, authenticator: Authenticator, sessions: SessionCookies) -> None:
        self._authenticator = authenticator
        self._sessions = sessions

    def authenticate_now(self, token: str | None, cookie: str | None) -> Principal | None:
        """Authenticate a request without waiting. A token takes precedence over a cookie.

        :returns: None if the token must be verified with :meth:`authenticate`.
        :raises Unauthorized: the request has neither a token nor a valid session.
        """
        if token is not None:
            return self._authenticator.lookup(token)
        principal = self._sessions.verify(cookie) if cookie else None
        if principal is None:
            raise Unauthorized(SIGN_IN_REQUIRED)
        return principal

    async def authenticate(self, token: str) -> Principal:
        """Verify a token that :meth:`authenticate_now` does not know.

        :raises Unauthorized: the token is not valid.
        :raises ServiceUnavailable: the token cannot be verified at the moment.
        """
        return await self._authenticator.verify(token)

    async def sign_in(self, token: str) -> tuple[Principal, str, float]:
        """Exchange a token for a session.

        :returns: the principal, the cookie's value, and when the session expires (seconds since the Unix epoch).
        :raises Unauthorized: the token is not valid.
        :raises ServiceUnavailable: the token cannot be verified at the moment.
        """
        principal = await self._authenticator.verify(token)
        return principal, *self._sessions.issue(token, principal)

    def reload(self) -> None:
        """Load tokens or keys again. If they are invalid, log an error and keep the previous ones."""
        self._authenticator.reload()


def validate_settings(settings: Settings) -> None:
    """Check that the settings of authentication are complete and do not contradict each other.

    :raises tornado.options.Error: the message says what to change.
    """
    if settings.auth not in MODES:
        raise Error(f"--auth must be one of {', '.join(MODES)}, not {settings.auth!r}")
    for name, mode in REQUIRED_MODE.items():
        option = f"--{name.replace('_', '-')}"
        if mode == settings.auth and not getattr(settings, name) and name != "jwt_operator_claim":
            raise Error(f"--auth={mode} requires {option}")
        if mode != settings.auth and getattr(settings, name) != getattr(Settings, name):
            raise Error(f"{option} requires --auth={mode}, but --auth is {settings.auth}")
    if settings.auth == "none" and not settings.allow_unauthenticated and not _is_loopback(settings.address):
        raise Error(
            f"with --auth=none, every client that can connect to {settings.address or 'this machine'} can read and "
            "change all conversations; set --auth=token or --auth=jwt, --address=127.0.0.1, or --allow-unauthenticated"
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


async def open_identity_provider(stack: AsyncExitStack, settings: Settings) -> IdentityProvider | None:
    """Create the identity provider; None with ``--auth=none``.

    :param stack: closes what the identity provider uses.
    :raises tornado.options.Error: a setting, the token file, the keys or the cookie secret are invalid.
    """
    if settings.auth == "none":
        return None
    authenticator: Authenticator
    if settings.auth == "token":
        authenticator = TokenFileAuthenticator(Path(settings.token_file))
    else:
        authenticator = await _open_jwt_authenticator(stack, settings)
    return IdentityProvider(
        authenticator, SessionCookies(session_cookie.load_secret(settings), settings.session_lifetime, authenticator)
    )


async def _open_jwt_authenticator(stack: AsyncExitStack, settings: Settings) -> Authenticator:
    # Imported where they are needed: with cryptography they take 0.1 s of every start.
    from auth.jwks import JWKSClient
    from auth.jwt_authenticator import JWTAuthenticator

    keys = JWKSClient(settings.jwt_keys)
    stack.callback(keys.close)
    await keys.open()
    return JWTAuthenticator(settings, keys)
