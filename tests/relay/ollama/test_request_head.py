"""Formatting the head of a request, and rejecting header injection."""

from urllib.parse import urlsplit

import pytest
from tornado.httputil import HTTPHeaders

from relay.ollama.request_head import request_head

INJECTION = "a\r\nX-Evil: 1"


def head(url: str, method: str = "GET", length: int | None = None, **headers: str) -> list[str]:
    """Format a head and return its lines."""
    fields = HTTPHeaders({name.replace("_", "-"): value for name, value in headers.items()})
    lines = request_head(method, urlsplit(url), fields, length).decode("latin1").split("\r\n")
    assert lines[-2:] == ["", ""]
    return lines[:-2]


def test_a_complete_head() -> None:
    assert head("http://gpu:11434/api/chat?a=b#c", "POST", 7, Content_Type="application/json") == [
        "POST /api/chat?a=b HTTP/1.1",
        "Host: gpu:11434",
        "Connection: close",
        "Content-Type: application/json",
        "Content-Length: 7",
    ]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://gpu", "gpu"),
        ("https://GPU:443/", "gpu:443"),
        ("http://user:password@gpu:80/", "gpu:80"),
        ("http://[::1]:11434/", "[::1]:11434"),
        ("http://[FE80::1%eth0]/", "[fe80::1]"),
        ("http://b\u00fccher.example/", "xn--bcher-kva.example"),
    ],
)
def test_the_host_header_has_no_user_no_zone_and_an_ascii_name(url: str, host: str) -> None:
    assert head(url)[:2] == ["GET / HTTP/1.1", f"Host: {host}"]


def test_headers_that_the_client_sets_are_ignored() -> None:
    expected = head("http://gpu/", "POST", 7)
    assert (
        head("http://gpu/", "POST", 7, Host="x", Connection="x", Content_Length="9", Transfer_Encoding="x") == expected
    )


def test_a_header_may_be_repeated_and_contain_latin_1() -> None:
    headers = HTTPHeaders()
    headers.add("X-A", "\u00fc")
    headers.add("X-A", "")
    assert request_head("GET", urlsplit("http://gpu"), headers, None).endswith(b"\r\nX-A: \xfc\r\nX-A: \r\n\r\n")


@pytest.mark.parametrize("value", [INJECTION, "a\nb", "a\rb", "a\0b", "\x7f", "\u2028", "\u010a"])
def test_an_invalid_character_in_a_header_is_an_error(value: str) -> None:
    with pytest.raises(ValueError):
        head("http://gpu/", X_A=value)
    with pytest.raises(ValueError):
        request_head("GET", urlsplit("http://gpu/"), HTTPHeaders({f"X-A{value}": "b"}), None)


@pytest.mark.parametrize("name", ["", "X A", "X:A", "(X)"])
def test_an_invalid_header_name_is_an_error(name: str) -> None:
    with pytest.raises(ValueError):
        request_head("GET", urlsplit("http://gpu/"), HTTPHeaders({name: "a"}), None)


@pytest.mark.parametrize("method", ["GET / HTTP/1.1\r\nX-Evil: 1\r\n\r\nGET", "get", "", "G T"])
def test_an_invalid_method_is_an_error(method: str) -> None:
    with pytest.raises(ValueError):
        head("http://gpu/", method)


@pytest.mark.parametrize("path", ["/a b", "/\x01", "/\x7f", "/\u00fc", "/\u010a", "?a b", "?\u2028"])
def test_an_invalid_character_in_the_path_is_an_error(path: str) -> None:
    with pytest.raises(ValueError):
        head(f"http://gpu{path}")


def test_line_ends_in_a_url_do_not_end_a_header_line() -> None:
    assert head("http://gpu/a\r\nX-Evil: 1".replace(" ", ""))[0] == "GET /aX-Evil:1 HTTP/1.1"
    with pytest.raises(ValueError):
        request_head("GET", urlsplit("http://gpu/")._replace(path="/a\r\nX-Evil:1"), HTTPHeaders(), None)
