"""The public keys that sign JSON web tokens (RFC 7517), from a file or from where the issuer publishes them."""

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
"""Seconds after which published keys are fetched again."""

REFETCH_INTERVAL = 10.0
"""Seconds between two fetches, however many tokens name keys that nobody knows."""

FETCH_TIMEOUT = 5.0
SIZE_LIMIT = 1_048_576

RSA_BITS = 2_048
"""Shorter keys are not used (RFC 7518, section 3.3)."""

ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
}
"""What a key of each kind, or on each curve, may sign. All asymmetric: a public key is
never taken for a shared secret."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, and what it may sign."""

    key: Any
    algorithms: tuple[str, ...]


class JWKSClient:
    """Finds keys by their ids.

    :param source: a path, or an https URL (http for this machine only).
    :ivar version: another number whenever the keys are others.
    :raises Error: the file cannot be read or holds no key, or the URL is none.
    """

    def __init__(self, source: str) -> None:
        self.version = 0
        self._source = source
        self._keys: Mapping[str, Key] = {}
        self._published = "://" in source
        self._body = b""
        self._fresh_until = 0.0
        self._next_fetch = 0.0
        self._lock = asyncio.Lock()
        if self._published:
            _check_url(source)
            self._client = AsyncHTTPClient(force_instance=True, max_body_size=SIZE_LIMIT)
        else:
            self._keys = _read(Path(source))

    @property
    def is_fresh(self) -> bool:
        """Whether the keys need not be fetched again yet."""
        return not self._published or monotonic() < self._fresh_until

    async def find(self, id: str | None) -> Key | None:
        """Find a key, among newly fetched ones if need be; without an id, the only one there is.

        :raises Unavailable: there are no keys yet, and none can be fetched.
        """
        if not self.is_fresh:
            await self._refetch()
        found = self._find(id)
        if found is None and self._published:
            await self._refetch()
            found = self._find(id)
        if not self._keys:
            raise ServiceUnavailable("The keys that tokens are checked with cannot be fetched. Try again in a moment.")
        return found

    def _find(self, id: str | None) -> Key | None:
        if id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(id)

    async def open(self) -> None:
        """Fetch published keys for the first time. If that fails, the first token to check tries again."""
        if self._published:
            await self._refetch()
            self._next_fetch = 0.0

    async def _refetch(self) -> None:
        """Fetch the keys, unless that was done just now. If it fails, those that are there stay."""
        async with self._lock:
            if monotonic() < self._next_fetch:
                return
            try:
                answer = await self._client.fetch(
                    self._source, connect_timeout=FETCH_TIMEOUT, request_timeout=FETCH_TIMEOUT, follow_redirects=False
                )
                if answer.body != self._body:
                    self._replace_keys(parse(answer.body))
                    self._body = answer.body
                self._fresh_until = monotonic() + LIFETIME
            except (HTTPClientError, UnsatisfiableReadError, OSError, Error) as error:
                self._fresh_until = max(self._fresh_until, monotonic() + REFETCH_INTERVAL)
                log.warning("The keys cannot be fetched from %s: %s", self._source, str(error))
            self._next_fetch = monotonic() + REFETCH_INTERVAL

    def _replace_keys(self, keys: Mapping[str, Key]) -> None:
        self._keys = keys
        self.version += 1

    def reload(self) -> None:
        """Read the file again, or have published keys fetched with the next token. Keys stay if the file is wrong."""
        if self._published:
            self._fresh_until = self._next_fetch = 0.0
            return
        try:
            self._replace_keys(_read(Path(self._source)))
        except Error as error:
            log.error("The keys stay as they were: %s", str(error))

    def close(self) -> None:
        """Fetch nothing any more."""
        if self._published:
            self._client.close()


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        _ = parts.port
    except ValueError as error:
        raise Error("--jwt-keys is neither a file nor a URL") from error
    if "@" in parts.netloc:
        raise Error("--jwt-keys may not hold a password: it would be in the log")
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise Error(
            f"--jwt-keys must be a file or an https URL, not {url}: who can change keys on the way can sign tokens"
        )


def _read(path: Path) -> Mapping[str, Key]:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise Error(f"the keys cannot be read: {error}") from error
    except Error as error:
        raise Error(f"{path}: {error}") from error


def parse(text: bytes) -> Mapping[str, Key]:
    """Read a JSON web key set. Keys that are not for signatures, or that this cannot use, are left out.

    :raises Error: it is none, or no key is left.
    """
    try:
        listed = msgspec.json.decode(text, type=dict[str, Any]).get("keys")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Error(f"not a JSON web key set: {error}") from error
    keys = {}
    for number, one in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(one, dict) and (key := _key(one)):
            keys[str(one.get("kid", f"#{number}"))] = key
    if not keys:
        raise Error("no key in it can be used: it needs public keys of kty RSA, EC or OKP")
    return keys


def _key(listed: dict[str, Any]) -> Key | None:
    kind = listed.get("kty")
    algorithms = ALGORITHMS.get(str(kind if kind == "RSA" else listed.get("crv")), ())
    if "alg" in listed:
        algorithms = tuple(name for name in algorithms if name == listed["alg"])
    if kind not in ("RSA", "EC", "OKP") or listed.get("use", "sig") != "sig" or "d" in listed or not algorithms:
        return None
    try:
        key = jwt.PyJWK(listed, algorithms[0]).key
    except jwt.PyJWTError:
        return None
    return Key(key, algorithms) if getattr(key, "key_size", RSA_BITS) >= RSA_BITS or kind != "RSA" else None
