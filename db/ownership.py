"""The owners of streaming replies: orphans, adoption and release."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from db.processes import CHANNEL


@dataclass(frozen=True, slots=True)
class Orphan:
    """A streaming reply that no living process owns.

    :ivar owner: id of the dead process, or None if the reply was released.
    """

    id: UUID
    owner: int | None


@dataclass(frozen=True, slots=True)
class AdoptedReply:
    """What the adopting process needs to continue a reply.

    :ivar attempts: number of consecutive adoptions without a new line, including this one.
    :ivar stop: whether a stop was requested.
    :ivar plain_client: see :class:`db.reply_begin.NewReply`.
    :ivar line_count: number of lines in its log.
    :ivar continues_at: see :class:`db.replies.ReplySource`, which has what was sent for the reply.
    """

    id: UUID
    tenant: str
    appid: str
    model: str
    attempts: int
    stop: bool
    plain_client: bool
    continues_at: int | None
    line_count: int


async def find_owned(connection: asyncpg.Connection, owner: int) -> list[tuple[UUID, bool]]:
    """Find the streaming replies of a process, and for each whether a stop was requested."""
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
        ORDER BY random() -- so that concurrent adopters choose different replies
        LIMIT $1
        """,
        limit,
    )
    return [Orphan(row["id"], row["owner"]) for row in rows]


async def adopt(connection: asyncpg.Connection, orphan: Orphan, owner: int) -> AdoptedReply | None:
    """Set the owner of an orphan (compare-and-set). Of concurrent adopters exactly one succeeds.

    :param owner: id of the adopting process, which must be registered.
    :returns: None if the reply is not this orphan any more, or the process was declared dead.
    """
    row = await connection.fetchrow(
        """
        UPDATE replies
        SET owner = $3, adopted_after = log.last,
            attempts = CASE WHEN adopted_after = log.last THEN attempts + 1 ELSE 1 END
        FROM (SELECT coalesce(max(seq), -1) AS last FROM reply_lines WHERE reply = $1) AS log
        WHERE id = $1 AND owner IS NOT DISTINCT FROM $2 AND finished IS NULL
        AND EXISTS (SELECT FROM processes WHERE processes.owner = $3)
        RETURNING id, tenant, appid, model, attempts, stop, plain_client, continues_at, log.last + 1 AS line_count
        """,
        orphan.id,
        orphan.owner,
        owner,
    )
    return AdoptedReply(**row) if row else None


async def count_continuation(connection: asyncpg.Connection, tenant: str, reply: UUID, owner: int) -> int | None:
    """Count that a reply is continued after Ollama broke.

    :param owner: id of the process that generates the reply.
    :returns: the number of continuations, this one included; None if the process does not own the reply any more or
        the reply has ended.
    """
    continuations: int | None = await connection.fetchval(
        """
        UPDATE replies SET continuations = continuations + 1
        WHERE tenant = $1 AND id = $2 AND owner = $3 AND finished IS NULL
        RETURNING continuations
        """,
        tenant,
        reply,
        owner,
    )
    return continuations


async def release(connection: asyncpg.Connection, owner: int, replies: Sequence[UUID]) -> None:
    """Release replies, so that any process can adopt them, and notify all processes."""
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
