"""The text of JSON documents in slices: strings, brackets and numbers are found without decoding them.

Decoding creates an object for each value, thirty times the memory of the text for empty lists, and takes up to 20 us
for a single number near the ends of a double's range. What is only passed on stays text.
"""

import asyncio
import re
from collections.abc import Iterator
from itertools import accumulate

import msgspec

SLICE_BYTES = 65_536
"""Bytes of a document that are looked at before the event loop gets its turn: 15 ms at most, if all are numbers."""

MAX_NUMBER_LENGTH = 400
"""Characters of a number. The longest integer in the range of a double has 309 digits."""

MAX_EXPONENT = 400
"""Absolute value of a number's exponent. That of the smallest double is -324; jsonb writes each of these zeros."""

MAX_CHARACTER_BYTES = 4
"""Bytes of a character in UTF-8 (RFC 3629)."""

_STRING = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+"?)', re.DOTALL)
"""A string, or its beginning. Possessive, and no second try from within a string that does not end: linear."""

_WHOLE_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

_CHARACTERS = re.compile(
    rb'(?:[^"\\]++|\\[^u]|\\u(?![dD][89a-fA-F])....|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)*+', re.DOTALL
)
"""Characters and escapes within a string, up to its end or half of a surrogate pair."""

_ANY_CHARACTERS = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""Characters and escapes within a string, halves of surrogate pairs included."""

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LEVELS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}

_NUMBER_CHARACTERS = b"+-.0123456789eE"
_NUMBER = re.compile(rb"[-0-9][-+.0-9eE]*+")
_TOKEN = re.compile(_WHOLE_STRING.pattern + b"|" + _NUMBER.pattern, re.DOTALL)
_UNUSUAL_NUMBER = re.compile(rb"(?<![-+.0-9eE])[-+.0-9eE]{300}|[0-9][eE][-+]?[0-9]{3}")
"""Part of every number that :func:`is_number_accepted` does not accept, and of few others."""


def slices(text: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Cut JSON in UTF-8 into parts of about :data:`SLICE_BYTES`, none of them within a number or a character.

    Of a text that is not JSON every byte is in some part, too, but what follows the fault may be cut anywhere.

    :returns: of each part its text with one quote in the place of each string, and the strings. A string that is longer
        than a part comes in several, each in quotes; there is a quote for the first one only.

    >>> list(slices(b'{"a": [1, "b"]}'))
    [(b'{": [1, "]}', [b'"a"', b'"b"'])]
    """
    start = 0
    while start < len(text):
        end = min(start + SLICE_BYTES, len(text))
        pieces = _STRING.split(text[start:end])
        strings = pieces[1::2]
        if strings and not _WHOLE_STRING.fullmatch(strings[-1]):  # it does not end here
            end -= len(strings.pop()) + len(pieces.pop())
        outline = b'"'.join(pieces[::2])
        number = len(outline) - len(outline.rstrip(_NUMBER_CHARACTERS))
        if end < len(text) and number < end - start:
            end -= number
            outline = outline[: len(outline) - number]
        if end > start:
            yield outline, strings
            start = end
        else:
            mark = b'"'
            for piece in string_pieces(text, start):
                yield mark, [piece]
                mark = b""
                start += len(piece) - 2
            start += 2


async def pause(text: bytes | msgspec.Raw) -> None:
    """Give the event loop its turn after work on a text, or on a slice of one, if it is large."""
    if memoryview(text).nbytes > SLICE_BYTES:
        await asyncio.sleep(0)


def string_pieces(text: bytes, start: int = 0) -> Iterator[bytes]:
    """Cut the string that begins at ``start`` into strings of at most :data:`SLICE_BYTES`, none within a character."""
    start += 1
    while start < len(text) and text[start] != ord('"'):
        limit = min(start + SLICE_BYTES, len(text))
        # The second pattern and the limit are for what is not JSON.
        ends = (_reach(pattern, text, start, limit) for pattern in (_CHARACTERS, _ANY_CHARACTERS))
        end = character_start(text, next((end for end in ends if end > start), limit))
        yield b'"%b"' % text[start:end]
        start = end


def _reach(pattern: re.Pattern[bytes], text: bytes, start: int, limit: int) -> int:
    found = pattern.match(text, start, limit)
    return found.end() if found else start


def character_start(text: bytes, position: int) -> int:
    """Return where the character of UTF-8 begins that is at a position, or goes on there.

    >>> character_start("a€".encode(), 3)
    1
    """
    for start in range(position, position - MAX_CHARACTER_BYTES, -1):
        if start >= len(text) or text[start] & 0xC0 != 0x80:
            return start
    return position  # no UTF-8


def has_lone_surrogate(string: bytes) -> bool:
    """Return whether a string in quotes contains half of a surrogate pair as an escape.

    >>> has_lone_surrogate(rb'"\\ud83d"'), has_lone_surrogate(rb'"\\ud83d\\ude00"'), has_lone_surrogate(rb'"\\\\ud83d"')
    (True, False, False)
    """
    if not re.search(rb"\\u[dD][89a-fA-F]", string):
        return False
    found = _CHARACTERS.match(string, 1)
    return found is not None and re.match(rb"\\u[dD][89a-fA-F]", string[found.end() :]) is not None


def count_tokens(outline: bytes) -> int:
    """Count the strings, commas and opening brackets of one of the :func:`slices`."""
    return outline.count(b'"') + outline.count(b",") + outline.count(b"[") + outline.count(b"{")


def depths(outline: bytes, depth: int = 0) -> tuple[int, int]:
    """Follow the brackets of one of the :func:`slices`.

    :param depth: number of brackets that are open at its beginning.
    :returns: the number at its end, and the greatest in between.

    >>> depths(b"[[1,[2]],")
    (1, 3)
    """
    brackets = outline.translate(None, _NOT_BRACKETS)
    reached = list(accumulate(map(_LEVELS.__getitem__, brackets), initial=depth))
    return reached[-1], max(reached)


def has_refused_number(outline: bytes) -> bool:
    """Return whether a number of one of the :func:`slices` is not accepted."""
    if not _UNUSUAL_NUMBER.search(outline):
        return False
    return not all(map(is_number_accepted, _NUMBER.findall(outline)))


def without_refused_numbers(text: bytes) -> bytes:
    """Return JSON with null in the place of each number that is not accepted, as JavaScript writes them.

    >>> without_refused_numbers(b'[1e999, {"a": "1e999", "b": 17}]')
    b'[null, {"a": "1e999", "b": 17}]'
    """
    return _TOKEN.sub(lambda found: b"null" if _is_refused(found[0]) else found[0], text)


def _is_refused(token: bytes) -> bool:
    return not token.startswith(b'"') and not is_number_accepted(token)


def is_number_accepted(number: bytes) -> bool:
    """Return whether a number has a usual length and lies within the range of a double (RFC 8259, section 6).

    Of numbers beyond, Go's decoder in Ollama makes an error (strconv.ParseFloat), JavaScript makes ``Infinity``, which
    it writes as ``null``, and PostgreSQL's jsonb has the range of ``numeric`` and writes them with all their zeros.

    :param number: a number of JSON; of another text the result has no meaning.

    >>> [is_number_accepted(number) for number in (b"1.7976931348623157e308", b"-18e307", b"1e-9999", b"9" * 309)]
    [True, False, False, False]
    """
    if len(number) > MAX_NUMBER_LENGTH:
        return False
    _, _, exponent = number.lower().partition(b"e")
    try:
        return abs(int(exponent or b"0")) <= MAX_EXPONENT and abs(float(number)) < float("inf")
    except ValueError:  # no number of JSON
        return False
