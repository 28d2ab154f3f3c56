"""The origins from which unsafe requests are accepted."""

import pytest
from tornado.options import Error

from auth.origins import AllowedOrigins, parse_origins

ALLOWED = parse_origins("https://chat.example.org, http://LOCALHOST:5173")


@pytest.mark.parametrize(
    ("origin", "host", "secure", "allowed"),
    [
        (None, "a.example", False, True),  # not a browser
        ("http://a.example", "a.example", False, True),
        ("http://a.example:8000", "a.example:8000", False, True),
        ("http://A.example", "a.EXAMPLE", False, True),
        ("http://[::1]:8000", "[::1]:8000", False, True),
        ("https://a.example", "a.example", False, True),  # TLS is terminated by a proxy
        ("https://a.example", "a.example:443", False, True),
        ("http://a.example", "a.example:80", False, True),
        ("https://a.example", "a.example", True, True),
        ("http://a.example", "a.example", True, False),  # plain HTTP cannot reach a TLS port
        ("https://a.example", "a.example:8000", False, False),
        ("http://a.example:8001", "a.example:8000", False, False),
        ("https://a.example.evil.example", "a.example", False, False),
        ("https://evil.example", "a.example", False, False),
        ("null", "a.example", False, False),
        ("", "", False, False),
        ("a.example", "a.example", False, False),
        ("capacitor://localhost", "localhost", False, False),  # pages of an app, not those of port 80
        ("https://chat.example.org", "a.example", False, True),
        ("http://localhost:5173", "a.example", True, True),
        ("http://chat.example.org", "a.example", False, False),
        ("https://chat.example.org:8443", "a.example", False, False),
    ],
)
def test_the_same_host_and_allowed_origins_are_accepted(
    origin: str | None, host: str, secure: bool, allowed: bool
) -> None:
    assert ALLOWED.allow(origin, None, host, secure) is allowed


@pytest.mark.parametrize(
    ("site", "allowed"), [("same-origin", True), ("none", True), ("same-site", False), ("cross-site", False)]
)
def test_without_origin_sec_fetch_site_decides(site: str, allowed: bool) -> None:
    assert AllowedOrigins().allow(None, site, "a.example", False) is allowed


def test_origins_are_serialised_as_by_browsers() -> None:
    origins = parse_origins("https://A.example:443,http://b.example:80 , http://[::1]:9000")
    assert all(origin in origins for origin in ("https://a.example", "http://b.example", "http://[::1]:9000"))
    assert "https://a.example:443" not in origins
    assert "capacitor://localhost" in parse_origins("capacitor://localhost")  # an app
    assert origins and not parse_origins("") and not parse_origins(" , ")


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "a.example",
        "https://",
        "https://*.a.example",
        "https://a.example/x",
        "file://",
        "null",
        "http://u@a",
        "http://a:x",
    ],
)
def test_an_item_that_is_not_an_origin_is_rejected(text: str) -> None:
    with pytest.raises(Error, match="--cors-origins"):
        parse_origins(f"https://good.example,{text}")
