"""What one process has learned of a model's tokenizer counts in those that start later."""

from collections.abc import AsyncIterator

import pytest

from db.pool import Database
from relay.window.learned_tokens import LearnedTokens
from relay.window.text_counts import count_text

pytestmark = pytest.mark.anyio

TEXT = count_text("some words of a text " * 100)
TOKENS = 1_000
"""Of the text: twice as many as by default."""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, 2, 5.0)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def learned(database: Database) -> int:
    """Return the estimate of a process that has learned much."""
    tokens = LearnedTokens(database)
    for _ in range(10):
        tokens.learn("m", TEXT, TOKENS)
        await tokens.store()  # one count is learned in a while
    assert abs(tokens.of("m").estimate(TEXT) - TOKENS) < 0.02 * TOKENS
    return tokens.of("m").estimate(TEXT)


async def restored(database: Database, tokens: LearnedTokens) -> int:
    async with database.acquire() as connection:
        return (await tokens.load(connection, "m")).estimate(TEXT)


async def test_what_was_learned_counts_although_an_estimate_was_made_before_it_was_read(
    database: Database, learned: int
) -> None:
    tokens = LearnedTokens(database)
    assert tokens.of("m").estimate(TEXT) < 0.7 * TOKENS
    assert "m" not in tokens
    assert await restored(database, tokens) == learned
    assert "m" in tokens


async def test_what_was_learned_is_not_replaced_by_the_little_that_another_process_knows(
    database: Database, learned: int
) -> None:
    tokens = LearnedTokens(database)
    tokens.learn("m", count_text("hi"), 4)
    await tokens.store()
    assert await restored(database, LearnedTokens(database)) == learned


async def test_what_is_learned_after_reading_is_added(database: Database, learned: int) -> None:
    tokens = LearnedTokens(database)
    await restored(database, tokens)
    for _ in range(10):
        tokens.learn("m", TEXT, TOKENS * 3 // 2)
        await tokens.store()
    assert await restored(database, LearnedTokens(database)) > 1.3 * learned


async def test_an_estimator_that_was_given_up_meanwhile_is_restored_again(
    database: Database, learned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.window.tokens.MAX_MODELS", 1)
    tokens = LearnedTokens(database)
    await restored(database, tokens)
    tokens.of("other")
    assert tokens.of("m").estimate(TEXT) < 0.7 * TOKENS
    assert await restored(database, tokens) == learned


async def test_of_a_new_model_what_this_process_has_learned_counts(database: Database) -> None:
    tokens = LearnedTokens(database)
    tokens.learn("m", TEXT, TOKENS)
    estimate = tokens.of("m").estimate(TEXT)
    assert estimate > tokens.of("other").estimate(TEXT)
    assert await restored(database, tokens) == estimate
