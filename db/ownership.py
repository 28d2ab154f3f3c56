"""Streaming replies and their owners: which process generates which, and how one passes to another."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from db.processes import CHANNEL


@dataclass(frozen=True, slots=True)
class Orphan:
    """A streaming reply that no living process owns: None for one that was given up, else the dead."""

    id: UUID
    owner: int | None


@dataclass(frozen=True, slots=True)
class AdoptedReply:
    """What an adopter must know of a reply.

    :param request: see :class:`NewReply`.
    :param attempts: how often in a row it was adopted without a new line since the last time, this time included.
    :param stop: whether somebody asked to stop it.
    """

    id: UUID
    tenant: str
    appid: str
    model: str
    request: str
    attempts: int
    stop: bool


async def find_owned(connection: asyncpg.Connection, owner: int) -> list[tuple[UUID, bool]]:
    """Find the streaming replies of a process, and for each whether somebody asked to stop it."""
    rows = await connection.fetch("SELECT id, stop FROM replies WHERE owner = $1 AND status = 'streaming'", owner)
    return [(row["id"], row["stop"]) for row in rows]


async def find_orphans(connection: asyncpg.Connection, limit: int) -> list[Orphan]:
    """Find streaming replies that no living process owns."""
    rows = await connection.fetch(
        """
        SELECT id, owner FROM replies
        WHERE status = 'streaming' AND (owner IS NULL OR NOT EXISTS (
            SELECT FROM processes WHERE processes.owner = replies.owner
        ))
        ORDER BY random() -- so that several adopters do not all go for the same ones
        LIMIT $1
        """,
        limit,
    )
    return [Orphan(row["id"], row["owner"]) for row in rows]


async def adopt(connection: asyncpg.Connection, orphan: Orphan, owner: int) -> AdoptedReply | None:
    """Make a reply ``owner``'s, if it is still the orphan that was found; of two who try, one succeeds."""
    row = await connection.fetchrow(
        """
        UPDATE replies
        SET owner = $3, adopted_after = log.last,
            attempts = CASE WHEN adopted_after = log.last THEN attempts + 1 ELSE 1 END
        FROM (SELECT coalesce(max(seq), -1) AS last FROM reply_lines WHERE reply = $1) AS log
        WHERE id = $1 AND owner IS NOT DISTINCT FROM $2 AND finished IS NULL
        AND EXISTS (SELECT FROM processes WHERE processes.owner = $3)
        RETURNING id, tenant, appid, model, request, attempts, stop
        """,
        orphan.id,
        orphan.owner,
        owner,
    )
    return AdoptedReply(**row) if row else None


async def release(connection: asyncpg.Connection, owner: int, replies: Sequence[UUID]) -> None:
    """Give replies up for any process to adopt, and tell all."""
    await connection.execute(
        """
        WITH released AS (
            UPDATE replies SET owner = NULL WHERE owner = $1 AND id = ANY ($2::uuid[]) AND finished IS NULL
            RETURNING id
        )
        SELECT pg_notify($3, 'orphan ' || id) FROM released
        """,
        owner,
        replies,
        CHANNEL,
    )
