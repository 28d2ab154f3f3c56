"""The client's address and scheme behind chains of trusted and untrusted proxies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.options import Error

from auth.forwarded import TrustedProxies

PROXY, OTHER, CLIENT, UNTRUSTED = "10.0.0.1", "10.0.0.2", "192.0.2.7", "203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        (PROXY, [CLIENT], CLIENT),
        (PROXY, [f"{UNTRUSTED}, {CLIENT}"], CLIENT),
        (PROXY, [UNTRUSTED, CLIENT], CLIENT),
        (PROXY, [f"{UNTRUSTED}, {CLIENT}, {OTHER}"], CLIENT),
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
        (UNTRUSTED, [CLIENT], UNTRUSTED),
        ("0.0.0.0", [CLIENT], "0.0.0.0"),
    ],
)
def test_the_client_is_the_last_untrusted_address(peer: str, headers: list[str], client: str) -> None:
    assert TrustedProxies("10.0.0.0/8, 2001:db8:ff::/48").client_address(peer, headers) == client


texts = st.text(max_size=30) | st.ip_addresses().map(str)


@given(st.ip_addresses(v=4).map(str), st.lists(texts, max_size=5), st.text(max_size=9))
def test_headers_from_untrusted_peers_are_ignored(peer: str, headers: list[str], proto: str) -> None:
    assert not TrustedProxies("")
    assert TrustedProxies("").client_address(peer, headers) == peer
    assert TrustedProxies("").scheme(peer, "http", [proto]) == "http"


@given(st.lists(texts, max_size=5), st.ip_addresses(v=4).map(str))
def test_addresses_sent_by_the_client_are_ignored(forged: list[str], client: str) -> None:
    assert TrustedProxies(PROXY).client_address(PROXY, [*forged, client]) == client or client == PROXY


@pytest.mark.parametrize(
    ("peer", "headers", "scheme"),
    [
        (PROXY, ["https"], "https"),
        (PROXY, ["https, http"], "http"),
        (PROXY, ["http", " HTTPS"], "https"),
        (PROXY, ["gopher"], "http"),
        (PROXY, [], "http"),
        (UNTRUSTED, ["https"], "http"),
    ],
)
def test_the_scheme_is_that_of_the_nearest_trusted_proxy(peer: str, headers: list[str], scheme: str) -> None:
    assert TrustedProxies(PROXY).scheme(peer, "http", headers) == scheme


@pytest.mark.parametrize("trusted", ["balancer", "10.0.0.1/99", "10.0.0.1/8", "::1::"])
def test_an_item_that_is_not_an_address_or_network_is_rejected(trusted: str) -> None:
    with pytest.raises(Error, match="not an IP address or a network"):
        TrustedProxies(f"127.0.0.1 {trusted}")
