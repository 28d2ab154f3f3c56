"""Server-sent events: their exact bytes, and how a conforming parser (WHATWG HTML) reads them."""

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
    ("number", "line", "formatted"),
    [
        pytest.param(0, b'{"done":false}', b'id: 0\ndata: {"done":false}\n\n', id="a line"),
        pytest.param(12345678, b"{}", b"id: 12345678\ndata: {}\n\n", id="a high number"),
        pytest.param(3, ERROR, b"id: 3\nevent: error\ndata: " + ERROR + b"\n\n", id="an error"),
        pytest.param(1, b'{"error": "a"}', b'id: 1\ndata: {"error": "a"}\n\n', id="an error line of another origin"),
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
def test_event_has_exactly_these_bytes(number: int, line: bytes, formatted: bytes) -> None:
    assert sse.event(number, line) == formatted


def test_heartbeat_is_a_comment_line_without_the_blank_line_that_ends_an_event() -> None:
    """httpx-sse, sseclient, fetch-event-source and r3labs/sse deliver an event with empty data at every blank line."""
    assert sse.HEARTBEAT == b": waiting\n"


@pytest.mark.parametrize(("limit", "held"), [(0, 0), (15, 0), (16, 1), (31, 1), (32, 2), (47, 2), (48, 3), (1000, 3)])
def test_events_has_as_many_lines_as_fit(limit: int, held: int) -> None:
    formatted = [b"id: 7\ndata: {}\n\n", b"id: 8\ndata: {}\n\n", b"id: 9\ndata: {}\n\n"]  # 16 bytes each
    assert sse.events(7, [b"{}"] * 3, limit) == (b"".join(formatted[:held]), held)


def test_events_of_no_lines_are_empty() -> None:
    assert sse.events(5, [], 100) == (b"", 0)


@given(st.integers(min_value=0, max_value=1 << 40), lines, st.integers(min_value=0, max_value=400))
def test_events_in_portions_are_complete_and_within_the_limit(first: int, lines: list[bytes], limit: int) -> None:
    singly = [sse.event(number, line) for number, line in enumerate(lines, first)]
    sent = 0
    while sent < len(lines):
        portion, held = sse.events(first + sent, lines[sent:], limit)
        assert portion == b"".join(singly[sent : sent + held])
        assert len(portion) <= limit
        sent += held
        assert sent == len(lines) or len(portion) + len(singly[sent]) > limit, "one more would have fitted"
        if not held:
            sent += 1  # it is sent in slices


@given(
    st.integers(min_value=0, max_value=1 << 40),
    st.binary(max_size=400) | st.binary(max_size=300).map(lambda text: b'{"error":"' + text),
    st.integers(min_value=64, max_value=200),
)
def test_slices_of_an_event_are_within_the_limit_and_together_the_event(number: int, line: bytes, limit: int) -> None:
    slices = list(sse.event_slices(number, line, limit))
    assert b"".join(slices) == sse.event(number, line)
    assert max(map(len, slices)) <= limit


# How clients read the bytes.

# What parsers may get wrong: field names, colons, line ends old and new, a byte order mark, NUL, astral text.
# fmt: off
DIFFICULT_PARTS = [
    *("id: 9", "data: x", "data", "event: error", "event:", "retry: 1", ": waiting", ":", " ", "  ", "\t"),
    *("\r", "\r\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\0", "\ufeff", "\uffff", "\U0001f600"),
    *('{"error":"', '{"error": "', '{"model":"m","done":false}', '"', "\\\\", "\\n", "a", "1"),
    *("e\u0301", "\u05d0", "\ud7ff"),
]
# fmt: on


def random_line(generator: random.Random) -> str:
    start = generator.choice(["", "", "", '{"model":"m","message":', '{"error":1', '{"error":"', "\ufeff", " "])
    return start + "".join(generator.choices(DIFFICULT_PARTS, k=generator.randrange(1, 12)))


def random_chunks(generator: random.Random, stream: bytes) -> list[bytes]:
    """Split anywhere: inside a character, between CR and LF, into empty chunks."""
    cuts = sorted(generator.choices(range(len(stream) + 1), k=generator.randrange(12)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def read_by_node(streams: list[list[bytes]]) -> list[dict[str, Any]]:
    """Parse streams, given in chunks, with eventsource-parser, in one process."""
    request = "\n".join(json.dumps([base64.b64encode(chunk).decode() for chunk in chunks]) for chunks in streams)
    node = subprocess.run(
        ["node", "sse_reader.mjs"],
        input=request.encode(),
        capture_output=True,
        cwd=HERE,
        timeout=60,
        check=False,
    )
    assert node.returncode == 0, node.stderr.decode()
    return [json.loads(answer) for answer in node.stdout.split(b"\n")]


class Case:
    """A few lines, their stream with heartbeats in between, and the expected result of parsing it."""

    def __init__(self, generator: random.Random) -> None:
        self.first = generator.choice([0, 1, 9, 12345])
        self.lines = [random_line(generator) for _ in range(generator.randrange(1, 5))]
        formatted = [sse.event(number, line.encode()) for number, line in enumerate(self.lines, self.first)]
        heartbeats = [generator.random() < 0.2 for _ in formatted]
        self.stream = b"".join(
            sse.HEARTBEAT * heartbeat + event for heartbeat, event in zip(heartbeats, formatted, strict=True)
        )
        self.chunks = random_chunks(generator, self.stream)
        self.comments = ["waiting"] * sum(heartbeats)

    @property
    def expected(self) -> dict[str, Any]:
        events = [self._expected(number, line) for number, line in enumerate(self.lines, self.first)]
        return {"events": events, "comments": self.comments, "errors": []}

    def _expected(self, number: int, line: str) -> list[Any]:
        name = "error" if line.startswith('{"error":"') else None
        return [str(number), name, line.replace("\r", " ")]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    generator = random.Random(20260801)
    return [Case(generator) for _ in range(10_000)]


@pytest.mark.needs("npm")
def test_conforming_parser_reads_the_lines(cases: list[Case]) -> None:
    read = read_by_node([case.chunks for case in cases])
    wrong = [(case.chunks, case.expected, got) for case, got in zip(cases, read, strict=True) if got != case.expected]
    assert not wrong, f"{len(wrong)} of {len(cases)}; the first: {wrong[0]}"


def test_every_line_of_a_stream_has_a_colon_or_is_blank(cases: list[Case]) -> None:
    """Existing mobile clients split each line at its first colon; a line ends at LF, CR or CR LF."""
    shown = {line for case in cases for line in re.split(b"\r\n|\r|\n", case.stream)}
    assert [line for line in shown if line and b":" not in line] == []


def test_error_is_the_only_event_name(cases: list[Case]) -> None:
    """Existing mobile clients take any other event for a message."""
    shown = {line for case in cases for line in case.stream.split(b"\n") if line.startswith(b"event")}
    assert shown == {b"event: error"}
