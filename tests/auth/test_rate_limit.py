"""Rates on a clock of the test's own: never more than promised, never less, and memory that ends."""

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
    """Seconds, as the test says."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


pauses = st.lists(st.sampled_from([0.0, 0.0, 0.01, 1.0, 7.0, 61.0]) | st.floats(0, 120), min_size=1, max_size=80)
rates = st.integers(1, 12)


@given(rates, pauses)
def test_no_more_pass_than_a_minutes_worth_and_what_was_refilled(per_minute: int, waits: list[float]) -> None:
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
def test_who_is_told_to_wait_passes_after_that_and_not_before(per_minute: int, waits: list[float]) -> None:
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
def test_who_keeps_the_pace_is_never_refused_and_may_begin_with_a_minutes_worth(per_minute: int, count: int) -> None:
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


def test_a_flood_of_addresses_costs_bounded_memory_and_forgets_those_that_are_silent_first() -> None:
    clock = Clock()
    bucket = RateLimiter(clock, most=80)
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
        ("what?", "what?"),
    ],
)
def test_what_counts_as_one_address(address: str, expected: str) -> None:
    assert network_of(address) == expected


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_all_of_a_network_of_64_bits_is_one_address(address: ipaddress.IPv6Address, host: int) -> None:
    other = ipaddress.IPv6Address((int(address) >> 64 << 64) | host)
    if not address.ipv4_mapped and not other.ipv4_mapped:
        assert network_of(str(address)) == network_of(str(other))


def test_without_settings_nothing_is_limited_and_nothing_remembered() -> None:
    limits = RequestLimiter(Settings(), Clock())
    for number in range(1_000):
        limits.check_address(f"10.0.0.{number}")
        limits.check_tenant(UNAUTHENTICATED)
    limits.check_concurrent_replies(UNAUTHENTICATED, 10**6, 10**6)
    limits.check_prompt(UNAUTHENTICATED, 10**9)
    assert limits.concurrency_key("10.0.0.1") == ""
    assert len(limits._tenants) == len(limits._addresses) == 0


def test_a_tenants_own_limits_come_before_the_settings() -> None:
    limits = RequestLimiter(Settings(requests_per_minute=1, max_replies_per_tenant=1, max_prompt_characters=1), Clock())
    rich, free = Principal("rich", limits=TenantLimits(3, 3, 3)), Principal("free", limits=TenantLimits(0, 0, 0))
    for _ in range(3):
        limits.check_tenant(rich)
    for _ in range(100):
        limits.check_tenant(free)
    limits.check_tenant(UNAUTHENTICATED)
    limits.check_concurrent_replies(rich, 2, 0)
    limits.check_concurrent_replies(free, 100, 0)
    limits.check_prompt(rich, 3)
    limits.check_prompt(free, 10**9)
    for asker in (rich, UNAUTHENTICATED):
        with pytest.raises(TooManyRequests):
            limits.check_tenant(asker)
        with pytest.raises(TooManyRequests):
            limits.check_concurrent_replies(asker, 3, 0)
        with pytest.raises(ContentTooLarge):
            limits.check_prompt(asker, 4)


def test_a_refusal_says_how_much_is_allowed_and_when_to_try_again() -> None:
    limits = RequestLimiter(Settings(address_requests_per_minute=7), Clock())
    for _ in range(7):
        limits.check_address("10.0.0.1")
    with pytest.raises(TooManyRequests) as refused:
        limits.check_address("10.0.0.1")
    assert int(refused.value.headers["Retry-After"]) == math.ceil(60 / 7)
    assert "7 requests" in str(refused.value)
