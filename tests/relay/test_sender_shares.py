"""Shares of memory: whatever the senders do, there is room for another, and what is released can be charged again."""

import random

import pytest

from relay.sender_shares import Charge, SenderShares

LIMIT = 12_000


def fill(budget: SenderShares, sender: str, size: int = 1) -> Charge:
    """Charge as much as the budget allows, ``size`` bytes at a time."""
    charge = budget.charge(sender)
    while charge.grow(size):
        pass
    return charge


@pytest.mark.parametrize("senders", [1, 2, 3, 15])
def test_greedy_senders_have_equal_shares_and_leave_as_much_to_another(senders: int) -> None:
    budget = SenderShares(LIMIT)
    charges = [budget.charge(str(number)) for number in range(senders)]
    while any([charge.grow(1) for charge in charges]):
        pass
    share = LIMIT // (senders + 1)
    assert all(share - 1 <= charge.size <= share + 1 for charge in charges)
    assert LIMIT - budget.charged >= share
    assert fill(budget, "another").size >= share // 2


def test_a_sender_has_one_share_however_many_bodies_it_sends() -> None:
    budget = SenderShares(LIMIT)
    assert sum(fill(budget, "alice", 100).size for _ in range(50)) == LIMIT // 2


def test_bytes_that_exceed_the_share_are_not_charged() -> None:
    budget = SenderShares(LIMIT)
    charge = budget.charge("alice")
    assert not charge.grow(LIMIT // 2 + 1)
    assert (charge.size, budget.charged) == (0, 0)
    assert charge.grow(LIMIT // 2)


def test_what_is_released_any_number_of_times_is_free_once() -> None:
    budget = SenderShares(LIMIT)
    first, second = budget.charge("alice"), budget.charge("alice")
    assert first.grow(100) and second.grow(200)
    for _ in range(3):
        first.release()
        assert budget.charged == 200
    second.release()
    assert (first.size, second.size, budget.charged) == (0, 0, 0)
    assert fill(budget, "alice").size == LIMIT // 2


@pytest.mark.parametrize("seed", range(5))
def test_the_charges_never_exceed_the_limit_and_always_add_up(seed: int) -> None:
    chance, budget = random.Random(seed), SenderShares(LIMIT)
    charges = [budget.charge(str(number % 7)) for number in range(40)]
    for _ in range(2_000):
        charge = chance.choice(charges)
        charge.release() if chance.random() < 0.3 else charge.grow(chance.randrange(1, 2_000))
        assert budget.charged == sum(charge.size for charge in charges) < LIMIT
    for charge in charges:
        charge.release()
    assert budget.charged == 0
