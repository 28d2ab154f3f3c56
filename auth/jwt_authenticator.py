"""Authentication by JSON Web Tokens (RFC 7519) of one issuer."""

import hashlib
from collections.abc import Mapping
from time import time
from typing import Any

import jwt

from auth.jwks import JWKSClient
from auth.principal import Principal
from auth.token_file import NAME, TENANT
from errors import Unauthorized
from settings import Settings

LEEWAY = 30
"""Tolerated difference between the issuer's clock and the local one, in seconds."""

LENGTH_LIMIT = 16_384
"""Maximum characters of a token."""

CACHE_LIMIT = 10_000
"""Maximum number of verified tokens that are not verified again until they expire."""


class JWTAuthenticator:
    """Authenticates principals by the claims of tokens that the issuer signed.

    :param settings: ``jwt_*``: issuer, audience, and the claims that name the tenant and mark operators.
    :param keys: the issuer's public keys.
    """

    def __init__(self, settings: Settings, keys: JWKSClient) -> None:
        self._settings = settings
        self._keys = keys
        self._operator_claim, _, self._operator_value = settings.jwt_operator_claim.partition("=")
        self._cache: dict[bytes, tuple[float, Principal]] = {}
        self._version = 0

    def lookup(self, token: str) -> Principal | None:
        """Return the principal of a token that was verified with the current keys and has not expired."""
        if not self._keys.is_fresh or self._version != self._keys.version:
            return None
        key = _digest(token)
        expires, principal = self._cache.get(key, (0.0, None))
        if principal is not None and expires < time():
            del self._cache[key]
            return None
        return principal

    async def verify(self, token: str) -> Principal:
        """Verify signature and claims of a token and return its principal.

        :raises Unauthorized: the token is not valid, or has expired.
        :raises ServiceUnavailable: there are no keys, and none can be fetched.
        """
        claims, expires = await self._claims(token)
        principal = self._principal(claims)
        if self._version != self._keys.version:
            self._cache.clear()
            self._version = self._keys.version
        if len(self._cache) >= CACHE_LIMIT:
            del self._cache[next(iter(self._cache))]
        self._cache[_digest(token)] = (expires + LEEWAY, principal)
        return principal

    async def _claims(self, token: str) -> tuple[Mapping[str, Any], float]:
        """Verify a token and return its claims, and when it expires, in seconds since the Unix epoch."""
        try:
            if len(token) > LENGTH_LIMIT:
                raise jwt.DecodeError("too long")
            key = await self._keys.find(jwt.get_unverified_header(token).get("kid"))
            if key is None:
                raise jwt.InvalidKeyError("unknown key")
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=key.algorithms,
                issuer=self._settings.jwt_issuer,
                audience=self._settings.jwt_audience,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud"]},
            )
            expires = float(claims["exp"])
        except jwt.ExpiredSignatureError as error:
            raise Unauthorized("The token has expired. Get a new one from its issuer.", "invalid_token") from error
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as error:
            raise Unauthorized(
                "The token is not valid. Check that it is complete, or get a new one.", "invalid_token"
            ) from error
        return claims, expires

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        tenant = claims.get(self._settings.jwt_tenant_claim)
        if not isinstance(tenant, str) or not tenant or not TENANT.fullmatch(tenant):
            raise Unauthorized(
                f"The token names no tenant: its claim {self._settings.jwt_tenant_claim} is missing or not valid.",
                "invalid_token",
            )
        name = claims.get("name")
        is_valid = isinstance(name, str) and NAME.fullmatch(name)
        return Principal(tenant, self._is_operator(claims), name=str(name) if is_valid else tenant)

    def _is_operator(self, claims: Mapping[str, Any]) -> bool:
        claim = claims.get(self._operator_claim) if self._operator_claim else None
        if not self._operator_value:
            return claim is True
        return self._operator_value in claim if isinstance(claim, list) else claim == self._operator_value

    def to_session(self, token: str, principal: Principal) -> dict[str, object]:
        """Return issuer and principal. The session expires with the token."""
        issuer = self._settings.jwt_issuer
        return {"issuer": issuer, "tenant": principal.tenant, "operator": principal.operator, "name": principal.name}

    def from_session(self, stored: Mapping[str, object]) -> Principal | None:
        """Return the principal, or None if the session was issued with another ``--auth`` or issuer."""
        if stored.get("issuer") != self._settings.jwt_issuer:
            return None
        return Principal(str(stored["tenant"]), stored.get("operator") is True, name=str(stored.get("name")))

    def expires_at(self, token: str) -> float | None:
        """Return when a verified token expires, in seconds since the Unix epoch."""
        return self._cache[_digest(token)][0]

    def reload(self) -> None:
        """Load the keys again."""
        self._keys.reload()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
