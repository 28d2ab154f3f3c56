"""Bearer tokens, known by their hashes: a file with one JSON object a line.

A token is 256 random bits. Nobody can guess one, however fast a hash can be tried, so plain SHA-256 is enough (slow
hashes are for passwords, which can be guessed). And as nobody can choose what a token's hash begins with, looking it up
in a dict tells nothing by the time it takes.
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
"""What a token begins with, so that people and scanners of leaked secrets know what it is."""

TOKEN_BYTES = 32
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
    """The askers whom a file names; those of the file as it was when it was read last and had no mistake.

    :raises Error: the file cannot be read, or a line of it is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._principals = _read(path)

    def lookup(self, token: str) -> Principal | None:
        """Whose token it is."""
        return self._principals.get(digest(token))

    async def verify(self, token: str) -> Principal:
        """Whose token it is.

        :raises Unauthorized: nobody's.
        """
        asker = self.lookup(token)
        if asker is None:
            raise Unauthorized(
                "This token is not known here. Check that it is whole, or ask for a new one.", "invalid_token"
            )
        return asker

    def to_session(self, token: str, asker: Principal) -> dict[str, object]:
        """What a session keeps of a token: enough to end with it."""
        return {"token": digest(token)}

    def from_session(self, kept: Mapping[str, object]) -> Principal | None:
        """Whose session it is; None if the token is not in the file any more."""
        return self._principals.get(str(kept.get("token")))

    def expires_at(self, token: str) -> float | None:
        """A token ends when its line is taken out of the file."""
        return None

    def reload(self) -> None:
        """Read the file again. If it is wrong, the tokens stay as they were."""
        try:
            self._principals = _read(self._path)
        except Error as error:
            log.error("The tokens stay as they were: %s", str(error))
        else:
            log.info("Read %d tokens from %s", len(self._principals), self._path)


def digest(token: str) -> str:
    """A token's SHA-256 in hexadecimal."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def create_token(path: Path, name: str, tenant: str, operator: bool) -> str:
    """Make a token and write its hash into a file, which is made if it is missing, readable for its owner only.

    :param tenant: whose conversations it opens; empty: those of ``name``.
    :returns: the token, which is kept nowhere.
    :raises Error: the file has such a name already, or is wrong.
    :raises OSError: the file cannot be written.
    """
    askers = _read(path).values() if path.exists() else []
    if any(asker.name == name for asker in askers):
        raise Error(f"{path} has a token of the name {name!r} already; choose another name, or take its line out first")
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    line = _TokenEntry(name, tenant or name, digest(token), operator)
    _check(line)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        file.seek(0)
        begun = file.read()[-1:] not in (b"", b"\n")
        file.write((b"\n" if begun else b"") + msgspec.json.encode(line) + b"\n")
    return token


def _read(path: Path) -> dict[str, Principal]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Error(f"the tokens cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise Error(f"{path} is not a file of tokens: it is not text in UTF-8") from error
    try:
        return parse(text)
    except Error as error:
        raise Error(f"{path}, {error}") from error


def parse(text: str) -> dict[str, Principal]:
    """Read the lines of a file of tokens; blank lines and those that begin with ``#`` do not count.

    :returns: the askers, by the hashes of their tokens.
    :raises Error: a line is wrong; the sentence begins with its number.
    """
    askers: dict[str, Principal] = {}
    names: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            entry = msgspec.json.decode(line, type=_TokenEntry)
            _check(entry)
            if entry.name in names or entry.sha256 in askers:
                raise Error(f"{entry.name!r} or its hash is in the file already")
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError, Error) as error:
            raise Error(f"line {number}: {error}") from error
        names.add(entry.name)
        askers[entry.sha256] = Principal(entry.tenant, entry.operator, TenantLimits(**entry.limits), entry.name)
    return askers


def _check(entry: _TokenEntry) -> None:
    if not NAME.fullmatch(entry.name):
        raise Error("name must have 1 to 100 characters and no control characters")
    if not TENANT.fullmatch(entry.tenant):
        raise Error("tenant must have at most 200 characters and no control characters")
    if not DIGEST.fullmatch(entry.sha256):
        raise Error("sha256 must be the token's SHA-256: 64 digits of 0-9 and a-f")
    if unknown := entry.limits.keys() - LIMITS:
        raise Error(f"limits has {min(unknown)!r}, which is none of {', '.join(sorted(LIMITS))}")
    if any(limit < 0 for limit in entry.limits.values()):
        raise Error("limits must be 0 or more")
