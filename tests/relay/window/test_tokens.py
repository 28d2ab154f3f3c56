"""Estimates of tokens, and what is learned from Ollama's numbers. `bench/token_estimate.py` has a real tokenizer."""

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.messages import Message
from relay.window import tokens
from relay.window.text_counts import FEATURES, TextCounts, count_message, count_text
from relay.window.tokens import TokenEstimator, TokenEstimators

ROOT = Path(__file__).parents[3]
TEXTS = ["README.md", "docs/clustering.md", "server.py", "static/openapi.json", "static/vendor/vendor.json"]

COUNTS = st.builds(
    TextCounts,
    st.tuples(*[st.integers(0, 3_000_000)] * len(FEATURES)),
    st.one_of(st.just(0), st.integers(0, 50)),
)
OBSERVATIONS = st.lists(st.tuples(COUNTS, st.one_of(st.integers(-10, 10_000), st.integers(0, 10**12))), max_size=30)


def tokenize(text: str, letters: int = 3) -> int:
    """A tokenizer: so many letters, one digit, or two other characters are a token, and a space belongs to a word."""
    parts = re.findall(rf" ?[^\W\d_]{{1,{letters}}}|\d|\s+|[^\w\s]{{1,2}}|_", text)
    return len(parts)


def conversation(text: str, turns: int = 10, letters: int = 3) -> Iterator[tuple[TextCounts, int]]:
    """The prompts of a conversation with a model whose template has 5 tokens for each message, and 25 at its head."""
    counts, number = TextCounts(), 25
    size = min(len(text) // (2 * turns), 700)
    for turn in range(2 * turns):
        piece = text[turn * size : (turn + 1) * size]
        counts += count_message(Message("user", piece))
        number += tokenize(piece, letters) + 5
        if turn % 2 == 0:
            yield counts, number


def error(estimator: TokenEstimator, prompt: tuple[TextCounts, int]) -> float:
    counts, number = prompt
    return abs(estimator.estimate(counts) / number - 1)


def learned(text: str = "README.md", letters: int = 3) -> TokenEstimator:
    estimator = TokenEstimator()
    for counts, number in conversation((ROOT / text).read_text(), letters=letters):
        estimator.learn(counts, number)
    return estimator


def last_prompt(text: str = "README.md", letters: int = 3) -> tuple[TextCounts, int]:
    return list(conversation((ROOT / text).read_text(), letters=letters))[-1]


def test_nothing_has_no_tokens() -> None:
    assert TokenEstimator().estimate(TextCounts()) == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # As Llama's, Qwen's and OpenAI's tokenizers have it, give or take one or two.
        ("The quick brown fox jumps over the lazy dog.", 10),
        ("Franz jagt im komplett verwahrlosten Taxi quer durch Bayern.", 17),
        ("def add(first: int, second: int) -> int:\n    return first + second\n", 20),
    ],
)
def test_the_defaults_fit_common_tokenizers(text: str, number: int) -> None:
    assert TokenEstimator().estimate(count_text(text)) == pytest.approx(number, rel=0.3)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("letters", [2, 3, 6])
def test_after_ten_turns_the_error_is_below_5_percent(text: str, letters: int) -> None:
    estimator = TokenEstimator()
    errors = []
    for prompt in conversation((ROOT / text).read_text(), letters=letters):
        errors.append(error(estimator, prompt))
        estimator.learn(*prompt)
    assert errors[-1] < 0.05, errors


def test_a_conversation_may_change_its_language() -> None:
    estimator = learned("README.md")
    chinese = "服务器把每一行都先写入数据库，然后才发送给客户端。如果进程死掉，另一个进程会继续。" * 60
    errors = []
    for prompt in conversation(chinese, letters=1):
        errors.append(error(estimator, prompt))
        estimator.learn(*prompt)
    assert errors[-1] < 0.05, errors
    assert error(estimator, last_prompt()) < 0.15


