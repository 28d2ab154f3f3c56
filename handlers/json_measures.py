"""How deep a JSON value is nested, how many values it holds, and how much text is in it. Pure."""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

PART = re.compile(rb'[,\[{]|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A string, or what opens or divides a list or an object. Never looks back: a body may be one string of escapes."""


def more_parts_than(body: bytes, most: int) -> bool:
    """Whether JSON that was not read yet has more than ``most`` commas and opening brackets, and more than that of
    strings and them. As values they may take thirty times as much memory: 11 million empty lists (33 MB) a gigabyte.

    >>> more_parts_than(b"[[], [], []]", 5), more_parts_than(b'["[[,[[,[[", 1, 2]', 5)
    (True, False)
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") <= most:
        return False
    return any(islice(PART.finditer(body), most, None))


def deeper_than(value: Any, levels: int) -> bool:
    """Whether objects and lists are nested more than ``levels`` deep.

    >>> deeper_than({"a": []}, 2), deeper_than({"a": []}, 1)
    (False, True)
    """
    nested = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels):
        nested = [inner for outer in nested for inner in _values(outer) if isinstance(inner, (dict, list))]
        if not nested:
            return False
    return bool(nested)


def characters(value: Any) -> int:
    """How many characters the strings of a value have, names of fields included, images not: they are base64.

    >>> characters({"prompt": "hi", "images": ["iVBORw0K"]})
    14
    """
    count, left = 0, [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            count += len(one)
        elif isinstance(one, list):
            left.extend(one)
        elif isinstance(one, dict):
            count += sum(map(len, one))
            left.extend(inner for name, inner in one.items() if name != "images")
    return count


def _values(outer: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return outer.values() if isinstance(outer, dict) else outer
