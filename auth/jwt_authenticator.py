"""JSON web tokens (RFC 7519) of an issuer that the operator names."""

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
"""Seconds by which the issuer's clock and ours may differ."""

LENGTH_LIMIT = 16_384
"""Characters of a token."""

CACHE_LIMIT = 10_000
"""Tokens whose signature is not checked again until they end."""


class JWTAuthenticator:
    """Knows askers by the claims that the issuer signed.

    :param settings: issuer, audience, and which claims name the tenant and the operators.
    """

    def __init__(self, settings: Settings, keys: JWKSClient) -> None:
        self._settings = settings
        self._keys = keys
        self._operator_claim, _, self._operator_value = settings.jwt_operator_claim.partition("=")
        self._cache: dict[bytes, tuple[float, Principal]] = {}
        self._version = 0

    def lookup(self, token: str) -> Principal | None:
        """Whose token it is, if it was checked before, has not ended, and the keys are still those."""
        if not self._keys.is_fresh or self._version != self._keys.version:
            return None
        key = _digest(token)
        ends, asker = self._cache.get(key, (0.0, None))
        if asker is not None and ends < time():
            del self._cache[key]
            return None
        return asker

    async def verify(self, token: str) -> Principal:
        """Whose token it is.

        :raises Unauthorized: the issuer did not sign it for us, or it has ended.
        :raises Unavailable: there are no keys to check it with.
        """
        claims = await self._claims(token)
        asker = self._principal(claims)
        if self._version != self._keys.version:
            self._cache.clear()
            self._version = self._keys.version
        if len(self._cache) >= CACHE_LIMIT:
            del self._cache[next(iter(self._cache))]
        self._cache[_digest(token)] = (float(claims["exp"]) + LEEWAY, asker)
        return asker

    async def _claims(self, token: str) -> Mapping[str, Any]:
        try:
            if len(token) > LENGTH_LIMIT:
                raise jwt.DecodeError("too long")
            key = await self._keys.find(jwt.get_unverified_header(token).get("kid"))
            if key is None:
                raise jwt.InvalidKeyError("nobody knows its key")
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=key.algorithms,
                issuer=self._settings.jwt_issuer,
                audience=self._settings.jwt_audience,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthorized("Your token has ended. Get a new one where you got it.", "invalid_token") from error
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise Unauthorized(
                "This token is not valid here. Check that it is whole, or get a new one.", "invalid_token"
            ) from error
        return claims

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        tenant = claims.get(self._settings.jwt_tenant_claim)
        if not isinstance(tenant, str) or not tenant or not TENANT.fullmatch(tenant):
            raise Unauthorized(
                f"Your token does not say whose it is: its claim {self._settings.jwt_tenant_claim} is no name.",
                "invalid_token",
            )
        name = claims.get("name")
        named = isinstance(name, str) and NAME.fullmatch(name)
        return Principal(tenant, self._is_operator(claims), name=str(name) if named else tenant)

    def _is_operator(self, claims: Mapping[str, Any]) -> bool:
        claim = claims.get(self._operator_claim) if self._operator_claim else None
        if not self._operator_value:
            return claim is True
        return self._operator_value in claim if isinstance(claim, list) else claim == self._operator_value

    def to_session(self, token: str, asker: Principal) -> dict[str, object]:
        """What a session keeps of a token: whose it is. It ends when the token would have."""
        issuer = self._settings.jwt_issuer
        return {"issuer": issuer, "tenant": asker.tenant, "operator": asker.operator, "name": asker.name}

    def from_session(self, kept: Mapping[str, object]) -> Principal | None:
        """Whose session it is."""
        if kept.get("issuer") != self._settings.jwt_issuer:
            return None  # of the time when --auth or the issuer was another
        return Principal(str(kept["tenant"]), kept.get("operator") is True, name=str(kept.get("name")))

    def expires_at(self, token: str) -> float | None:
        """When a token that was checked ends, in seconds since 1970."""
        return self._cache[_digest(token)][0]

    def reload(self) -> None:
        """Take other keys, if there are."""
        self._keys.reload()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
