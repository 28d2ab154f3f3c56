"""Why a body is not JSON, and which field is wrong, in sentences for its sender."""

import codecs
import re
from collections.abc import Callable

from errors import BadRequest, ChatterdError, UnprocessableContent
from json_text import has_lone_surrogate, pause, slices

FILE = "Put the JSON into a file and send it with curl --data-binary @FILE."
"""What helps where a shell changes the quotes of its arguments."""

MAX_PATH_LENGTH = 200
"""Characters of a field's path, and of each of its names, in an error."""

BEGINNING_LENGTH = 100
"""Bytes of a body's beginning, without white space, that are searched for a reason."""

_TOKEN = re.compile(rb'["\[\]{},]|[-0-9][-+.0-9eE]*+')
"""A string's quote, a bracket, a comma or a number in one of the slices."""

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
)
"""Parts of msgspec's messages, and why the body is not JSON. Others are shown as they are."""

_UTF16 = "it is UTF-16, as Windows PowerShell writes files. Save it as UTF-8: Out-File -Encoding utf8."


async def explain(body: bytes, reason: str) -> ChatterdError:
    """Return the error of a body that msgspec cannot decode.

    :param reason: msgspec's message.
    """
    may_be_surrogate = any(word in reason for word in ("surrogate", "escape", "truncated"))
    if may_be_surrogate and (field := await find_path(body, _is_lone_surrogate)):
        return UnprocessableContent(
            f"{field} contains half of a surrogate pair, which is no character. Send both halves, or neither."
        )
    return BadRequest(f"The body is not JSON: {_why_not_json(body, reason)}")


def _is_lone_surrogate(token: bytes) -> bool:
    return token.startswith(b'"') and has_lone_surrogate(token)


def why_not_utf8(body: bytes, position: int) -> str:
    """Return the error of a body that is not UTF-8.

    :param position: of the first invalid byte.
    """
    if _is_utf16(body):
        return f"The body is not JSON: {_UTF16}"
    return (
        f"The body is not valid UTF-8: byte 0x{body[position]:02X} at position {position}. Send it as UTF-8, "
        "or write such characters as escapes (\\u00e9)."
    )


def _is_utf16(body: bytes) -> bool:
    return body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in body[:2]


def _why_not_json(body: bytes, reason: str) -> str:
    if _is_utf16(body):
        return _UTF16
    beginning = body.lstrip()[:BEGINNING_LENGTH]
    for pattern, why in _BEGINNINGS:
        if re.match(pattern, beginning):
            return why
    place = re.search(r" \(byte (\d+)\)$", reason)
    at = int(place[1]) if place else len(body)
    whys = [why for pattern, why in _PLACES if re.match(pattern, body[at : at + 10])]
    whys += [why for part, why in _REASONS if part in reason]
    why = whys[0] if whys else reason.removeprefix("JSON is malformed: ").removesuffix(place[0] if place else "")
    return f"{why} (position {at})." if place else f"{why}."


async def find_path(text: bytes, is_wrong: Callable[[bytes], bool]) -> str:
    """Return the path of the first wrong string or number, such as ``messages[0].content``; empty if there is none.

    :param is_wrong: called with each string, in quotes, and each number; of a long string with its pieces.
    """
    path: list[int | str | None] = []  # index in a list, name in an object, None where a name follows
    for outline, strings in slices(text):
        remaining = iter(strings)
        for token in _TOKEN.findall(outline):
            value = next(remaining, b'""') if token == b'"' else token
            if token == b"[":
                path.append(0)
            elif token == b"{":
                path.append(None)
            elif token in b"]}":
                del path[-1:]
            elif token == b",":
                path[-1:] = [_next(place) for place in path[-1:]]
            elif is_wrong(value):
                return _describe(path)
            elif path and path[-1] is None:
                path[-1] = _printable(value[1:-1][:MAX_PATH_LENGTH].decode(errors="replace"))
        if any(map(is_wrong, remaining)):
            return _describe(path)
        await pause(text)
    return ""


def _next(place: int | str | None) -> int | None:
    return place + 1 if isinstance(place, int) else None


def _printable(name: str) -> str:
    """Return a name with escapes for what a sentence does not show: white space, controls, marks of direction."""
    return "".join(one if one.isprintable() and one != " " else f"\\u{ord(one):04x}" for one in name)


def _describe(path: list[int | str | None]) -> str:
    names = "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in path if place is not None)
    name = names.removeprefix(".")[:MAX_PATH_LENGTH]
    if path and path[-1] is None:
        return f"The name of a field{' of ' if name else ''}{name}"
    return name or "The body"
