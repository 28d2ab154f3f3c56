"""What the benchmark makes of the turns of a conversation that outgrows its window."""

import pytest

from bench.measuring.conversation import Turn, prompt
from bench.scenarios.window import values


def test_the_window_is_full_where_a_prompt_is_shorter_than_what_was_there_before() -> None:
    turns = [Turn(3.0, 30, 10), Turn(0.4, 60, 10), Turn(0.6, 90, 10), Turn(5.0, 50, 10), Turn(0.5, 80, 9)]
    found = values(turns)
    assert found["full_turn"] == 4
    assert (found["before_p50_s"], found["after_p50_s"]) == (0.5, 2.75)
    assert (found["after_mean_s"], found["after_max_s"], found["mean_ratio"]) == (2.75, 5.0, 5.5)
    assert (found["turn_1_s"], found["turn_5_tokens"]) == (3.0, 80)


def test_a_conversation_that_fits_has_turns_only() -> None:
    found = values([Turn(3.0, 30, 10), Turn(0.5, 60, 10), Turn(0.5, 70, 10)])
    assert set(found) == {f"turn_{turn}_{what}" for turn in (1, 2, 3) for what in ("s", "tokens")}


@pytest.mark.parametrize("turn", [1, 60, 1001])
def test_each_turn_has_a_prompt_of_its_own(turn: int) -> None:
    assert len({prompt(turn), prompt(turn + 1), prompt(turn + 5)}) == 3
