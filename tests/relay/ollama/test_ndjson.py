"""The NDJSON decoder returns the same lines for any division of the bytes into chunks."""

import itertools
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from errors import LineTooLong
from relay.ollama.ndjson import NDJSONDecoder

NO_LIMIT = 1 << 30

# Bytes that other decoders take for line ends (U+2028, U+0085, VT, FF, a lone CR), NUL, and parts of an emoji.
HOSTILE = [
    b"\r",
    b"\r\r",
    b"\0",
    b"\x0b",
    b"\x0c",
    b"\x1c",
    b" ",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\xf0\x9f",
    b"\x98\x80",
]

SAMPLE = '{"a":"\u2028 \U0001f600"}\n\n{"b":"\\u0000"}\r\n \r\n{"c":"x\ry"}\n{"d":1}'.encode()
SAMPLE_LINES = ['{"a":"\u2028 \U0001f600"}'.encode(), b'{"b":"\\u0000"}', b'{"c":"x\ry"}', b'{"d":1}']


def is_line(text: bytes) -> bool:
    return not text.isspace() and text != b"" and b"\n" not in text and not text.endswith(b"\r")


pieces = st.sampled_from(HOSTILE) | st.binary(max_size=8)
lines = st.lists(pieces, min_size=1, max_size=6).map(b"".join).filter(is_line)
ends = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r\n \t\n", b"\n\r\n"])
cuts = st.lists(st.integers(min_value=0, max_value=200), max_size=30)


def split(decoder: NDJSONDecoder, body: bytes, cuts: list[int]) -> list[bytes]:
    """Feed the body, cut at these offsets; return the lines that its chunks completed."""
    borders = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    chunks = [body[start:end] for start, end in itertools.pairwise(borders)]
    return [line for chunk in chunks for line in decoder.feed(chunk)]


@given(st.lists(st.tuples(lines, ends), max_size=8), cuts)
@example([(b"\xf0\x9f\x98\x80", b"\n"), (b"\xe2\x80\xa8", b"\r\n")], [2, 6, 9])
def test_any_chunking_of_any_lines_returns_the_lines(ended: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    decoder = NDJSONDecoder(NO_LIMIT)
    assert split(decoder, b"".join(line + end for line, end in ended), cuts) == [line for line, _ in ended]
    assert decoder.flush() == []


@given(lines, lines, st.sampled_from([b"", b"\r"]), cuts)
def test_flush_returns_a_last_line_without_an_end(
    first: bytes, last: bytes, carriage_return: bytes, cuts: list[int]
) -> None:
    decoder = NDJSONDecoder(NO_LIMIT)
    assert split(decoder, first + b"\n" + last + carriage_return, cuts) == [first]
    assert decoder.flush() == [last]
    assert decoder.flush() == []


@pytest.mark.parametrize("cut", range(len(SAMPLE) + 1))
def test_a_body_cut_at_any_offset_gives_all_lines(cut: int) -> None:
    decoder = NDJSONDecoder(NO_LIMIT)
    assert split(decoder, SAMPLE, [cut]) + decoder.flush() == SAMPLE_LINES


def test_a_body_in_chunks_of_one_byte_gives_all_lines() -> None:
    decoder = NDJSONDecoder(NO_LIMIT)
    assert split(decoder, SAMPLE, list(range(len(SAMPLE)))) + decoder.flush() == SAMPLE_LINES


def test_a_line_is_returned_for_the_chunk_that_completes_it() -> None:
    decoder = NDJSONDecoder(NO_LIMIT)
    fed = [decoder.feed(chunk) for chunk in [b"a", b"b\nc", b"", b"\nd\ne\nf", b"\n"]]
    assert fed == [[], [b"ab"], [], [b"c", b"d", b"e"], [b"f"]]


@pytest.mark.parametrize("blank", [b"", b"\n", b"\n\n\n", b"\r\n\r\n", b" \t\n", b" \t", b"\r", b"\n\r"])
def test_blank_lines_are_skipped(blank: bytes) -> None:
    decoder = NDJSONDecoder(NO_LIMIT)
    assert decoder.feed(blank) + decoder.flush() == []


def seconds_for_a_line_of(kilobytes: int) -> float:
    """Decode one line in chunks of 1 KB, check it, and return the CPU time in seconds."""
    decoder, chunk = NDJSONDecoder(NO_LIMIT), b"x" * 1024
    started = time.thread_time()
    for _ in range(kilobytes):
        assert decoder.feed(chunk) == []
    [line] = decoder.feed(b"\n")
    spent = time.thread_time() - started
    assert line == chunk * kilobytes
    return spent


def test_the_time_per_byte_does_not_grow_with_the_length_of_a_line() -> None:
    short = min(seconds_for_a_line_of(256) for _ in range(5))
    long = min(seconds_for_a_line_of(8192) for _ in range(3))
    assert long / short < 32 * 8  # linear time: 32; quadratic: 1024


@pytest.mark.parametrize("body", [b"0123456789\n", b"a\n0123456789\nb\n", b"0123456789", b"0123456789\n0123456789"])
@pytest.mark.parametrize("cuts", [[], [5], range(30)], ids=["whole", "cut", "bytewise"])
def test_a_line_exactly_at_the_limit_is_accepted(body: bytes, cuts: list[int]) -> None:
    decoder = NDJSONDecoder(10)
    assert split(decoder, body, list(cuts)) + decoder.flush() == body.split()


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([b"0123456789A\n"], id="complete, in one chunk"),
        pytest.param([b"0123456789A"], id="incomplete, in one chunk"),
        pytest.param([b"01234", b"56789A\n"], id="complete, in two chunks"),
        pytest.param([b"01234", b"56789", b"A"], id="incomplete, in three chunks"),
        pytest.param([b"0123456789", b"A\nb\n"], id="complete, with another after it"),
        pytest.param([b"a\n", b"b\n0123456789A"], id="incomplete, after others"),
        pytest.param([b"a\n0123456789A\nb\n"], id="between others"),
    ],
)
def test_a_line_is_rejected_as_soon_as_it_exceeds_the_limit(chunks: list[bytes]) -> None:
    decoder = NDJSONDecoder(10)
    *before, last = chunks
    for chunk in before:
        decoder.feed(chunk)
    with pytest.raises(LineTooLong, match="longer than 10 bytes"):
        decoder.feed(last)


@given(st.lists(lines, max_size=8), cuts, st.integers(min_value=1, max_value=12))
def test_only_a_line_beyond_the_limit_is_rejected(whole: list[bytes], cuts: list[int], limit: int) -> None:
    body = b"".join(line + b"\n" for line in whole)
    if max(map(len, whole), default=0) > limit:
        with pytest.raises(LineTooLong):
            split(NDJSONDecoder(limit), body, cuts)
    else:
        assert split(NDJSONDecoder(limit), body, cuts) == whole
