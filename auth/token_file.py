"""Authentication by bearer tokens whose hashes are in a file, one JSON object per line.

A token consists of 256 random bits, so a fast hash (SHA-256) is sufficient: slow hashes protect passwords, which have
less entropy. The lookup in a dict need not take constant time, because its duration depends only on the hash, and
clients cannot choose prefixes of SHA-256 hashes.
"""

import dataclasses
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec
from tornado.options import Error

from auth.principal import Principal, TenantLimits
from errors import Unauthorized

log = logging.getLogger("chatterd.auth")

PREFIX = "chatterd_"
"""Prefix of all tokens, by which users and secret scanners recognise them."""

TOKEN_BYTES = 32
"""Random bytes of a token."""

NAME = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,100}")
TENANT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,200}")
DIGEST = re.compile(r"[0-9a-f]{64}")
LIMITS = {field.name for field in dataclasses.fields(TenantLimits)}


class _TokenEntry(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    tenant: str
    sha256: str
    operator: bool = False
    limits: dict[str, int] = {}


class TokenFileAuthenticator:
    """Authenticates the principals listed in a token file.

    :raises tornado.options.Error: the file cannot be read, or is not valid.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._principals = _read(path)

    def lookup(self, token: str) -> Principal | None:
        """Return the principal of a token, or None if the token is unknown."""
        return self._principals.get(digest(token))

    async def verify(self, token: str) -> Principal:
        """Return the principal of a token.

        :raises Unauthorized: the token is unknown.
        """
        principal = self.lookup(token)
        if principal is None:
            raise Unauthorized("The token is not valid. Check that it is complete, or get a new one.", "invalid_token")
        return principal

    def to_session(self, token: str, principal: Principal) -> dict[str, object]:
        """Return the token's hash: the session becomes invalid when the token is removed from the file."""
        return {"token": digest(token)}

    def from_session(self, stored: Mapping[str, object]) -> Principal | None:
        """Return the principal, or None if the token is not in the file any more."""
        return self._principals.get(str(stored.get("token")))

    def expires_at(self, token: str) -> float | None:
        """Return None: tokens are valid until they are removed from the file."""
        return None

    def reload(self) -> None:
        """Load the file again. If it is not valid, log an error and keep the previous tokens."""
        try:
            self._principals = _read(self._path)
        except Error as error:
            log.error("The tokens were not reloaded; the previous ones remain valid: %s", str(error))
        else:
            log.info("Loaded %d tokens from %s", len(self._principals), self._path)


def digest(token: str) -> str:
    """Return a token's SHA-256 in hexadecimal."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def create_token(path: Path, name: str, tenant: str, operator: bool) -> str:
    """Create a token and append its hash to a file, which is created with mode 600 if it does not exist.

    :param name: name of the token, unique in the file.
    :param tenant: tenant whose conversations the token gives access to; empty: ``name``.
    :param operator: whether the token gives access to the metrics and status of the server.
    :returns: the token, which is not stored.
    :raises tornado.options.Error: the file is not valid, or already has a token of this name.
    :raises OSError: the file cannot be written.
    """
    principals = _read(path).values() if path.exists() else []
    if any(principal.name == name for principal in principals):
        raise Error(f"{path} already has a token named {name!r}; choose another name, or remove its line first")
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    entry = _TokenEntry(name, tenant or name, digest(token), operator)
    _check(entry)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        file.seek(0)
        incomplete_line = file.read()[-1:] not in (b"", b"\n")
        file.write((b"\n" if incomplete_line else b"") + msgspec.json.encode(entry) + b"\n")
    return token


def _read(path: Path) -> dict[str, Principal]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Error(f"the token file cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise Error(f"{path} is not a token file: it is not encoded in UTF-8") from error
    try:
        return parse(text)
    except Error as error:
        raise Error(f"{path}, {error}") from error


def parse(text: str) -> dict[str, Principal]:
    """Parse the lines of a token file; blank lines and lines that begin with ``#`` are ignored.

    :returns: the principals by the hashes of their tokens.
    :raises tornado.options.Error: a line is not valid; the message begins with its number.
    """
    principals: dict[str, Principal] = {}
    names: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            entry = msgspec.json.decode(line, type=_TokenEntry)
            _check(entry)
            if entry.name in names:
                raise Error(f"duplicate name {entry.name!r}")
            if entry.sha256 in principals:
                raise Error("duplicate sha256")
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError, Error) as error:
            raise Error(f"line {number}: {error}") from error
        names.add(entry.name)
        principals[entry.sha256] = Principal(entry.tenant, entry.operator, TenantLimits(**entry.limits), entry.name)
    return principals


def _check(entry: _TokenEntry) -> None:
    if not NAME.fullmatch(entry.name):
        raise Error("name must have 1 to 100 characters and no control characters")
    if not TENANT.fullmatch(entry.tenant):
        raise Error("tenant must have at most 200 characters and no control characters")
    if not DIGEST.fullmatch(entry.sha256):
        raise Error("sha256 must be the token's SHA-256 in 64 lowercase hexadecimal digits")
    if unknown := entry.limits.keys() - LIMITS:
        raise Error(f"limits has {min(unknown)!r}; valid names are {', '.join(sorted(LIMITS))}")
    if any(limit < 0 for limit in entry.limits.values()):
        raise Error("limits must be 0 or more")
