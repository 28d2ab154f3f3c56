"""What is counted in texts and messages."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.messages import Message
from relay.window.text_counts import CHUNK, FEATURES, TextCounts, count_message, count_text

NAMES = [feature.name for feature in FEATURES]
CHARACTERS = st.text("ab Z09\n\t.,\x00_éßüŁжΩא中、ンก한‘—😀", max_size=40)


def named(counts: TextCounts) -> dict[str, int]:
    """The counts that are not zero."""
    return {name: count for name, count in zip(NAMES, counts.features, strict=True) if count}


def reference(text: str) -> dict[str, int]:
    """The same counts by regular expressions over characters."""
    classes = {
        "lower-case letters": "[a-z]",
        "upper-case letters": "[A-Z]",
        "words": "[a-zA-Z\x80-\U0010ffff]+",
        "digits": "[0-9]",
        "numbers": "[0-9]+",
        "marks": "[\x00-\x08\x0e-\x1b\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]",
        "runs of marks": "[\x00-\x08\x0e-\x1b\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]+",
        "line breaks": "[\t\n\v\f\r\x1c-\x1f]",
        "spaces": " ",
        "Latin letters beyond ASCII": "[\xc0-\u027f]",
        "other characters of two bytes": "[\x80-\xbf\u0280-\u07ff]",
        "CJK characters": "[\u3000-\u9fff]",
        "other characters of three or four bytes": "[\u0800-\u2fff\ua000-\U0010ffff]",
    }
    counts = {name: len(re.findall(pattern, text)) for name, pattern in classes.items()}
    return {name: count for name, count in counts.items() if count}


@given(st.one_of(st.text(), CHARACTERS))
def test_a_text_is_counted_by_its_characters_and_runs(text: str) -> None:
    assert named(count_text(text)) == reference(text)


@given(CHARACTERS, st.integers(-30, 30), st.sampled_from("a0., \n"))
def test_a_chunk_may_end_anywhere(text: str, shift: int, filler: str) -> None:
    long = filler * (CHUNK + shift) + text + filler * CHUNK + text
    assert named(count_text(long)) == reference(long)


@given(CHARACTERS, CHARACTERS)
def test_a_text_has_at_least_the_counts_of_its_parts(first: str, second: str) -> None:
    whole, one, other = (count_text(text).features for text in (first + second, first, second))
    assert all(map(int.__ge__, whole, one))
    assert all(map(int.__ge__, whole, other))


def test_counts_add_up() -> None:
    assert TextCounts() + TextCounts(pictures=1) + TextCounts(pictures=2) == TextCounts(pictures=3)
    assert named(count_text("ab") + count_text("c 1")) == {
        "lower-case letters": 3, "words": 2, "digits": 1, "numbers": 1, "spaces": 1,
    }  # fmt: skip


def test_a_lone_surrogate_is_counted() -> None:
    assert named(count_text("\ud800")) == {"words": 1, "other characters of three or four bytes": 1}


def test_a_message_has_its_content_and_what_the_template_puts_around_it() -> None:
    assert count_message(Message("user", "Hi")) == count_text("Hi") + TextCounts((0,) * (len(NAMES) - 1) + (1,))


def test_calls_of_tools_thoughts_and_images_count() -> None:
    calls = [{"function": {"name": "look_up", "arguments": {"town": "Köln"}}}]
    extra = {"thinking": "Hm, Öl", "tool_calls": calls, "images": ["iVBORw0KGgo=", "/9j/4AAQ"], "anything": "else"}
    counts = count_message(Message("assistant", "", json.dumps(extra, ensure_ascii=False)))
    expected = named(count_text(json.dumps(calls, ensure_ascii=False)))
    assert named(counts) == {**expected, "bytes of thoughts": 7, "messages": 1}
    assert counts.pictures == 2


def test_the_name_of_a_tool_counts() -> None:
    assert count_message(Message("tool", "1", '{"tool_name": "look_up"}')).features[0] == 6


@pytest.mark.parametrize(
    "extra", ["", "[]", "{", "null", '{"images": null, "thinking": null}', '{"images": 1, "thinking": {}}']
)
def test_other_programs_may_store_anything_in_the_other_fields(extra: str) -> None:
    assert count_message(Message("user", "Hi", extra)) == count_message(Message("user", "Hi"))
