"""The framer's bytes: exact, and as another parser that follows WHATWG HTML reads them."""

import base64
import json
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.stream import sse

HERE = Path(__file__).parent

ERROR = b'{"error":"model \'x\' not found"}'

lines = st.lists(st.binary(max_size=40), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("number", "line", "framed"),
    [
        pytest.param(0, b'{"done":false}', b'id: 0\ndata: {"done":false}\n\n', id="a line"),
        pytest.param(12345678, b"{}", b"id: 12345678\ndata: {}\n\n", id="a high number"),
        pytest.param(3, ERROR, b"id: 3\nevent: error\ndata: " + ERROR + b"\n\n", id="an error"),
        pytest.param(1, b'{"error": "a"}', b'id: 1\ndata: {"error": "a"}\n\n', id="an error not spelt by us"),
        pytest.param(1, b'{"errors":1}', b'id: 1\ndata: {"errors":1}\n\n', id="a field like error"),
        pytest.param(1, b'{"a":"{\\"error\\":"}', b'id: 1\ndata: {"a":"{\\"error\\":"}\n\n', id="error inside"),
        pytest.param(1, b" a", b"id: 1\ndata:  a\n\n", id="a space of its own first"),
        pytest.param(1, b":x", b"id: 1\ndata: :x\n\n", id="a colon first"),
        pytest.param(1, b'{"a":1,\r"b":2}\r', b'id: 1\ndata: {"a":1, "b":2} \n\n', id="carriage returns"),
        pytest.param(1, b'{"error":"a"\r}', b'id: 1\nevent: error\ndata: {"error":"a" }\n\n', id="in an error"),
        pytest.param(1, b"\xe2\x80\xa8\xc2\x85\x0b\x0c", b"id: 1\ndata: \xe2\x80\xa8\xc2\x85\x0b\x0c\n\n", id="U+2028"),
        pytest.param(1, b"\xf0\x9f\x98\x80\0", b"id: 1\ndata: \xf0\x9f\x98\x80\0\n\n", id="an emoji and NUL"),
    ],
)
def test_a_line_becomes_exactly_these_bytes(number: int, line: bytes, framed: bytes) -> None:
    assert sse.event(number, line) == framed


def test_the_sign_of_life_is_a_comment() -> None:
    assert sse.HEARTBEAT == b": waiting\n\n"


@pytest.mark.parametrize(("limit", "held"), [(0, 1), (16, 1), (31, 1), (32, 2), (47, 2), (48, 3), (1000, 3)])
def test_events_hold_what_fits_and_at_least_one(limit: int, held: int) -> None:
    framed = [b"id: 7\ndata: {}\n\n", b"id: 8\ndata: {}\n\n", b"id: 9\ndata: {}\n\n"]  # 16 bytes each
    assert sse.events(7, [b"{}"] * 3, limit) == (b"".join(framed[:held]), held)


def test_no_lines_are_no_events() -> None:
    assert sse.events(5, [], 100) == (b"", 0)


@given(st.integers(min_value=0, max_value=1 << 40), lines, st.integers(min_value=0, max_value=400))
def test_events_sent_in_portions_lose_nothing_and_keep_to_the_limit(first: int, lines: list[bytes], limit: int) -> None:
    singly = [sse.event(number, line) for number, line in enumerate(lines, first)]
    sent = 0
    while sent < len(lines):
        portion, held = sse.events(first + sent, lines[sent:], limit)
        assert held >= 1
        assert portion == b"".join(singly[sent : sent + held])
        assert held == 1 or len(portion) <= limit
        sent += held
        assert sent == len(lines) or len(portion) + len(singly[sent]) > limit, "one more would have fitted"


# What clients make of the bytes.

# What parsers stumble over: field names, colons, line ends old and new, a byte order mark, NUL, astral text.
# fmt: off
STUMBLING_BLOCKS = [
    *("id: 9", "data: x", "data", "event: error", "event:", "retry: 1", ": waiting", ":", " ", "  ", "\t"),
    *("\r", "\r\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\0", "\ufeff", "\uffff", "\U0001f600"),
    *('{"error":"', '{"error": "', '{"model":"m","done":false}', '"', "\\\\", "\\n", "a", "1"),
    *("e\u0301", "\u05d0", "\ud7ff"),
]
# fmt: on


def random_line(dice: random.Random) -> str:
    start = dice.choice(["", "", "", '{"model":"m","message":', '{"error":1', '{"error":"', "\ufeff", " "])
    return start + "".join(dice.choices(STUMBLING_BLOCKS, k=dice.randrange(1, 12)))


def random_chunks(dice: random.Random, stream: bytes) -> list[bytes]:
    """Cut anywhere: inside a character, between CR and LF, into empty chunks."""
    cuts = sorted(dice.choices(range(len(stream) + 1), k=dice.randrange(12)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def read_by_node(streams: list[list[bytes]]) -> list[dict[str, Any]]:
    """What eventsource-parser reads from streams given in chunks; one process for all."""
    asked = "\n".join(json.dumps([base64.b64encode(chunk).decode() for chunk in chunks]) for chunks in streams)
    node = subprocess.run(
        ["node", "sse_reader.mjs"],
        input=asked.encode(),
        capture_output=True,
        cwd=HERE,
        timeout=60,
        check=False,
    )
    assert node.returncode == 0, node.stderr.decode()
    return [json.loads(answer) for answer in node.stdout.split(b"\n")]


class Case:
    """A few lines, the stream that shows them (with signs of life in between), and what it must be read as."""

    def __init__(self, dice: random.Random) -> None:
        self.first = dice.choice([0, 1, 9, 12345])
        self.lines = [random_line(dice) for _ in range(dice.randrange(1, 5))]
        framed = [sse.event(number, line.encode()) for number, line in enumerate(self.lines, self.first)]
        alive = [dice.random() < 0.2 for _ in framed]
        self.stream = b"".join(sse.HEARTBEAT * waited + one for waited, one in zip(alive, framed, strict=True))
        self.chunks = random_chunks(dice, self.stream)
        self.comments = ["waiting"] * sum(alive)

    @property
    def expected(self) -> dict[str, Any]:
        events = [self._expected(number, line) for number, line in enumerate(self.lines, self.first)]
        return {"events": events, "comments": self.comments, "errors": []}

    def _expected(self, number: int, line: str) -> list[Any]:
        name = "error" if line.startswith('{"error":"') else None
        return [str(number), name, line.replace("\r", " ")]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    dice = random.Random(20260801)
    return [Case(dice) for _ in range(10_000)]


@pytest.mark.needs("npm")
def test_another_parser_reads_back_what_went_in(cases: list[Case]) -> None:
    read = read_by_node([case.chunks for case in cases])
    wrong = [(case.chunks, case.expected, got) for case, got in zip(cases, read, strict=True) if got != case.expected]
    assert not wrong, f"{len(wrong)} of {len(cases)}; the first: {wrong[0]}"


def test_every_line_of_a_stream_holds_a_colon_or_is_blank(cases: list[Case]) -> None:
    """Existing mobile clients split each line at its first colon; a line ends at LF, CR or CR LF."""
    shown = {line for case in cases for line in re.split(b"\r\n|\r|\n", case.stream)}
    assert [line for line in shown if line and b":" not in line] == []


def test_no_event_has_a_name_but_error(cases: list[Case]) -> None:
    """Existing mobile clients take any other event for a message."""
    shown = {line for case in cases for line in case.stream.split(b"\n") if line.startswith(b"event")}
    assert shown == {b"event: error"}
