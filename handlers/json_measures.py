"""How deep a JSON value is nested, and how much text is in it. Pure."""

from collections.abc import Iterable
from typing import Any


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
