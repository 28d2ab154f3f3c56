"""Words that a model repeats before it continues them are removed; a new answer is recognized."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ollama import chat_line
from relay.ollama.echo import EchoFilter, NotContinued
from tests.fakes.ollama import last_line, line

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def content_of(filter: EchoFilter, *lines: bytes) -> str:
    passed = [filter.feed(one) for one in lines]
    return "".join(chat_line.read(one).content for one in passed if one is not None)


@given(texts, texts, st.data())
def test_repeated_words_are_removed_wherever_lines_end(words: str, new: str, data: st.DataObject) -> None:
    text = words + new
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert content_of(EchoFilter(words, required=True), *map(line, pieces), last_line()) == new


@given(texts, texts)
def test_another_answer_is_recognized_at_its_first_different_character(words: str, answer: str) -> None:
    filter = EchoFilter(words, required=True)
    if answer.startswith(words):
        assert content_of(filter, line(answer)) == answer[len(words) :]
    elif words.startswith(answer):
        assert content_of(filter, line(answer)) == ""
    else:
        with pytest.raises(NotContinued):
            filter.feed(line(answer))


@pytest.mark.parametrize(
    "first", [line("", message={"thinking": "hm"}), line("", message={"tool_calls": [{}]}), last_line("a")]
)
def test_a_thought_a_call_or_an_end_within_the_words_is_another_answer(first: bytes) -> None:
    with pytest.raises(NotContinued):
        EchoFilter("ab", required=True).feed(first)


def test_a_model_that_adds_nothing_ends_the_reply() -> None:
    assert EchoFilter("ab", required=True).feed(last_line()) == last_line()


def test_an_answer_that_ends_within_the_words_is_another_one() -> None:
    filter = EchoFilter("The ship. The sea", required=True)
    assert filter.feed(line("The ship.")) is None
    with pytest.raises(NotContinued):
        filter.feed(last_line())


def test_errors_and_unreadable_lines_pass() -> None:
    filter = EchoFilter("ab", required=True)
    assert [filter.feed(one) for one in (b'{"error":"no"}', b"{", line(""))] == [b'{"error":"no"}', b"{", None]


def test_where_words_are_continued_only_a_first_line_with_all_of_them_is_changed() -> None:
    assert content_of(EchoFilter("ab", required=False), line("abc"), line("d")) == "cd"
    assert content_of(EchoFilter("ab", required=False), line("a"), line("b")) == "ab"
    assert content_of(EchoFilter("ab", required=False), line("c"), line("abd")) == "cabd"


def test_half_a_surrogate_pair_behind_the_words_is_kept() -> None:
    half = line("abX").replace(b"X", b"\\ud83d")
    assert EchoFilter("ab", required=True).feed(half) == line("X").replace(b"X", b"\\ud83d")


def test_other_fields_of_a_changed_line_are_kept() -> None:
    filter = EchoFilter("ab", required=True)
    assert filter.feed(last_line("abc", message={"thinking": "hm"})) == last_line("c", message={"thinking": "hm"})


def test_a_thought_before_the_words_does_not_hide_that_they_are_repeated() -> None:
    filter = EchoFilter("ab", required=False)
    assert content_of(filter, line("", message={"thinking": "hm"}), line("abc"), line("ab")) == "cab"
