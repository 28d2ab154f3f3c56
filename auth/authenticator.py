"""The interface of all methods that authenticate principals by tokens."""

from collections.abc import Mapping
from typing import Protocol

from auth.principal import Principal


class Authenticator(Protocol):
    """Authenticates principals by bearer tokens."""

    def lookup(self, token: str) -> Principal | None:
        """Return the principal of a token, or None if it is not known without :meth:`verify`."""

    async def verify(self, token: str) -> Principal:
        """Verify a token and return its principal.

        :raises Unauthorized: the token is not valid.
        :raises ServiceUnavailable: the token cannot be verified at the moment.
        """

    def to_session(self, token: str, principal: Principal) -> dict[str, object]:
        """Return what a session stores of a verified token; must not contain a valid token."""

    def from_session(self, stored: Mapping[str, object]) -> Principal | None:
        """Return the principal of a session with these contents, or None if the session is not valid any more."""

    def expires_at(self, token: str) -> float | None:
        """Return when a verified token expires, in seconds since the Unix epoch, or None if it does not expire."""

    def reload(self) -> None:
        """Load tokens or keys again. If they are invalid, log an error and keep the previous ones."""
