"""Validation of query arguments, headers and the size of JSON documents. Pure but for the request read from."""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

from tornado.httputil import HTTPServerRequest

from errors import BadRequest

TOKEN = re.compile(rb'[,\[{]|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A string, or a character that opens or separates values. Possessive quantifiers: no backtracking on any input."""


def query_argument(request: HTTPServerRequest, name: str) -> str | None:
    """Return a query argument exactly as it was sent; ``RequestHandler.get_query_argument`` drops control characters.

    :raises BadRequest: it is not UTF-8.
    """
    values = request.query_arguments.get(name)
    if not values:
        return None
    try:
        return values[-1].decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{name} is not valid UTF-8.") from error


def parse_whole_number(name: str, text: str) -> int:
    """Parse a whole number of 0 or more that fits PostgreSQL's bigint.

    :param name: of the argument or header, for the error.
    :raises BadRequest: it is not one.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
        raise BadRequest(f"{name} must be a whole number of 0 or more.")
    return int(text)


def exceeds_token_count(body: bytes, limit: int) -> bool:
    """Return whether undecoded JSON has more than ``limit`` commas, opening brackets and strings.

    Decoded values may take thirty times the memory of their text: 11 million empty lists (33 MB) take a gigabyte.

    >>> exceeds_token_count(b"[[], [], []]", 5), exceeds_token_count(b'["[[,[[,[[", 1, 2]', 5)
    (True, False)
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") <= limit:
        return False
    return any(islice(TOKEN.finditer(body), limit, None))


def exceeds_depth(value: Any, limit: int) -> bool:
    """Return whether objects and lists are nested more than ``limit`` levels deep.

    >>> exceeds_depth({"a": []}, 2), exceeds_depth({"a": []}, 1)
    (False, True)
    """
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(limit):
        level = [inner for outer in level for inner in _values(outer) if isinstance(inner, (dict, list))]
        if not level:
            return False
    return bool(level)


def count_characters(value: Any) -> int:
    """Count the characters of all strings in a value, names of fields included, ``images`` (base64) excluded.

    >>> count_characters({"prompt": "hi", "images": ["iVBORw0K"]})
    14
    """
    count, remaining = 0, [value]
    while remaining:
        item = remaining.pop()
        if isinstance(item, str):
            count += len(item)
        elif isinstance(item, list):
            remaining.extend(item)
        elif isinstance(item, dict):
            count += sum(map(len, item))
            remaining.extend(inner for name, inner in item.items() if name != "images")
    return count


def _values(container: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container
