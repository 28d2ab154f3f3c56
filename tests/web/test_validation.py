"""Query arguments, whole numbers, and the size of JSON documents."""

import json
import random
import time
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from errors import BadRequest
from web.validation import count_characters, exceeds_depth, exceeds_token_count, parse_whole_number, query_argument


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


def tokens(value: Any) -> int:
    """The number of tokens of a value: strings, commas and opening brackets."""
    if isinstance(value, str):
        return 1
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + len(value) + sum(map(tokens, value.values()))
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(tokens, value))
    return 0


def random_value(choice: random.Random, depth: int = 4) -> Any:
    kind = choice.randrange(6 if depth else 3)
    if kind == 0:
        return choice.randint(-9, 9)
    if kind < 3:
        return "".join(choice.choice('a,[{"\\é]}: ') for _ in range(choice.randrange(6)))
    values = [random_value(choice, depth - 1) for _ in range(choice.randrange(4))]
    return values if kind < 5 else {f"k{number},[": value for number, value in enumerate(values)}


@pytest.mark.parametrize("seed", range(20))
def test_the_number_of_tokens_is_compared_exactly(seed: int) -> None:
    choice = random.Random(seed)
    for _ in range(50):
        value = random_value(choice)
        body, count = json.dumps(value).encode(), tokens(value)
        brackets = body.count(b",") + body.count(b"[") + body.count(b"{")
        assert exceeds_token_count(body, count) is False
        if count and brackets >= count:  # fewer are not counted one by one
            assert exceeds_token_count(body, count - 1) is True


@pytest.mark.parametrize("body", [b'"' * 1_000_001, b'"\\' * 500_000, b'["' * 500_000, b'",' * 500_000])
def test_counting_tokens_takes_linear_time(body: bytes) -> None:
    began = time.perf_counter()
    exceeds_token_count(body, 10**9)
    exceeds_token_count(body, 10)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("depth", [1, 2, 5, 100])
def test_the_depth_of_a_value_is_compared_exactly(depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        value = json.loads(opening * depth + ("1" if closing == "}" else "") + closing * depth)
        assert exceeds_depth(value, depth - 1) is True
        assert exceeds_depth(value, depth) is False


def test_a_value_without_brackets_has_no_depth() -> None:
    for value in ("x", 1, None, True, 1.5):
        assert exceeds_depth(value, 0) is False


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("", 0),
        ("é😀", 2),
        (7, 0),
        (None, 0),
        (["a", ["bc"], 1], 3),
        ({"ab": "c"}, 3),
        ({"images": ["x" * 1_000]}, 6),
        ({"messages": [{"content": "abc", "images": ["x" * 1_000]}]}, 8 + 7 + 3 + 6),
    ],
)
def test_characters_are_counted_without_images(value: Any, count: int) -> None:
    assert count_characters(value) == count
