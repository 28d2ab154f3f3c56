"""What every way to know askers by their tokens has in common."""

from collections.abc import Mapping
from typing import Protocol

from auth.principal import Principal


class Authenticator(Protocol):
    """Knows askers by the tokens that they send."""

    def lookup(self, token: str) -> Principal | None:
        """Whose token it is, if that can be said at once."""

    async def verify(self, token: str) -> Principal:
        """Whose token it is.

        :raises Unauthorized: nobody's.
        :raises Unavailable: it cannot be checked now.
        """

    def to_session(self, token: str, asker: Principal) -> dict[str, object]:
        """What a session keeps of a token that was checked; nothing that opens another."""

    def from_session(self, kept: Mapping[str, object]) -> Principal | None:
        """Whose session it is that has kept this; None if nobody's any more."""

    def expires_at(self, token: str) -> float | None:
        """When a token that was checked ends, in seconds since 1970; None if it does not by itself."""

    def reload(self) -> None:
        """Read again what it is made from; what is wrong is logged, and changes nothing."""
