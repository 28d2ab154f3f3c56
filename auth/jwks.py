"""Public keys for verifying JSON Web Tokens: a JSON Web Key Set (RFC 7517) from a file or from the issuer's URL."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import jwt
import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.iostream import UnsatisfiableReadError
from tornado.options import Error

from errors import ServiceUnavailable

log = logging.getLogger("chatterd.auth")

LIFETIME = 3_600.0
"""Seconds after which keys are fetched again from a URL."""

REFETCH_INTERVAL = 10.0
"""Minimum seconds between two fetches, however many tokens name unknown keys."""

FETCH_TIMEOUT = 5.0
"""Seconds for connecting, and for the whole fetch."""

SIZE_LIMIT = 1_048_576
"""Maximum bytes of a key set."""

MIN_RSA_BITS = 2_048
"""Shorter RSA keys are ignored (RFC 7518, section 3.3)."""

ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
}
"""Algorithms by key type or curve. All are asymmetric, so that a public key is never used as a shared secret."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key and the algorithms it may be used with."""

    key: Any
    algorithms: tuple[str, ...]


class JWKSClient:
    """Finds keys by their ids.

    :param source: path, or https URL (http is allowed for loopback addresses only).
    :ivar version: incremented when the keys change.
    :raises tornado.options.Error: the file cannot be read or contains no usable key, or the URL is not valid.
    """

    def __init__(self, source: str) -> None:
        self.version = 0
        self._source = source
        self._keys: Mapping[str, Key] = {}
        self._is_url = "://" in source
        self._body = b""
        self._fresh_until = 0.0
        self._next_fetch = 0.0
        self._lock = asyncio.Lock()
        if self._is_url:
            _check_url(source)
            self._client = AsyncHTTPClient(force_instance=True, max_body_size=SIZE_LIMIT)
        else:
            self._keys = _read(Path(source))

    @property
    def is_fresh(self) -> bool:
        """Whether the keys need not be fetched again."""
        return not self._is_url or monotonic() < self._fresh_until

    async def find(self, id: str | None) -> Key | None:
        """Find a key, after fetching the keys again if it is unknown or the keys are not fresh.

        :param id: the token's header parameter ``kid``; None finds the key of a set that contains only one.
        :raises ServiceUnavailable: there are no keys, and none can be fetched.
        """
        if not self.is_fresh:
            await self._refetch()
        found = self._find(id)
        if found is None and self._is_url:
            await self._refetch()
            found = self._find(id)
        if not self._keys:
            raise ServiceUnavailable("The keys for verifying tokens cannot be fetched. Try again in a moment.")
        return found

    def _find(self, id: str | None) -> Key | None:
        if id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(id)

    async def open(self) -> None:
        """Fetch the keys of a URL for the first time. If that fails, the first token to verify repeats it."""
        if self._is_url:
            await self._refetch()
            self._next_fetch = 0.0

    async def _refetch(self) -> None:
        """Fetch the keys, at most once per :data:`REFETCH_INTERVAL`. If that fails, keep the previous ones."""
        async with self._lock:
            if monotonic() < self._next_fetch:
                return
            try:
                response = await self._client.fetch(
                    self._source, connect_timeout=FETCH_TIMEOUT, request_timeout=FETCH_TIMEOUT, follow_redirects=False
                )
                if response.body != self._body:
                    self._replace_keys(parse(response.body))
                    self._body = response.body
                self._fresh_until = monotonic() + LIFETIME
            except (HTTPClientError, UnsatisfiableReadError, OSError, Error) as error:
                self._fresh_until = max(self._fresh_until, monotonic() + REFETCH_INTERVAL)
                log.warning("The keys cannot be fetched from %s: %s", self._source, str(error))
            self._next_fetch = monotonic() + REFETCH_INTERVAL

    def _replace_keys(self, keys: Mapping[str, Key]) -> None:
        self._keys = keys
        self.version += 1

    def reload(self) -> None:
        """Read the file again, or fetch the keys of a URL with the next token. Keep the previous keys if that fails."""
        if self._is_url:
            self._fresh_until = self._next_fetch = 0.0
            return
        try:
            self._replace_keys(_read(Path(self._source)))
        except Error as error:
            log.error("The keys were not reloaded; the previous ones remain in use: %s", str(error))

    def close(self) -> None:
        """Close the HTTP client."""
        if self._is_url:
            self._client.close()


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        _ = parts.port
    except ValueError as error:
        raise Error("--jwt-keys is not a valid URL") from error
    if "@" in parts.netloc:
        raise Error("--jwt-keys must not contain a password, which would appear in the log")
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise Error(
            f"--jwt-keys must be a file or an https URL, not {url}: keys sent over http could be replaced in transit"
        )


def _read(path: Path) -> Mapping[str, Key]:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise Error(f"the file of --jwt-keys cannot be read: {error}") from error
    except Error as error:
        raise Error(f"{path}: {error}") from error


def parse(text: bytes) -> Mapping[str, Key]:
    """Parse a JSON Web Key Set. Keys that are not for signatures or not supported are ignored.

    :returns: the usable keys by their ids.
    :raises tornado.options.Error: the text is not a key set, or contains no usable key.
    """
    try:
        entries = msgspec.json.decode(text, type=dict[str, Any]).get("keys")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Error(f"not a JSON Web Key Set: {error}") from error
    keys = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict) and (key := _key(entry)):
            keys[str(entry.get("kid", f"#{number}"))] = key
    if not keys:
        raise Error("no usable key: public keys of type (kty) RSA, EC or OKP are required")
    return keys


def _key(entry: dict[str, Any]) -> Key | None:
    kind = entry.get("kty")
    algorithms = ALGORITHMS.get(str(kind if kind == "RSA" else entry.get("crv")), ())
    if "alg" in entry:
        algorithms = tuple(name for name in algorithms if name == entry["alg"])
    if kind not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig" or "d" in entry or not algorithms:
        return None
    try:
        key = jwt.PyJWK(entry, algorithms[0]).key
    except jwt.PyJWTError:
        return None
    return Key(key, algorithms) if getattr(key, "key_size", MIN_RSA_BITS) >= MIN_RSA_BITS or kind != "RSA" else None
