"""Rate limits with a clock set by the test: exact rates and bounded memory."""

import ipaddress
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.principal import UNAUTHENTICATED, Principal, TenantLimits
from auth.rate_limit import MINUTE, RateLimiter, RequestLimiter, network_of
from errors import ContentTooLarge, TooManyRequests
from settings import Settings


class Clock:
    """A clock set by the test, in seconds."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


pauses = st.lists(st.sampled_from([0.0, 0.0, 0.01, 1.0, 7.0, 61.0]) | st.floats(0, 120), min_size=1, max_size=80)
rates = st.integers(1, 12)


@given(rates, pauses)
def test_at_most_one_bucket_and_what_was_refilled_passes(per_minute: int, waits: list[float]) -> None:
    clock = Clock()
    bucket = RateLimiter(clock)
    passed = []
    for wait in waits:
        clock.now += wait
        if not bucket.take("a", per_minute):
            passed.append(clock.now)
    for first, since in enumerate(passed):
        for last, until in enumerate(passed[first:], first):
            assert last - first + 1 <= per_minute * (1 + (until - since) / MINUTE) + 1e-3


@given(rates, pauses)
def test_a_token_is_available_exactly_after_the_returned_time(per_minute: int, waits: list[float]) -> None:
    clock = Clock()
    bucket = RateLimiter(clock)
    for wait in waits:
        clock.now += wait
        seconds = bucket.take("a", per_minute)
        assert 0 <= seconds <= MINUTE / per_minute + 1e-3
        if seconds > 0.001:
            clock.now += seconds / 2
            assert bucket.take("a", per_minute) > 0
            clock.now += seconds / 2 + 1e-5
            assert bucket.take("a", per_minute) == 0


@given(rates, st.integers(1, 100))
def test_a_full_bucket_and_then_a_constant_rate_pass(per_minute: int, count: int) -> None:
    clock = Clock()
    bucket = RateLimiter(clock)
    assert not any(bucket.take("a", per_minute) for _ in range(per_minute))
    for _ in range(count):
        clock.now += MINUTE / per_minute
        assert bucket.take("a", per_minute) == 0


def test_each_key_has_its_own_bucket() -> None:
    bucket = RateLimiter(Clock())
    assert bucket.take("a", 1) == 0 and bucket.take("b", 1) == 0
    assert bucket.take("a", 1) > 0


def test_memory_is_bounded_and_the_least_recently_used_keys_are_deleted_first() -> None:
    clock = Clock()
    bucket = RateLimiter(clock, max_keys=80)
    for number in range(10_000):
        bucket.take(f"{number}", 1)
        assert bucket.take("busy", 1) > 0 or number == 0
        assert len(bucket) <= 80


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("0.0.0.0", "0.0.0.0"),
        ("unknown", "unknown"),
    ],
)
def test_what_counts_as_one_address(address: str, expected: str) -> None:
    assert network_of(address) == expected


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_all_addresses_of_an_ipv6_64_count_as_one(address: ipaddress.IPv6Address, host: int) -> None:
    other = ipaddress.IPv6Address((int(address) >> 64 << 64) | host)
    if not address.ipv4_mapped and not other.ipv4_mapped:
        assert network_of(str(address)) == network_of(str(other))


def test_without_settings_nothing_is_limited_or_stored() -> None:
    limits = RequestLimiter(Settings(), Clock())
    for number in range(1_000):
        limits.check_address(f"10.0.0.{number}")
        limits.check_tenant(UNAUTHENTICATED)
    limits.check_concurrent_replies(UNAUTHENTICATED, 10**6, 10**6)
    limits.check_prompt(UNAUTHENTICATED, 10**9)
    assert limits.concurrency_key("10.0.0.1") == ""
    assert len(limits._tenants) == len(limits._addresses) == 0


def test_a_tenants_own_limits_take_precedence_over_the_settings() -> None:
    limits = RequestLimiter(Settings(requests_per_minute=1, max_replies_per_tenant=1, max_prompt_characters=1), Clock())
    higher, unlimited = Principal("a", limits=TenantLimits(3, 3, 3)), Principal("b", limits=TenantLimits(0, 0, 0))
    for _ in range(3):
        limits.check_tenant(higher)
    for _ in range(100):
        limits.check_tenant(unlimited)
    limits.check_tenant(UNAUTHENTICATED)
    limits.check_concurrent_replies(higher, 2, 0)
    limits.check_concurrent_replies(unlimited, 100, 0)
    limits.check_prompt(higher, 3)
    limits.check_prompt(unlimited, 10**9)
    for principal in (higher, UNAUTHENTICATED):
        with pytest.raises(TooManyRequests):
            limits.check_tenant(principal)
        with pytest.raises(TooManyRequests):
            limits.check_concurrent_replies(principal, 3, 0)
        with pytest.raises(ContentTooLarge):
            limits.check_prompt(principal, 4)


def test_the_error_contains_the_limit_and_retry_after() -> None:
    limits = RequestLimiter(Settings(address_requests_per_minute=7), Clock())
    for _ in range(7):
        limits.check_address("10.0.0.1")
    with pytest.raises(TooManyRequests) as rejected:
        limits.check_address("10.0.0.1")
    assert int(rejected.value.headers["Retry-After"]) == math.ceil(60 / 7)
    assert "7 requests" in str(rejected.value)
