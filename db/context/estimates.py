"""The table ``token_estimates``: what was learned of the tokenizers of models, for processes that start later."""

from collections.abc import Mapping

import asyncpg


async def read_estimate(connection: asyncpg.Connection, model: str) -> str | None:
    """Return what was learned of a model, as JSON; None if nothing was."""
    state: str | None = await connection.fetchval("SELECT state FROM token_estimates WHERE model = $1", model)
    return state


async def store_estimates(connection: asyncpg.Connection, states: Mapping[str, str]) -> None:
    """Store what was learned of models: JSON by name. Of two processes the one that stores last counts."""
    await connection.execute(
        """
        INSERT INTO token_estimates (model, state)
        SELECT * FROM unnest($1::text[], $2::json[]) AS learned (model, state) ORDER BY model
        ON CONFLICT (model) DO UPDATE SET state = excluded.state
        """,
        sorted(states),
        [states[model] for model in sorted(states)],
    )