@given(OBSERVATIONS, COUNTS, COUNTS)
def test_whatever_was_learned_estimates_are_sane(
    observations: list[tuple[TextCounts, int]], first: TextCounts, second: TextCounts
) -> None:
    estimator = TokenEstimator()
    for observation in observations:
        estimator.learn(*observation)
    one, other, both = (estimator.estimate(counts) for counts in (first, second, first + second))
    assert 0 <= one <= both and 0 <= other <= both
    assert abs(one + other - both) <= 2
    assert math.isfinite(both)


@given(OBSERVATIONS, st.text(), st.text())
def test_more_text_never_has_fewer_tokens(observations: list[tuple[TextCounts, int]], first: str, second: str) -> None:
    estimator = TokenEstimator()
    for observation in observations:
        estimator.learn(*observation)
    whole = estimator.estimate(count_text(first + second))
    assert whole >= estimator.estimate(count_text(first))
    assert whole >= estimator.estimate(count_text(second))


@given(OBSERVATIONS)
def test_no_wrong_numbers_ruin_an_estimator_for_good(observations: list[tuple[TextCounts, int]]) -> None:
    estimator = TokenEstimator()
    for observation in observations:
        estimator.learn(*observation)
    text = (ROOT / "README.md").read_text()
    for _ in range(3):
        for prompt in conversation(text):
            estimator.learn(*prompt)
    assert error(estimator, last_prompt()) < 0.05


def test_contradicting_numbers_make_no_weight_negative() -> None:
    estimator = TokenEstimator()
    lower, upper = count_text("abcdefgh " * 2_000), count_text("ABCDEFGH " * 1_000)
    for _ in range(20):
        estimator.learn(lower, 16_000)
        for _ in range(3):
            estimator.learn(lower + upper, 6_000)
    assert estimator.estimate(upper) > 0


def test_a_number_that_was_too_large_does_not_keep_out_the_right_ones() -> None:
    estimator = TokenEstimator()
    prompts = list(conversation((ROOT / "README.md").read_text()))
    estimator.learn(prompts[3][0], 3 * prompts[3][1])
    for prompt in prompts[4:]:
        estimator.learn(*prompt)
    assert error(estimator, prompts[-1]) < 0.05


def test_a_model_may_get_another_tokenizer() -> None:
    estimator = TokenEstimator()
    text = (ROOT / "README.md").read_text()
    for letters in (6, 6, 6, 6, 6, 2):
        for prompt in conversation(text, letters=letters):
            estimator.learn(*prompt)
    assert error(estimator, last_prompt(letters=2)) < 0.05


@pytest.mark.parametrize("factor", [0.55, 3])
def test_a_wrong_number_does_limited_harm(factor: float) -> None:
    estimator = learned()
    counts, number = last_prompt()
    estimator.learn(counts, round(factor * number))
    assert error(estimator, (counts, number)) < 0.2
    for prompt in conversation((ROOT / "README.md").read_text()):
        estimator.learn(*prompt)
    assert error(estimator, (counts, number)) < 0.02


@pytest.mark.parametrize("number", [-1, 0, 1, 300, 60_000, 10**9])
def test_impossible_numbers_are_ignored(number: int) -> None:
    estimator = learned()
    counts, _ = last_prompt()
    before = estimator.estimate(counts)
    estimator.learn(counts, number)
    assert estimator.estimate(counts) == before


