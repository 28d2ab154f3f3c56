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
            SELECT seq, id, time, username, message, extra
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
    # One message after the other, since to know the size of the other fields PostgreSQL has to decompress them. The
    # size of a text is known without it (``textoctetlen`` in PostgreSQL's varlena.c).
    rows = await connection.fetch(
        """
        WITH RECURSIVE page (n, seq, size, total) AS (
            SELECT 1, seq, size, size::bigint FROM (
                SELECT seq, octet_length(message) + coalesce(octet_length(extra::text), 0) AS size
                FROM chatts WHERE tenant = $1 AND appid = $2 AND seq < $3
                ORDER BY seq DESC LIMIT 1
            ) AS newest
            UNION ALL
            SELECT n + 1, older.seq, older.size, total + older.size
            FROM page CROSS JOIN LATERAL (
                SELECT seq, octet_length(message) + coalesce(octet_length(extra::text), 0) AS size
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


CHECKED_EXTRA = "CASE WHEN {extra}::jsonb IS NOT NULL THEN {extra} END"
"""``extra``, or an error if it contains what jsonb refuses (\\u0000, lone surrogates) and clients could not read."""

IMAGES_MIN_BYTES = 1_000
"""Bytes of ``extra`` above which a message that is not the assistant's is taken to have images. Of such messages Ollama
reads no other long field, only names of tools (ollama ``api/types.go``, ``Message``); and to look into ``extra`` would
decompress every image of a conversation for every prompt."""

_IMAGE_BYTES = f"""
    CASE WHEN username <> 'assistant' AND pg_column_size(extra) > {IMAGES_MIN_BYTES}
         THEN pg_column_size(extra) ELSE 0 END
"""

CONTEXT = f"""
    WITH newest AS (
        SELECT seq, username, message, extra, image_bytes,
               row_number() OVER newest_first AS n,
               sum(octet_length(message) + coalesce(pg_column_size(extra), 0) - image_bytes) OVER newest_first AS bytes,
               sum(image_bytes) OVER newest_first - image_bytes AS newer_image_bytes
        FROM (
            SELECT seq, username, message, extra, {_IMAGE_BYTES} AS image_bytes
            FROM chatts WHERE tenant = {{tenant}} AND appid = {{appid}} AND seq < {{before}}
            ORDER BY seq DESC LIMIT {{messages}}
        ) AS newest
        WINDOW newest_first AS (ORDER BY seq DESC)
    ), images AS (
        SELECT max(seq) AS left_out FROM newest
        WHERE image_bytes > 0 AND newer_image_bytes >= {{image_size}}
        AND (bytes <= {{size}} OR n <= {{least}} OR username = 'system')
    ), selected AS (
        SELECT seq, username, message, extra, image_bytes FROM newest
        WHERE username <> 'system' AND (bytes <= {{size}} OR n <= {{least}})
        UNION ALL
        SELECT seq, username, message, extra, {_IMAGE_BYTES} FROM chatts
        WHERE tenant = {{tenant}} AND appid = {{appid}} AND username = 'system' AND seq < {{before}}
    )
    SELECT seq, username, message, CASE WHEN image_bytes > 0 AND seq <= left_out THEN NULL ELSE extra END AS extra,
           left_out AS images_after, image_bytes > 0 AND seq <= left_out AS without_images
    FROM selected CROSS JOIN images
"""
"""A query for the context of a reply, unordered: the newest messages before ``before`` (a seq), up to ``messages`` in
number and ``size`` in bytes but at least ``least``, and all system messages. Images do not count in ``size``: from the
newest on they are sent until they have ``image_size`` bytes, and older messages without them, up to ``images_after``.
The parameters are SQL expressions."""

_CONTEXT = CONTEXT.format(tenant="$1", appid="$2", messages="$3", size="$4", least="$5", before="$6", image_size="$7")


async def context(
    connection: asyncpg.Connection,
    tenant: str,
    appid: str,
    messages: int,
    size: int,
    before: int | None = None,
    image_size: int = MAX_SEQ,
) -> list[Message]:
    """Read the context for the model: the newest messages and all system messages, oldest first.

    :param messages: number of newest messages to read at most; older system messages are read, too.
    :param size: bytes of them at most, images aside; without ``before``, the newest message is read even if it is
        larger.
    :param before: read only messages with a smaller ``seq``.
    :param image_size: bytes of images, from the newest on, after which older ones are left out; by default none are.
    """
    rows = await connection.fetch(
        f"{_CONTEXT} ORDER BY seq",
        tenant,
        appid,
        messages,
        size,
        1 if before is None else 0,
        MAX_SEQ if before is None else before,
        image_size,
    )
    return [Message(row["username"], row["message"], row["extra"]) for row in rows]


@dataclass(frozen=True, slots=True)
class ContextBounds:
    """Which messages of a conversation are sent for a reply, and what of them; all values are of ``chatts.seq``.

    :ivar first: of the first message sent that is not a system message; None if there was none.
    :ivar last: of the last message sent.
    :ivar images_after: images are sent of messages with a greater value only; None if of all.
    :ivar fields_after: other fields than role and content are sent of messages with a greater value only; None if of
        all.
    """

    first: int | None
    last: int
    images_after: int | None = None
    fields_after: int | None = None


async def context_between(
    connection: asyncpg.Connection, tenant: str, appid: str, bounds: ContextBounds
) -> list[Message]:
    """Read the messages that were sent for a reply, oldest first, whatever was recorded since."""
    rows = await connection.fetch(
        f"""
        SELECT seq, username, message,
               CASE WHEN seq <= $6 OR (seq <= $5 AND {_IMAGE_BYTES} > 0) THEN NULL ELSE extra END AS extra
        FROM (
            SELECT seq, username, message, extra FROM chatts
            WHERE tenant = $1 AND appid = $2 AND username <> 'system' AND seq >= $3 AND seq <= $4
            UNION ALL
            SELECT seq, username, message, extra FROM chatts
            WHERE tenant = $1 AND appid = $2 AND username = 'system' AND seq <= $4
        ) AS sent
        ORDER BY seq
        """,
        tenant,
        appid,
        bounds.first,
        bounds.last,
        bounds.images_after,
        bounds.fields_after,
    )
    return [Message(row["username"], row["message"], row["extra"]) for row in rows]


async def reduce_context(
    connection: asyncpg.Connection, tenant: str, reply: UUID, owner: int, prompt_messages: int
) -> str | None:
    """Leave out of the conversation that a reply is sent what Ollama may have refused: the images of the messages
    before the prompt or, if they have none, all their fields but role and content.

    :param prompt_messages: number of messages at the end of the conversation that are the prompt, and stay as they are.
    :returns: what is left out now, ``images`` or ``fields``; None if there was nothing, or another process owns the
        reply.
    """
    left_out: str | None = await connection.fetchval(
        f"""
        WITH reply AS (
            SELECT id, appid, context_first, context_last, images_after, fields_after
            FROM replies WHERE tenant = $1 AND id = $2 AND owner = $3 AND finished IS NULL
        ), earlier AS (
            SELECT max(seq) AS last,
                   bool_or({_IMAGE_BYTES} > 0 AND seq > coalesce(images_after, -1)) AS has_images,
                   bool_or(extra IS NOT NULL AND NOT ({_IMAGE_BYTES} > 0 AND seq <= coalesce(images_after, -1)))
                       AS has_fields
            FROM (
                SELECT sent.*, images_after FROM reply CROSS JOIN LATERAL (
                    SELECT seq, username, extra FROM chatts
                    WHERE tenant = $1 AND appid = reply.appid AND username <> 'system'
                    AND seq >= context_first AND seq <= context_last
                    UNION ALL
                    SELECT seq, username, extra FROM chatts
                    WHERE tenant = $1 AND appid = reply.appid AND username = 'system' AND seq <= context_last
                ) AS sent
                WHERE fields_after IS NULL
                ORDER BY seq DESC OFFSET $4
            ) AS earlier
        )
        UPDATE replies
        SET images_after = CASE WHEN has_images THEN last ELSE replies.images_after END,
            fields_after = CASE WHEN NOT has_images THEN last END
        FROM reply CROSS JOIN earlier
        WHERE replies.id = reply.id AND replies.owner = $3 AND finished IS NULL AND (has_images OR has_fields)
        RETURNING CASE WHEN has_images THEN 'images' ELSE 'fields' END
        """,
        tenant,
        reply,
        owner,
        prompt_messages,
    )
    return left_out


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
