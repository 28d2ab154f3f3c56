"""The statements of the course's other routes: messages without an appID, and the replacement of a conversation."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from db.messages import CHECKED_EXTRA, Message


async def read_chatts(connection: asyncpg.Connection, tenant: str, limit: int) -> list[tuple[str, str, UUID, datetime]]:
    """Read the newest messages that belong to no conversation: name, message, id and time of each, oldest first."""
    rows = await connection.fetch(
        """
        SELECT username, message, id, time FROM (
            SELECT * FROM chatts WHERE tenant = $1 AND appid IS NULL ORDER BY seq DESC LIMIT $2
        ) AS newest
        ORDER BY time, seq
        """,
        tenant,
        limit,
    )
    return [(row["username"], row["message"], row["id"], row["time"]) for row in rows]


async def insert_chatt(connection: asyncpg.Connection, tenant: str, name: str, message: str) -> None:
    """Insert a message that belongs to no conversation.

    :raises asyncpg.DataError: PostgreSQL cannot store the text.
    """
    await connection.execute(
        "INSERT INTO chatts (tenant, appid, username, message) VALUES ($1, NULL, $2, $3)", tenant, name, message
    )


async def replace_conversation(
    connection: asyncpg.Connection, tenant: str, appid: str, messages: Sequence[Message]
) -> UUID | None:
    """Delete a conversation with its replies and record messages in its place, unless a reply is streaming.

    :returns: the reply that is streaming, in which case nothing was changed; otherwise None.
    :raises asyncpg.DataError: PostgreSQL cannot store a text.
    """
    streaming: UUID | None = await connection.fetchval(
        f"""
        WITH streaming AS (
            SELECT id FROM replies WHERE tenant = $1 AND appid = $2 AND status = 'streaming'
        ), deleted_replies AS (
            DELETE FROM replies WHERE tenant = $1 AND appid = $2 AND NOT EXISTS (SELECT FROM streaming)
        ), deleted_messages AS (
            DELETE FROM chatts WHERE tenant = $1 AND appid = $2 AND NOT EXISTS (SELECT FROM streaming)
        ), recorded AS (
            INSERT INTO chatts (seq, tenant, appid, username, message, extra)
            SELECT nextval('chatts_seq_seq'), $1, $2, role, content, {CHECKED_EXTRA.format(extra="extra")}
            FROM (
                SELECT * FROM unnest($3::text[], $4::text[], $5::json[])
                    WITH ORDINALITY AS message (role, content, extra, n)
                WHERE NOT EXISTS (SELECT FROM streaming)
                ORDER BY n
            ) AS ordered
        )
        SELECT id FROM streaming
        """,
        tenant,
        appid,
        [message.role for message in messages],
        [message.content for message in messages],
        [message.extra for message in messages],
    )
    return streaming
