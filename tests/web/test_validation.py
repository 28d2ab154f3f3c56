"""Query arguments and whole numbers."""

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from errors import BadRequest
from web.validation import parse_whole_number, query_argument


def request(query: str) -> HTTPServerRequest:
    line = RequestStartLine("GET", f"/?{query}", "HTTP/1.1")
    return HTTPServerRequest(start_line=line, headers=HTTPHeaders({"Host": "x"}))


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("", None),
        ("b=1", None),
        ("a", ""),
        ("a=", ""),
        ("a=1", "1"),
        ("a=1&a=2", "2"),
        ("a=%20x%09%00", " x\t\0"),
        ("a=%C3%A9", "é"),
        ("A=1", None),
    ],
)
def test_a_query_argument_is_returned_as_it_was_sent(query: str, value: str | None) -> None:
    assert query_argument(request(query), "a") == value


def test_a_query_argument_that_is_not_utf_8_is_rejected() -> None:
    with pytest.raises(BadRequest, match="a is not valid UTF-8"):
        query_argument(request("a=%ff"), "a")


@pytest.mark.parametrize(("text", "number"), [("0", 0), (" 7 ", 7), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_a_whole_number_is_parsed(text: str, number: int) -> None:
    assert parse_whole_number("limit", text) == number


@pytest.mark.parametrize("text", ["", " ", "-1", "+1", "1.0", "1e3", "0x1", "1_0", "٣", "9" * 19, "9" * 5_000, "1\0"])
def test_any_other_number_is_rejected_and_named(text: str) -> None:
    with pytest.raises(BadRequest, match="limit must be a whole number"):
        parse_whole_number("limit", text)
