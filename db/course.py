"""The statements of the course's other routes: messages without an appID, and the replacement of a conversation."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from db.messages import CHECKED_EXTRA, Message
from db.processes import CHANNEL
from db.replies import find_streaming

Chatt = tuple[str, str, UUID, datetime]
"""Name, message, id and time of a message that belongs to no conversation."""


async def read_chatt_sizes(connection: asyncpg.Connection, tenant: str, limit: int, size: int) -> list[tuple[int, int]]:
    """Find the newest messages that belong to no conversation: ``seq`` and bytes of each, in the order of their time.

    :param limit: maximum number of messages.
    :param size: maximum bytes of all; the newest one is among them whatever its size is.
    """
    rows = await connection.fetch(
        """
        SELECT seq, size FROM (
            SELECT seq, time, size, sum(size) OVER (ORDER BY seq DESC) AS total FROM (
                SELECT seq, time, octet_length(username) + octet_length(message) AS size
                FROM chatts WHERE tenant = $1 AND appid IS NULL ORDER BY seq DESC LIMIT $2
            ) AS newest
        ) AS sized
        WHERE total <= $3 OR total = size
        ORDER BY time, seq
        """,
        tenant,
        limit,
        size,
    )
    return [(row["seq"], row["size"]) for row in rows]


async def read_chatts(connection: asyncpg.Connection, tenant: str, keys: Sequence[int]) -> list[Chatt]:
    """Read messages that belong to no conversation, in the order of their time.

    :param keys: their ``seq``; those that were deleted meanwhile are missing.
    """
    rows = await connection.fetch(
        """
        SELECT username, message, id, time FROM chatts
        WHERE tenant = $1 AND appid IS NULL AND seq = ANY ($2::bigint[])
        ORDER BY time, seq
        """,
        tenant,
        keys,
    )
    return [(row["username"], row["message"], row["id"], row["time"]) for row in rows]


async def insert_chatt(connection: asyncpg.Connection, tenant: str, name: str, message: str) -> None:
    """Insert a message that belongs to no conversation.

    :raises asyncpg.DataError: PostgreSQL cannot store the text.
    """
    await connection.execute(
        "INSERT INTO chatts (tenant, appid, username, message) VALUES ($1, NULL, $2, $3)", tenant, name, message
    )


async def claim_conversation(
    connection: asyncpg.Connection, tenant: str, appid: str, claim: UUID, owner: int
) -> UUID | None:
    """Insert a streaming reply that asks no model, unless one is streaming: until it ends, no prompt is recorded.

    Its stop was requested: if this process dies, or forgets it, the reply is adopted and ends.

    :param claim: the id of the reply.
    :returns: the reply that is streaming, in which case nothing was inserted; otherwise None.
    """
    while True:
        claimed = await connection.fetchval(
            """
            INSERT INTO replies (id, tenant, appid, model, request, owner, stop, context_last)
            VALUES ($1, $2, $3, '', '{}', $4, true, 0)
            ON CONFLICT DO NOTHING
            RETURNING id
            """,
            claim,
            tenant,
            appid,
            owner,
        )
        if claimed is not None:
            return None
        if streaming := await find_streaming(connection, tenant, appid):
            return streaming


async def release_conversation(connection: asyncpg.Connection, tenant: str, claim: UUID) -> None:
    """Undo :func:`claim_conversation`."""
    await connection.execute("DELETE FROM replies WHERE tenant = $1 AND id = $2", tenant, claim)


async def replace_conversation(
    connection: asyncpg.Connection, tenant: str, appid: str, messages: Sequence[Message], claim: UUID
) -> bool:
    """Delete a conversation with its replies, record messages in its place, and give up the claim.

    :param claim: see :func:`claim_conversation`. Without it a prompt that is recorded at the same time would neither be
        deleted (it is not in the snapshot of this statement) nor come after the new messages.
    :returns: False if the claim has ended, in which case nothing was changed.
    :raises asyncpg.DataError: PostgreSQL cannot store a text.
    """
    replaced = await connection.fetchval(
        f"""
        WITH claimed AS MATERIALIZED (
            SELECT id FROM replies WHERE tenant = $1 AND id = $6 AND finished IS NULL FOR UPDATE
        ), deleted_replies AS (
            DELETE FROM replies WHERE tenant = $1 AND appid = $2 AND EXISTS (SELECT FROM claimed)
        ), deleted_messages AS (
            DELETE FROM chatts WHERE tenant = $1 AND appid = $2 AND EXISTS (SELECT FROM claimed)
        ), deleted_cuts AS (
            DELETE FROM context_cuts WHERE tenant = $1 AND appid = $2 AND EXISTS (SELECT FROM claimed)
        ), deleted_summaries AS (
            DELETE FROM context_summaries WHERE tenant = $1 AND appid = $2 AND EXISTS (SELECT FROM claimed)
        ), recorded AS (
            INSERT INTO chatts (seq, tenant, appid, username, message, extra, extra_bytes)
            SELECT nextval('chatts_seq_seq'), $1, $2, role, content, {CHECKED_EXTRA.format(extra="extra")},
                   octet_length(extra::text)
            FROM (
                SELECT * FROM unnest($3::text[], $4::text[], $5::json[])
                    WITH ORDINALITY AS message (role, content, extra, n)
                WHERE EXISTS (SELECT FROM claimed)
                ORDER BY n
            ) AS ordered
        )
        SELECT pg_notify($7, 'lines ' || id) IS NOT NULL FROM claimed
        """,
        tenant,
        appid,
        [message.role for message in messages],
        [message.content for message in messages],
        [message.extra for message in messages],
        claim,
        CHANNEL,
    )
    return replaced is not None
