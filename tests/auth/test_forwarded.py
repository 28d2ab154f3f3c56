"""Whose request it is: headers that lie, chains of proxies, and who is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.options import Error

from auth.forwarded import TrustedProxies

PROXY, OTHER, CLIENT, LIAR = "10.0.0.1", "10.0.0.2", "192.0.2.7", "203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        (PROXY, [CLIENT], CLIENT),
        (PROXY, [f"{LIAR}, {CLIENT}"], CLIENT),
        (PROXY, [LIAR, CLIENT], CLIENT),
        (PROXY, [f"{LIAR}, {CLIENT}, {OTHER}"], CLIENT),
        (PROXY, [f"{OTHER},{CLIENT},{OTHER}"], CLIENT),
        (PROXY, [], PROXY),
        (PROXY, [""], PROXY),
        (PROXY, ["unknown"], PROXY),
        (PROXY, [f"{CLIENT}, unknown, {OTHER}"], OTHER),
        (PROXY, [OTHER], OTHER),
        (PROXY, [f" {CLIENT}:1234 "], CLIENT),
        (PROXY, ["[2001:db8::1]:80"], "2001:db8::1"),
        (PROXY, ["[2001:db8::1]"], "2001:db8::1"),
        (PROXY, ["2001:db8::1"], "2001:db8::1"),
        (PROXY, ["::ffff:192.0.2.7"], CLIENT),
        ("::ffff:10.0.0.1", [CLIENT], CLIENT),
        (LIAR, [CLIENT], LIAR),
        ("0.0.0.0", [CLIENT], "0.0.0.0"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxys(peer: str, headers: list[str], client: str) -> None:
    assert TrustedProxies("10.0.0.0/8, 2001:db8:ff::/48").client_address(peer, headers) == client


texts = st.text(max_size=30) | st.ip_addresses().map(str)


@given(st.ip_addresses(v=4).map(str), st.lists(texts, max_size=5), st.text(max_size=9))
def test_nobody_is_believed_unless_trusted(peer: str, headers: list[str], proto: str) -> None:
    assert not TrustedProxies("")
    assert TrustedProxies("").client_address(peer, headers) == peer
    assert TrustedProxies("").scheme(peer, "http", [proto]) == "http"


@given(st.lists(texts, max_size=5), st.ip_addresses(v=4).map(str))
def test_what_a_client_says_before_its_proxy_does_not_count(lies: list[str], client: str) -> None:
    assert TrustedProxies(PROXY).client_address(PROXY, [*lies, client]) == client or client == PROXY


@pytest.mark.parametrize(
    ("peer", "headers", "scheme"),
    [
        (PROXY, ["https"], "https"),
        (PROXY, ["https, http"], "http"),
        (PROXY, ["http", " HTTPS"], "https"),
        (PROXY, ["gopher"], "http"),
        (PROXY, [], "http"),
        (LIAR, ["https"], "http"),
    ],
)
def test_the_scheme_is_what_the_nearest_trusted_proxy_says(peer: str, headers: list[str], scheme: str) -> None:
    assert TrustedProxies(PROXY).scheme(peer, "http", headers) == scheme


@pytest.mark.parametrize("trusted", ["balancer", "10.0.0.1/99", "10.0.0.1/8", "::1::"])
def test_what_is_neither_address_nor_network_is_refused(trusted: str) -> None:
    with pytest.raises(Error, match="neither an address nor a network"):
        TrustedProxies(f"127.0.0.1 {trusted}")
