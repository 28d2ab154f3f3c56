"""JSON in slices: nothing is lost or cut, and the work is linear, whatever the text."""

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import json_text
from json_text import count_tokens, depths, has_lone_surrogate, has_refused_number, is_number_accepted, slices

SIZES = [64, 65, 71, 100, json_text.SLICE_BYTES]
SCALARS = [1, -2.5, -1e300, 5e-324, 12345678901234567890, 0, True, None]


def random_value(choice: random.Random, depth: int = 4) -> Any:
    kind = choice.randrange(7 if depth else 4)
    if kind == 0:
        return choice.choice(SCALARS)
    if kind < 4:
        return "".join(choice.choice('a,[{"\\é😀€]}: 1e9\n\u2028') for _ in range(choice.randrange(100)))
    values = [random_value(choice, depth - 1) for _ in range(choice.randrange(5))]
    return values if kind < 6 else {f'{number}[é"': value for number, value in enumerate(values)}


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield name
            yield from texts(one)


def tokens(value: Any) -> int:
    """The number of strings, commas and opening brackets."""
    if isinstance(value, str):
        return 1
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + len(value) + sum(map(tokens, value.values()))
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(tokens, value))
    return 0


def depth_of(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_slices_have_all_strings_numbers_and_brackets(monkeypatch: pytest.MonkeyPatch, size: int, seed: int) -> None:
    monkeypatch.setattr(json_text, "SLICE_BYTES", size)
    choice = random.Random(seed)
    for _ in range(100):
        value = [random_value(choice)]
        text = json.dumps(value, ensure_ascii=choice.random() < 0.5, indent=choice.choice([None, 1])).encode()
        parts = list(slices(text))
        strings = [string for _, inner in parts for string in inner]
        assert "".join(map(msgspec.json.decode, strings)) == "".join(texts(value))
        assert sum(count_tokens(outline) for outline, _ in parts) == tokens(value)
        json.loads(b"".join(outline for outline, _ in parts).replace(b'"', b'""'))
        depth = greatest = 0
        for outline, _ in parts:
            assert len(outline) <= size and not has_refused_number(outline)
            depth, reached = depths(outline, depth)
            greatest = max(greatest, reached)
        assert (depth, greatest) == (0, depth_of(value))


@pytest.mark.parametrize("seed", range(5))
def test_a_number_is_never_cut(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(json_text, "SLICE_BYTES", 40 + seed)
    choice = random.Random(seed)
    numbers = [float(choice.choice(SCALARS[:6]) or 0) for _ in range(500)]
    outlines = [outline for outline, _ in slices(json.dumps(numbers).encode())]
    assert [float(one) for outline in outlines for one in outline.strip(b"[], ").split(b",")] == numbers


@pytest.mark.parametrize("seed", range(5))
def test_slices_of_what_is_not_json_come_to_an_end(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(json_text, "SLICE_BYTES", 64)
    choice = random.Random(seed)
    for _ in range(500):
        text = bytearray(json.dumps([random_value(choice)]).encode())
        for _ in range(3):
            text[choice.randrange(len(text))] = choice.choice(b'"\\u\xff\x80dD8[{]}0')
        assert sum(1 for _ in slices(bytes(text))) <= len(text)


HOSTILE = {
    "quotes": b'{"x":"' + b'\\"' * 1_000_000,
    "backslashes": b'"' + b"\\" * 2_000_001,
    "openings": b'["' * 1_000_000,
    "escapes": b'"' + b"\\u0041" * 400_000 + b'"',
    "surrogates": b'"' + b"\\ud83d" * 400_000 + b'"',
    "cut escapes": b'"' + b"\\u12" * 500_000 + b'"',
    "digits": b"9" * 2_000_000,
    "long numbers": (b"9" * 299 + b",") * 7_000,
    "exponents": b"17e307," * 300_000,
    "dots": b"1.e-" * 500_000,
    "continuation bytes": b'"' + b"\x80" * 2_000_000 + b'"',
    "blanks": b" " * 2_000_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_work_is_linear_whatever_the_text(text: bytes) -> None:
    began = time.process_time()
    parts = 0
    for outline, strings in slices(text):
        parts += 1
        count_tokens(outline)
        depths(outline)
        has_refused_number(outline)
        any(map(has_lone_surrogate, strings))
    assert parts <= 2 * len(text) / json_text.SLICE_BYTES + 2
    assert time.process_time() - began < 20  # a quadratic search takes minutes


@pytest.mark.parametrize(
    ("number", "accepted"),
    [
        (b"0", True),
        (b"-0.0", True),
        (b"12345678901234567890123", True),
        (b"1.7976931348623157e308", True),  # the largest double
        (b"17e307", True),
        (b"4.9E-324", True),
        (b"0.1e+1", True),
        (b"9" * 308, True),
        (b"1e-400", True),
        (b"1." + b"1" * 398, True),
        (b"18e307", False),
        (b"-1.8e308", False),
        (b"1e400", False),
        (b"9" * 309, False),
        (b"1." + b"1" * 399, False),
        (b"1e-401", False),
        (b"1e-9999", False),
        (b"0e99999", False),
        (b"1e" + b"9" * 390, False),
        (b"0." + b"0" * 300_000 + b"1", False),
    ],
)
def test_numbers_of_absurd_length_or_exponent_are_not_accepted(number: bytes, accepted: bool) -> None:
    assert is_number_accepted(number) is accepted
    assert any(has_refused_number(outline) for outline, _ in slices(b'{"a":[' + number + b"]}")) is not accepted


def test_what_looks_like_a_number_within_a_string_is_none() -> None:
    assert not any(has_refused_number(outline) for outline, _ in slices(b'["1e9999", "' + b"9" * 500 + b'"]'))
