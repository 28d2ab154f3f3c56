"""How much one tenant, and one address, may ask of this process. In memory only: N processes allow N times as much."""

import ipaddress
import math
import time
from collections.abc import Callable
from functools import lru_cache

from auth.principal import Principal
from errors import ContentTooLarge, TooManyRequests
from settings import Settings

MINUTE = 60.0

KEYS_LIMIT = 50_000
"""Tenants, and addresses, that are remembered at once: 8 MB."""

REPLY_SECONDS = 5
"""Seconds after which to ask again for a reply where too many are generated; nobody knows when one ends."""


class RateLimiter:
    """Token buckets, one for each key: a minute's worth at once, refilled evenly.

    Kept is, for each key, the time at which its bucket will be full again (the generic cell rate algorithm, ITU-T
    I.371): one number, and none for a full bucket.

    :param clock: seconds, never going back.
    :param most: keys remembered; beyond that, an eighth of them, that have not asked for longest, start anew.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = KEYS_LIMIT) -> None:
        self._clock = clock
        self._most = most
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, per_minute: int) -> float:
        """Take one token.

        :param per_minute: how many a full bucket holds, and how many come in a minute; 1 or more.
        :returns: 0, or for how many seconds there will be none.
        """
        now = self._clock()
        full_at = max(self._full_at.pop(key, now), now) + MINUTE / per_minute
        wait = full_at - MINUTE - now
        if wait > 1e-6:  # less is only rounding
            full_at -= MINUTE / per_minute
        self._full_at[key] = full_at  # as the youngest
        if len(self._full_at) > self._most:
            for oldest in list(self._full_at)[: max(1, self._most // 8)]:
                del self._full_at[oldest]
        return wait if wait > 1e-6 else 0.0


@lru_cache(maxsize=4_096)
def network_of(address: str) -> str:
    """Who counts as one address: an IPv4 address, or an IPv6 network of /64, which is what one household is given.

    >>> block("2001:db8::1:2:3:4")
    '2001:db8::/64'
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))


class RequestLimiter:
    """The limits of ``--requests-per-minute`` and its neighbours; a tenant's own come first."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._tenants = RateLimiter(clock)
        self._addresses = RateLimiter(clock)

    def check_address(self, address: str) -> None:
        """Count a request from an address.

        :raises TooManyRequests: it has sent too many.
        """
        if per_minute := self._settings.address_requests_per_minute:
            _check(self._addresses, network_of(address), per_minute, "Your address")

    def check_tenant(self, asker: Principal) -> None:
        """Count a request of a tenant.

        :raises TooManyRequests: it has sent too many.
        """
        if per_minute := _override(asker.limits.requests_per_minute, self._settings.requests_per_minute):
            _check(self._tenants, asker.tenant, per_minute, "Your account")

    def concurrency_key(self, address: str) -> str:
        """By what name replies for an address are counted; empty if they are not."""
        return network_of(address) if self._settings.max_replies_per_address else ""

    def check_concurrent_replies(self, asker: Principal, of_tenant: int, of_address: int) -> None:
        """Let one more reply be generated.

        :param of_tenant: how many are being generated for the tenant.
        :param of_address: how many for the address.
        :raises TooManyRequests: that is as many as may be.
        """
        most = _override(asker.limits.max_replies, self._settings.max_replies_per_tenant)
        if most and of_tenant >= most:
            raise TooManyRequests(_too_many_replies("Your account", most), REPLY_SECONDS)
        most = self._settings.max_replies_per_address
        if most and of_address >= most:
            raise TooManyRequests(_too_many_replies("Your address", most), REPLY_SECONDS)

    def max_prompt_characters(self, asker: Principal) -> int:
        """How many characters a prompt may have; 0 if that does not matter."""
        return _override(asker.limits.max_prompt_characters, self._settings.max_prompt_characters)

    def check_prompt(self, asker: Principal, characters: int) -> None:
        """Let a prompt be answered.

        :raises TooLarge: it is longer than it may be. Not 429: to try it again would not help.
        """
        most = self.max_prompt_characters(asker)
        if most and characters > most:
            raise ContentTooLarge(f"The prompt has {characters} characters; it may have {most}. Shorten it.")


def _override(own: int | None, setting: int) -> int:
    return setting if own is None else own


def _check(rates: RateLimiter, key: str, per_minute: int, who: str) -> None:
    if wait := rates.take(key, per_minute):
        seconds = math.ceil(wait)
        raise TooManyRequests(
            f"{who} may send {per_minute} requests in a minute. Try again in {seconds} s.", max(1, seconds)
        )


def _too_many_replies(who: str, most: int) -> str:
    return f"{who} may have {most} replies generated at once. Wait for the end of one, or stop it."
