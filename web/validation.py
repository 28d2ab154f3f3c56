"""Validation of query arguments, headers and JSON documents. Pure but for the request read from."""

import codecs
import json
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

import msgspec
from tornado.httputil import HTTPServerRequest

from errors import BadRequest, UnprocessableContent

TOKEN = re.compile(rb'[,\[{]|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A string, or a character that opens or separates values. Possessive quantifiers: no backtracking on any input."""

FILE = "Put the JSON into a file and send it with curl --data-binary @FILE."
"""What helps where a shell changes the quotes of its arguments."""

MAX_PATH_LENGTH = 200
"""Characters of a field's path in an error."""

_BEGINNINGS = (
    (rb"\Z", "it is empty. Send a JSON object."),
    (rb"'", f"it begins with a single quote, which the command line of Windows does not remove. {FILE}"),
    (rb"\{\s*'", "names and texts are in double quotes, not in single ones."),
    (rb'\{\s*\\"', f"there are backslashes before its quotes. {FILE}"),
    (rb"\{\s*\w", f"its names are not in double quotes, which shells on Windows remove. {FILE}"),
    (rb"[\w.%+\[\]-]+=", "it is a form (name=value). Send a JSON object."),
)
"""Patterns of the beginning of a body, and why it is not JSON."""

_PLACES = (
    (rb"-?(NaN|Infinity)", "NaN and Infinity are no numbers of JSON"),
    (rb"True|False|None", "write true, false and null in lower case, without quotes"),
    (rb"//|/\*|#", "JSON has no comments"),
    (rb"[\0-\x1f]", "write line breaks and tabs within a text as \\n and \\t"),
)
"""Patterns of what stands where decoding failed, and why it is not JSON."""

_REASONS = (
    ("surrogate", "a text contains half of a surrogate pair"),
    ("trailing comma", "a comma stands before the closing bracket"),
    ("escape", "write a backslash within a text twice"),
    ("trailing characters", "something follows the end of the object"),
    ("truncated", "it ends too early: a quote or bracket is not closed"),
    ("out of range", "a number is out of range"),
)
"""Parts of msgspec's messages, and why the body is not JSON. Others are shown as they are."""


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


def decode_json(body: bytes) -> Any:
    """Decode a request's body.

    :raises BadRequest: it is not JSON in UTF-8 (RFC 8259, section 8.1); the sentence says why, and where.
    :raises UnprocessableContent: a text contains half of a surrogate pair, which RFC 8259 allows and UTF-8 cannot
        express; the sentence names the field.
    :raises RecursionError: it is nested too deeply.
    """
    try:
        body.decode()  # msgspec does not validate the UTF-8 of what it returns as msgspec.Raw
        return msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise BadRequest(_why_not_utf8(body, error)) from error
    except msgspec.DecodeError as error:
        _reject_surrogates(body)
        raise BadRequest(f"The body is not JSON: {_why_not_json(body, str(error))}") from error


def _is_utf16(body: bytes) -> bool:
    return body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in body[:2]


_UTF16 = "it is UTF-16, as Windows PowerShell writes files. Save it as UTF-8: Out-File -Encoding utf8."


def _why_not_utf8(body: bytes, error: UnicodeDecodeError) -> str:
    if _is_utf16(body):
        return f"The body is not JSON: {_UTF16}"
    return (
        f"The body is not valid UTF-8: byte 0x{body[error.start]:02X} at position {error.start}. Send it as UTF-8, "
        "or write such characters as escapes (\\u00e9)."
    )


def _why_not_json(body: bytes, reason: str) -> str:
    if _is_utf16(body):
        return _UTF16
    for pattern, why in _BEGINNINGS:
        if re.match(pattern, body.lstrip()):
            return why
    place = re.search(r" \(byte (\d+)\)$", reason)
    at = int(place[1]) if place else len(body)
    whys = [why for pattern, why in _PLACES if re.match(pattern, body[at : at + 10])]
    whys += [why for part, why in _REASONS if part in reason]
    why = whys[0] if whys else reason.removeprefix("JSON is malformed: ").removesuffix(place[0] if place else "")
    return f"{why} (position {at})." if place else f"{why}."


def _reject_surrogates(body: bytes) -> None:
    """Raise an error that names the field if the body is JSON but for half a surrogate pair."""
    if not re.search(rb"\\u[dD][89a-fA-F]", body):
        return
    try:
        field = _field_with_surrogate(json.loads(body))
    except ValueError:
        return
    if field is not None:
        raise UnprocessableContent(
            f"{field[:MAX_PATH_LENGTH]} contains half of a surrogate pair, which is no character. "
            "Send both halves, or neither."
        )


def _field_with_surrogate(value: Any) -> str | None:
    """Return the path of a text with a lone surrogate, such as ``messages[0].content``; None if there is none."""
    remaining: list[tuple[str, Any]] = [("", value)]
    while remaining:
        path, item = remaining.pop()
        if isinstance(item, str) and _has_surrogate(item):
            return path or "The body"
        if isinstance(item, list):
            remaining.extend((f"{path}[{index}]", inner) for index, inner in enumerate(item))
        elif isinstance(item, dict):
            if any(map(_has_surrogate, item)):
                return f"The name of a field{' of ' if path else ''}{path}"
            remaining.extend((f"{path}.{name}" if path else name, inner) for name, inner in item.items())
    return None


def _has_surrogate(text: str) -> bool:
    return re.search("[\ud800-\udfff]", text) is not None


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
