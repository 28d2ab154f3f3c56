"""The table ``chatts``: the messages of all conversations."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, in the terms of Ollama's chat API.

    :ivar extra: the other fields (images, tool_calls, thinking, ...) as a JSON object, its text as sent, or None.
    """

    role: str
    content: str
    extra: str | None = None

    def fields(self) -> dict[str, msgspec.Raw]:
        """Return the other fields, each as its JSON text. What other programs have stored may be no such object, or be
        nested too deeply: then there are none."""
        try:
            return msgspec.json.decode(self.extra, type=dict[str, msgspec.Raw]) if self.extra else {}
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return {}


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
