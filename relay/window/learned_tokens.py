"""Keeps what was learned of the tokenizers of models, in the database for processes that start later."""

from time import monotonic
from weakref import WeakSet

import asyncpg

from db.context import estimates
from db.pool import Database
from relay.window.text_counts import TextCounts
from relay.window.tokens import TokenEstimator, TokenEstimators

LEARN_INTERVAL = 0.2
"""Seconds between two counts of one model that are learned from: each takes some 0.1 ms."""


class LearnedTokens:
    """The estimators of all models."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._estimators = TokenEstimators()
        self._loaded: WeakSet[TokenEstimator] = WeakSet()
        self._learned_at: dict[str, float] = {}
        self._unstored: set[str] = set()

    def __contains__(self, model: str) -> bool:
        """Return whether there is an estimator of a model with what was learned before this process knew it."""
        return model in self._estimators and self._estimators.of(model) in self._loaded

    def of(self, model: str) -> TokenEstimator:
        """Return the estimator of a model."""
        return self._estimators.of(model)

    async def load(self, connection: asyncpg.Connection, model: str) -> TokenEstimator:
        """Return the estimator of a model, with what was learned before this process knew it."""
        if model not in self:
            state = await estimates.read_estimate(connection, model)
            estimator = self._estimators.of(model)
            self._loaded.add(estimator)
            if state:
                estimator.restore(state)
        return self._estimators.of(model)

    def learn(self, model: str, counts: TextCounts, tokens: int) -> None:
        """Learn how many tokens a prompt had.

        :param counts: what it consisted of.
        :param tokens: of all of it, as Ollama counted them.
        """
        now = monotonic()
        if now - self._learned_at.get(model, -LEARN_INTERVAL) >= LEARN_INTERVAL:
            self._learned_at[model] = now
            self._unstored.add(model)
            self._estimators.of(model).learn(counts, tokens)

    async def store(self) -> None:
        """Store what was learned since the last call. What other processes have learned before comes first: of a model
        of which this one has learned a little only, that counts.

        :raises ServiceUnavailable: the database is unavailable.
        """
        self._learned_at.clear()
        if not self._unstored:
            return
        models, self._unstored = self._unstored, set()
        async with self._database.acquire() as connection:
            states = {model: (await self.load(connection, model)).state() for model in models}
            await estimates.store_estimates(connection, states)
