"""The table ``chatts``: the messages of all conversations."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""Decodes an object without looking into its values, which are passed on as they are."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, in the terms of Ollama's chat API.

    :ivar extra: the other fields (images, tool_calls, thinking, ...) as a JSON object, its text as sent, or None.
    """

    role: str
    content: str
    extra: str | None = None

    @property
    def size(self) -> int:
        """Number of characters."""
        return len(self.content) + len(self.extra or "")

    def fields(self) -> dict[str, msgspec.Raw]:
        """Return the other fields, each as its JSON text. What other programs have stored may be no such object, or be
        nested too deeply: then there are none."""
        try:
            return _decode_fields(self.extra.encode()) if self.extra else {}
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return {}


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One row of ``chatts``.

    :ivar status: ``replies.status`` of the newest reply that wrote the message, unless it is ``done``; else None.
    :ivar error: error message of that reply, or None.
    :ivar left_out: whether it is never sent to a model; see :func:`db.context.cuts.leave_out_messages`.
    """

    seq: int
    id: UUID
    time: datetime
    message: Message
    status: str | None = None
    error: str | None = None
    left_out: bool = False


MAX_SEQ = 2**63 - 1
"""The maximum of bigint, greater than all values of ``seq``."""


async def read_page(
    connection: asyncpg.Connection, tenant: str, appid: str, limit: int, before: int | None, first: int = 0
) -> list[StoredMessage]:
    """Read the newest messages of a conversation, oldest first.

    :param limit: maximum number of messages.
    :param before: read only messages with a smaller ``seq``.
    :param first: read only messages with at least this ``seq``.
    """
    # LATERAL with LIMIT: one lookup by key for each message read, instead of a join that reads more rows.
    rows = await connection.fetch(
        """
        SELECT page.*, nullif(newest.status, 'done') AS status, newest.error
        FROM (
            SELECT seq, id, time, username, message, extra, left_out
            FROM chatts
            WHERE tenant = $1 AND appid = $2 AND seq < $4 AND seq >= $5
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
        first,
    )
    return [
        StoredMessage(
            row["seq"],
            row["id"],
            row["time"],
            Message(row["username"], row["message"], row["extra"]),
            row["status"],
            row["error"],
            bool(row["left_out"]),
        )
        for row in reversed(rows)
    ]


@dataclass(frozen=True, slots=True)
class PageSizes:
    """What a page of a conversation will contain.

    :ivar sizes: ``seq`` and bytes of each message, oldest first; the bytes are those of its text and its other fields.
    :ivar has_older: whether there are messages before the first one.
    """

    sizes: list[tuple[int, int]]
    has_older: bool


async def read_sizes(
    connection: asyncpg.Connection, tenant: str, appid: str, limit: int, before: int, size: int
) -> PageSizes:
    """Find the newest messages of a conversation that are at most ``limit`` in number and ``size`` in bytes together.

    The newest one belongs to them whatever its size is. PostgreSQL reads no more messages than these and one.

    :param before: consider only messages with a smaller ``seq``.
    """
    # One message after the other: to know the size of other fields without a count, PostgreSQL has to decompress some.
    # That of a text is known without it (``textoctetlen`` in PostgreSQL's varlena.c).
    rows = await connection.fetch(
        f"""
        WITH RECURSIVE page (n, seq, size, total) AS (
            SELECT 1, seq, size, size::bigint FROM (
                SELECT seq, octet_length(message) + {EXTRA_BYTES} AS size
                FROM chatts WHERE tenant = $1 AND appid = $2 AND seq < $3
                ORDER BY seq DESC LIMIT 1
            ) AS newest
            UNION ALL
            SELECT n + 1, older.seq, older.size, total + older.size
            FROM page CROSS JOIN LATERAL (
                SELECT seq, octet_length(message) + {EXTRA_BYTES} AS size
                FROM chatts WHERE tenant = $1 AND appid = $2 AND seq < page.seq
                ORDER BY seq DESC LIMIT 1
            ) AS older
            WHERE n < $4 AND total + older.size <= $5
        )
        SELECT seq, size, EXISTS (
            SELECT FROM chatts WHERE tenant = $1 AND appid = $2 AND seq < (SELECT min(seq) FROM page)
        ) AS has_older
        FROM page ORDER BY seq
        """,
        tenant,
        appid,
        before,
        limit,
        size,
    )
    return PageSizes([(row["seq"], row["size"]) for row in rows], bool(rows) and rows[0]["has_older"])


EXTRA_BYTES = """
    coalesce(extra_bytes, CASE WHEN pg_column_compression(extra) IS NULL THEN pg_column_size(extra)
                               ELSE octet_length(extra::text) END, 0)
"""
"""Bytes of ``extra`` as it is sent. They are counted when a message is recorded: PostgreSQL would have to decompress a
compressed value to count them. Rows of other programs and of versions before migration 0011 have no count."""

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
        ), deleted_cuts AS (
            DELETE FROM context_cuts
            WHERE tenant = $1 AND appid = $2 AND first >= $3 AND NOT EXISTS (SELECT FROM streaming)
        ), deleted_summaries AS (
            DELETE FROM context_summaries
            WHERE tenant = $1 AND appid = $2 AND until >= $3 AND NOT EXISTS (SELECT FROM streaming)
        )
        SELECT id FROM streaming
        """,
        tenant,
        appid,
        first,
    )
    return streaming