@pytest.mark.parametrize("text", TEXTS)
def test_numbers_of_uncached_tokens_are_ignored(text: str) -> None:
    """Ollama 0.30 counted only what came behind the prompt before, and its answer."""
    estimator, unspoiled = TokenEstimator(), TokenEstimator()
    prompts = list(conversation((ROOT / text).read_text(), letters=6))
    unspoiled.learn(*prompts[0])
    estimator.learn(*prompts[0])
    for (_, before), (counts, number) in itertools.pairwise(prompts):
        estimator.learn(counts, (number - before) // 2)
        assert estimator.estimate(counts) == unspoiled.estimate(counts)


def test_thoughts_that_the_template_leaves_out_cost_little_in_the_end() -> None:
    estimator = TokenEstimator()
    thoughts = TextCounts()
    for counts, number in conversation((ROOT / "README.md").read_text()):
        prompt = counts + thoughts, number
        final = error(estimator, prompt)
        estimator.learn(*prompt)
        thoughts += count_message(Message("assistant", "", '{"thinking": "' + "Let me see. " * 100 + '"}'))
    assert final < 0.1


def picture_prompt(pictures: int, each: int) -> tuple[TextCounts, int]:
    counts, number = last_prompt()
    return counts + TextCounts(pictures=pictures), number + pictures * each


@pytest.mark.parametrize("each", [256, 1_500, 4_000])
def test_the_tokens_of_a_picture_are_learned_beside_those_of_text(each: int) -> None:
    estimator = learned()
    text = last_prompt()
    before = estimator.estimate(text[0])
    for _ in range(10):
        estimator.learn(*picture_prompt(2, each))
    assert error(estimator, picture_prompt(1, each)) < 0.05
    assert estimator.estimate(text[0]) == before


def test_a_picture_is_not_learned_while_its_text_is_uncertain() -> None:
    estimator = TokenEstimator()
    counts, number = last_prompt()
    estimator.learn(counts + TextCounts(pictures=1), number + 256)
    assert estimator.estimate(TextCounts(pictures=1)) == tokens.DEFAULT_PICTURE


def test_a_picture_is_learned_beside_a_short_text_at_once() -> None:
    estimator = TokenEstimator()
    counts = count_message(Message("user", "What is this?"))
    for _ in range(10):
        estimator.learn(counts + TextCounts(pictures=1), 256 + 12)
    assert estimator.estimate(TextCounts(pictures=1)) == pytest.approx(256, rel=0.1)


def test_what_was_learned_can_be_restored() -> None:
    estimator, other = learned(letters=2), TokenEstimator()
    estimator.learn(*picture_prompt(2, 256))
    other.restore(estimator.state())
    for counts, number in [last_prompt("server.py"), picture_prompt(3, 256)]:
        assert other.estimate(counts) == estimator.estimate(counts)
        estimator.learn(counts, number)
        other.learn(counts, number)
        assert other.estimate(counts) == estimator.estimate(counts)


def test_restored_weights_are_positive_and_bounded() -> None:
    state = json.loads(TokenEstimator().state())
    estimator = TokenEstimator()
    estimator.restore(json.dumps({**state, "weights": [-1e300, 1e300] * 7 + [0], "picture": -5}))
    for counts in (count_text("abcdefgh " * 100), count_text("ABCDEFGH " * 100), TextCounts(pictures=9)):
        assert 0 < estimator.estimate(counts) < 5_000


@pytest.mark.parametrize("change", [{"features": ["letters"]}, {"weights": [1]}, {"covariance": []}, {"picture": "1"}])
def test_a_state_of_another_version_is_ignored(change: dict[str, object]) -> None:
    estimator, fresh = TokenEstimator(), TokenEstimator()
    estimator.restore(json.dumps({**json.loads(learned(letters=2).state()), **change}))
    assert estimator.state() == fresh.state()


def test_each_model_has_an_estimator_of_its_own() -> None:
    estimators = TokenEstimators()
    counts, number = last_prompt()
    estimators.of("one").learn(counts, 2 * number)
    assert estimators.of("one").estimate(counts) > estimators.of("other").estimate(counts)
    assert estimators.of("one") is estimators.of("one")


def test_the_models_that_were_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_MODELS", 2)
    estimators = TokenEstimators()
    first, second = estimators.of("first"), estimators.of("second")
    assert estimators.of("first") is first
    estimators.of("third")
    assert estimators.of("first") is first
    assert estimators.of("second") is not second
