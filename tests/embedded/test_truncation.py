"""What is left out of a prompt that does not fit into the window, compared with Ollama's own way and figures."""

import random
from collections.abc import Sequence

import pytest

from embedded.truncation import Message, cut_to_half, without_oldest


def one_by_one(messages: Sequence[Message], window: int) -> Sequence[Message]:
    """Leave out the oldest messages as server/prompt.go in Ollama does."""
    for first in range(len(messages)):
        system = [message for message in messages[:first] if message[0] == "system"]
        kept = [*system, *messages[first:]]
        if length(kept) <= window or first == len(messages) - 1:
            return kept
    raise AssertionError("a conversation has a message")


def length(messages: Sequence[Message]) -> int:
    return sum(len(content) for _, content in messages)


@pytest.mark.parametrize(
    "seed", [*range(10), *(pytest.param(seed, marks=pytest.mark.extended) for seed in range(10, 50))]
)
def test_the_oldest_messages_are_left_out_as_ollama_does(seed: int) -> None:
    chance = random.Random(seed)
    roles = ["user", "assistant", "system"]
    messages = [(chance.choice(roles), "x" * chance.randrange(20)) for _ in range(chance.randrange(1, 12))]
    for window in range(0, 120, 7):
        found = without_oldest(messages, lambda kept, window=window: length(kept) <= window)  # type: ignore[misc]
        assert found == one_by_one(messages, window)


def test_a_conversation_of_a_thousand_messages_takes_few_tries() -> None:
    tries = 0

    def fits(messages: Sequence[Message]) -> bool:
        nonlocal tries
        tries += 1
        return len(messages) <= 10

    messages = [("user", str(number)) for number in range(1000)]
    assert without_oldest(messages, fits) == messages[-10:]
    assert tries <= 11


@pytest.mark.parametrize(
    ("tokens", "window", "left"),
    [(1510, 512, 258), (6010, 4096, 2050), (8707, 4096, 2050), (512, 512, 258), (511, 512, 511), (9, 4, 3)],
)
def test_a_prompt_that_is_too_long_is_cut_to_half_the_window(tokens: int, window: int, left: int) -> None:
    cut = cut_to_half(range(tokens), window)
    assert len(cut) == left
    assert cut[:3] == [0, 1, 2]
    assert cut[4:] == list(range(tokens))[tokens - left + 4 :]
