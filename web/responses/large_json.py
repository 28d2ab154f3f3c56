"""A JSON value with large texts, which is encoded in slices."""

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

SLICE_BYTES = 8_192
"""Bytes of a text, or of JSON, in one slice: 48 kB at most, if each character is escaped (``\\u0001``)."""

CONTINUATION = 0x80
"""The two highest bits of a byte that continues a character of UTF-8 (RFC 3629, section 3)."""


class Segment(NamedTuple):
    """A part of a value in UTF-8: JSON, or the characters of a string, which are escaped when they are sent."""

    data: bytes | memoryview
    is_text: bool = False


class LargeJSON:
    """A value whose JSON is never in memory as a whole.

    :param value: of dict, list, tuple and what msgspec encodes. A :class:`msgspec.Raw` is copied as it is.
    :ivar size: bytes of memory that it takes.
    :ivar checksum: CRC-32 of the value.
    """

    def __init__(self, value: Any) -> None:
        self._segments = list(_segments(value))
        self.size = sum(len(segment.data) for segment in self._segments)
        self.checksum = 0
        for segment in self._segments:
            self.checksum = zlib.crc32(segment.data, self.checksum)

    def slices(self, first: int) -> Iterator[bytes]:
        """Return the slices of its JSON from number ``first`` on."""
        number = 0
        for data, is_text in self._segments:
            start = 0
            while start < len(data):
                end = min(start + SLICE_BYTES, len(data))
                while is_text and end < len(data) and data[end] & 0xC0 == CONTINUATION:
                    end -= 1
                if number >= first:
                    piece = bytes(data[start:end])
                    yield msgspec.json.encode(piece.decode())[1:-1] if is_text else piece
                start = end
                number += 1


def _segments(value: Any) -> Iterator[Segment]:
    if isinstance(value, dict):
        separator = b"{"
        for name, item in value.items():
            yield Segment(separator + msgspec.json.encode(name) + b":")
            yield from _segments(item)
            separator = b","
        yield Segment(b"}" if value else b"{}")
    elif isinstance(value, list | tuple):
        separator = b"["
        for item in value:
            yield Segment(separator)
            yield from _segments(item)
            separator = b","
        yield Segment(b"]" if value else b"[]")
    elif isinstance(value, str):
        yield Segment(b'"')
        yield Segment(value.encode(), is_text=True)
        yield Segment(b'"')
    elif isinstance(value, msgspec.Raw):
        yield Segment(memoryview(value))
    else:
        yield Segment(msgspec.json.encode(value))
