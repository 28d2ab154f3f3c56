"""Limits per tenant and per client address, kept in the memory of one process: N processes allow N times as much."""

import ipaddress
import math
import time
from collections.abc import Callable
from functools import lru_cache

from auth.principal import Principal
from errors import ContentTooLarge, TooManyRequests
from settings import Settings

MINUTE = 60.0
"""Seconds."""

MAX_KEYS = 50_000
"""Maximum number of tenants, and of addresses, with a bucket; about 8 MB."""

REPLY_RETRY_AFTER = 5
"""``Retry-After`` if too many replies are in progress, in seconds: it is unknown when one ends."""


class RateLimiter:
    """Token buckets, one per key, each with a capacity of one minute's tokens.

    A bucket is stored as the time at which it will be full (generic cell rate algorithm, ITU-T I.371).

    :param clock: monotonic clock, in seconds.
    :param max_keys: maximum number of buckets; beyond it the least recently used eighth is deleted, which refills it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, per_minute: int) -> float:
        """Take one token.

        :param per_minute: capacity of the bucket, and tokens added per minute; at least 1.
        :returns: 0 if a token was taken, else the seconds until the next one is available.
        """
        now = self._clock()
        full_at = max(self._full_at.pop(key, now), now) + MINUTE / per_minute
        wait = full_at - MINUTE - now
        if wait > 1e-6:  # less is a rounding error
            full_at -= MINUTE / per_minute
        self._full_at[key] = full_at  # now the most recently used
        if len(self._full_at) > self._max_keys:
            for oldest in list(self._full_at)[: max(1, self._max_keys // 8)]:
                del self._full_at[oldest]
        return wait if wait > 1e-6 else 0.0


@lru_cache(maxsize=4_096)
def network_of(address: str) -> str:
    """Return what counts as one client address: an IPv4 address, or an IPv6 /64, a subscriber's network.

    >>> network_of("2001:db8::1:2:3:4")
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
    """Enforces the limits per tenant and per address; a tenant's own limits take precedence over the settings."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._tenants = RateLimiter(clock)
        self._addresses = RateLimiter(clock)

    def check_address(self, address: str) -> None:
        """Count a request from an address.

        :raises TooManyRequests: the address exceeds ``--address-requests-per-minute``.
        """
        if per_minute := self._settings.address_requests_per_minute:
            _check(self._addresses, network_of(address), per_minute, "Your address")

    def check_tenant(self, principal: Principal) -> None:
        """Count a request of a tenant.

        :raises TooManyRequests: the tenant exceeds ``--requests-per-minute`` or its own limit.
        """
        if per_minute := _override(principal.limits.requests_per_minute, self._settings.requests_per_minute):
            _check(self._tenants, principal.tenant, per_minute, "Your account")

    def concurrency_key(self, address: str) -> str:
        """Return the key under which to count the replies for an address; empty if they are not limited."""
        return network_of(address) if self._settings.max_replies_per_address else ""

    def check_concurrent_replies(self, principal: Principal, of_tenant: int, of_address: int) -> None:
        """Check whether one more reply may be generated.

        :param of_tenant: number of the tenant's replies in progress.
        :param of_address: number of the address's replies in progress.
        :raises TooManyRequests: one of them has reached its limit.
        """
        limit = _override(principal.limits.max_replies, self._settings.max_replies_per_tenant)
        if limit and of_tenant >= limit:
            raise TooManyRequests(_too_many_replies("Your account", limit), REPLY_RETRY_AFTER)
        limit = self._settings.max_replies_per_address
        if limit and of_address >= limit:
            raise TooManyRequests(_too_many_replies("Your address", limit), REPLY_RETRY_AFTER)

    def max_prompt_characters(self, principal: Principal) -> int:
        """Return the maximum number of characters of a prompt; 0 if it is not limited."""
        return _override(principal.limits.max_prompt_characters, self._settings.max_prompt_characters)

    def check_prompt(self, principal: Principal, characters: int) -> None:
        """Check the length of a prompt.

        :raises ContentTooLarge: the prompt is too long. The status is not 429, since a retry would fail, too.
        """
        limit = self.max_prompt_characters(principal)
        if limit and characters > limit:
            raise ContentTooLarge(f"The prompt has {characters} characters; the limit is {limit}. Shorten it.")


def _override(own: int | None, setting: int) -> int:
    return setting if own is None else own


def _check(limiter: RateLimiter, key: str, per_minute: int, subject: str) -> None:
    if wait := limiter.take(key, per_minute):
        seconds = math.ceil(wait)
        raise TooManyRequests(
            f"{subject} may send {per_minute} requests per minute. Try again in {seconds} s.", max(1, seconds)
        )


def _too_many_replies(subject: str, limit: int) -> str:
    return f"{subject} may have {limit} replies in progress. Wait until one ends, or stop one."
