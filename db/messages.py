"""The table ``chatts``: the messages of all conversations."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, in the terms of Ollama's chat API.

    :ivar extra: the other fields (images, tool_calls, thinking, ...) as a JSON object, its text as sent, or None.
    """

    role: str
    content: str
    extra: str | None = None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One row of ``chatts``.

    :ivar status: ``replies.status`` of the newest reply that wrote the message, unless it is ``done``; else None.
    :ivar error: error message of that reply, or None.
    """

    seq: int
    id: UUID
    time: datetime
    message: Message
    status: str | None = None
    error: str | None = None


MAX_SEQ = 2**63 - 1
"""The maximum of bigint, greater than all values of ``seq``."""


async def read_page(
    connection: asyncpg.Connection, tenant: str, appid: str, limit: int, before: int | None
) -> list[StoredMessage]:
    """Read the newest messages of a conversation, oldest first.

    :param limit: maximum number of messages.
    :param before: read only messages with a smaller ``seq``.
    """
    # LATERAL with LIMIT: one lookup by key for each message read, instead of a join that reads more rows.
    rows = await connection.fetch(
        """
        SELECT page.*, nullif(newest.status, 'done') AS status, newest.error
        FROM (
            SELECT seq, id, time, username, message, extra
            FROM chatts
            WHERE tenant = $1 AND appid = $2 AND seq < $4
            ORDER BY seq DESC
            LIMIT $3
        ) AS page
        LEFT JOIN LATERAL (
            SELECT status, error FROM replies
            WHERE appid = $2 AND tenant = $1 AND message_seq = page.seq AND page.username = 'assistant'
            ORDER BY started DESC LIMIT 1
        ) AS newest ON true
        ORDER BY seq DESC
        """,
        tenant,
        appid,
        limit,
        before if before is not None else MAX_SEQ,
    )
    return [
        StoredMessage(
            row["seq"],
            row["id"],
            row["time"],
            Message(row["username"], row["message"], row["extra"]),
            row["status"],
            row["error"],
        )
        for row in reversed(rows)
    ]


CHECKED_EXTRA = "CASE WHEN {extra}::jsonb IS NOT NULL THEN {extra} END"
"""``extra``, or an error if it contains what jsonb refuses (\\u0000, lone surrogates) and clients could not read."""

CONTEXT = """
    WITH newest AS (
        SELECT seq, username, message, extra,
               row_number() OVER newest_first AS n,
               sum(octet_length(message) + coalesce(pg_column_size(extra), 0)) OVER newest_first AS bytes
        FROM (
            SELECT * FROM chatts WHERE tenant = {tenant} AND appid = {appid} AND seq < {before}
            ORDER BY seq DESC LIMIT {messages}
        ) AS newest
        WINDOW newest_first AS (ORDER BY seq DESC)
    )
    SELECT seq, username, message, extra FROM newest
    WHERE username <> 'system' AND (bytes <= {size} OR n <= {least})
    UNION ALL
    SELECT seq, username, message, extra FROM chatts
    WHERE tenant = {tenant} AND appid = {appid} AND username = 'system' AND seq < {before}
"""
"""A query for the context of a reply, unordered: the newest messages before ``before`` (a seq), up to ``messages`` in
number and ``size`` in bytes but at least ``least``, and all system messages. The parameters are SQL expressions."""

_CONTEXT = CONTEXT.format(tenant="$1", appid="$2", messages="$3", size="$4", least="$5", before="$6")


async def context(
    connection: asyncpg.Connection, tenant: str, appid: str, messages: int, size: int, before: int | None = None
) -> list[Message]:
    """Read the context for the model: the newest messages and all system messages, oldest first.

    :param messages: number of newest messages to read at most; older system messages are read, too.
    :param size: bytes of them at most; without ``before``, the newest message is read even if it is larger.
    :param before: read only messages with a smaller ``seq``.
    """
    rows = await connection.fetch(
        f"{_CONTEXT} ORDER BY seq",
        tenant,
        appid,
        messages,
        size,
        1 if before is None else 0,
        MAX_SEQ if before is None else before,
    )
    return [Message(row["username"], row["message"], row["extra"]) for row in rows]


async def context_between(
    connection: asyncpg.Connection, tenant: str, appid: str, first: int | None, last: int
) -> list[Message]:
    """Read the messages that were sent for a reply, oldest first, whatever was recorded since.

    :param first: ``seq`` of the first of them that is not a system message; None if there was none.
    :param last: ``seq`` of the last of them.
    """
    rows = await connection.fetch(
        """
        SELECT seq, username, message, extra FROM chatts
        WHERE tenant = $1 AND appid = $2 AND username <> 'system' AND seq >= $3 AND seq <= $4
        UNION ALL
        SELECT seq, username, message, extra FROM chatts
        WHERE tenant = $1 AND appid = $2 AND username = 'system' AND seq <= $4
        ORDER BY seq
        """,
        tenant,
        appid,
        first,
        last,
    )
    return [Message(row["username"], row["message"], row["extra"]) for row in rows]


async def delete_conversation_messages(
    connection: asyncpg.Connection, tenant: str, appid: str, first: int
) -> UUID | None:
    """Delete messages of a conversation and all replies that wrote them, unless a reply is streaming.

    :param first: ``seq`` of the first message to delete; 0 deletes the whole conversation, including replies without a
        message.
    :returns: the reply that is streaming, in which case nothing was deleted; otherwise None.
    """
    streaming: UUID | None = await connection.fetchval(
        """
        WITH streaming AS (
            SELECT id FROM replies WHERE tenant = $1 AND appid = $2 AND status = 'streaming'
        ), deleted_replies AS (
            DELETE FROM replies
            WHERE tenant = $1 AND appid = $2 AND NOT EXISTS (SELECT FROM streaming)
            AND (message_seq >= $3 OR (message_seq IS NULL AND $3 = 0))
        ), deleted_messages AS (
            DELETE FROM chatts
            WHERE tenant = $1 AND appid = $2 AND seq >= $3 AND NOT EXISTS (SELECT FROM streaming)
        )
        SELECT id FROM streaming
        """,
        tenant,
        appid,
        first,
    )
    return streaming
