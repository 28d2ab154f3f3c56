"""The table ``replies``: one row per generation. :mod:`db.reply_begin` inserts it, :mod:`db.reply_end` finishes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from db.context.sent_messages import ContextBounds
from db.context.summaries import NEWEST_SUMMARY, Summary
from db.messages import MAX_SEQ, Message
from db.processes import CHANNEL

STREAMING = "streaming"
"""The status of a reply until it is finished.

Statements that select by id use ``finished IS NULL`` instead: if the table was last analyzed while no reply was
streaming, the planner assumes an empty partial index on streaming replies, and scans it instead of looking up the id.
"""


@dataclass(frozen=True, slots=True)
class StoredReply:
    """One row of ``replies`` and the message that the reply produced.

    :ivar error: error message sent to viewers, unless the status is ``streaming``, ``done`` or ``stopped``.
    :ivar message: the reply's own part of the assistant's message; None if the reply has no content.
    """

    id: UUID
    appid: str
    model: str
    status: str
    error: str | None
    message: Message | None


@dataclass(frozen=True, slots=True)
class ReplySource:
    """What a reply was begun with: enough to send its request to Ollama again.

    :ivar request: see :class:`db.reply_begin.NewReply`.
    :ivar bounds: what was sent of the conversation; its ``last`` is 0 if nothing was. None if a version of chatterd
        before migration 0005 began the reply. See :func:`db.context.sent_messages.read_sent`.
    :ivar continues_at: number of characters of the last message sent, which the reply continues; None for others.
    """

    appid: str
    request: str
    bounds: ContextBounds | None
    continues_at: int | None


async def find_by_idempotency_key(
    connection: asyncpg.Connection, tenant: str, appid: str, idempotency_key: str
) -> UUID | None:
    """Find the reply with an idempotency key."""
    reply: UUID | None = await connection.fetchval(
        "SELECT id FROM replies WHERE tenant = $1 AND appid = $2 AND idempotency_key = $3",
        tenant,
        appid,
        idempotency_key,
    )
    return reply


async def find(connection: asyncpg.Connection, tenant: str, reply: UUID) -> StoredReply | None:
    """Read a reply and its own part of the message that it produced.

    :returns: None if there is no such reply.
    """
    row = await connection.fetchrow(_FIND, tenant, reply)
    if row is None:
        return None
    message = None
    if row["message"] or row["extra"] is not None:
        message = Message(row["username"], row["message"], row["extra"])
    return StoredReply(row["id"], row["appid"], row["model"], row["status"], row["error"], message)


# A message is the text of the reply that began it, and of those that continued it, each from its `continues_at` to the
# next one's. Tool calls belong to the last of them (a message with tool calls is not continued), other fields to the
# first.
_FIND = """
    SELECT reply.id, reply.appid, model, status, error, username,
           substr(
               message, reply.start + 1, greatest(coalesce(following.start, char_length(message)) - reply.start, 0)
           ) AS message,
           CASE WHEN reply.start = 0 AND (following.start IS NULL OR extra -> 'tool_calls' IS NULL) THEN extra
                WHEN reply.start = 0
                THEN (SELECT json_object_agg(key, value) FROM json_each(extra) WHERE key <> 'tool_calls')
                WHEN following.start IS NULL AND extra -> 'tool_calls' IS NOT NULL
                THEN json_build_object('tool_calls', extra -> 'tool_calls') END AS extra
    FROM (
        SELECT *, CASE WHEN continues_seq = message_seq THEN continues_at ELSE 0 END AS start
        FROM replies WHERE tenant = $1 AND id = $2
    ) AS reply
    LEFT JOIN LATERAL (
        SELECT username, message, extra FROM chatts
        WHERE tenant = $1 AND appid = reply.appid AND seq = reply.message_seq LIMIT 1
    ) AS produced ON true
    LEFT JOIN LATERAL (
        SELECT min(continues_at) AS start FROM replies AS later
        WHERE later.tenant = $1 AND later.appid = reply.appid AND later.message_seq = reply.message_seq
        AND later.continues_seq = later.message_seq AND later.started > reply.started
    ) AS following ON true
"""


async def find_source(connection: asyncpg.Connection, tenant: str, reply: UUID) -> ReplySource | None:
    """Read what a reply was begun with.

    :returns: None if there is no such reply.
    """
    row = await connection.fetchrow(
        """
        SELECT appid, request, context_first, context_last, images_after, fields_after, system_after, summary,
               continues_at
        FROM replies WHERE tenant = $1 AND id = $2
        """,
        tenant,
        reply,
    )
    if row is None:
        return None
    bounds = None
    if row["context_last"] is not None:
        bounds = ContextBounds(
            row["context_first"],
            row["context_last"],
            row["images_after"],
            row["fields_after"],
            row["system_after"],
            row["summary"],
        )
    return ReplySource(row["appid"], row["request"], bounds, row["continues_at"])


async def find_streaming(connection: asyncpg.Connection, tenant: str, appid: str) -> UUID | None:
    """Find the reply that is streaming in a conversation."""
    reply: UUID | None = await connection.fetchval(
        "SELECT id FROM replies WHERE tenant = $1 AND appid = $2 AND status = 'streaming'", tenant, appid
    )
    return reply


@dataclass(frozen=True, slots=True)
class ConversationState:
    """What is known of a conversation beside its messages.

    :ivar streaming: the reply that is streaming, or None.
    :ivar context: JSON object, what the model was sent for the newest reply that has ended, or None.
    :ivar summary: the summary of what is not sent any more; None if there is none.
    """

    streaming: UUID | None
    context: str | None
    summary: Summary | None


async def find_state(connection: asyncpg.Connection, tenant: str, appid: str) -> ConversationState:
    """Find the reply that is streaming in a conversation, and the context of the newest one or of the one before it."""
    [row] = await connection.fetch(
        f"""
        SELECT (SELECT id FROM replies WHERE tenant = $1 AND appid = $2 AND status = 'streaming') AS streaming,
               coalesce(
                   (SELECT context FROM replies WHERE tenant = $1 AND appid = $2 ORDER BY started DESC LIMIT 1),
                   (SELECT context FROM replies WHERE tenant = $1 AND appid = $2 ORDER BY started DESC LIMIT 1 OFFSET 1)
               ) AS context, summary.*
        FROM (SELECT) AS one_row
        LEFT JOIN ({NEWEST_SUMMARY.format(tenant="$1", appid="$2", before=MAX_SEQ)}) AS summary ON true
        """,
        tenant,
        appid,
    )
    summary = Summary(row["id"], row["until"], row["text"], row["edited"]) if row["text"] else None
    return ConversationState(row["streaming"], row["context"], summary)


async def find_newest(
    connection: asyncpg.Connection, tenant: str, appid: str, model: str, prompt: Sequence[Message]
) -> UUID | None:
    """Find the newest reply of a conversation, if this prompt began it.

    :param prompt: the messages that were sent; if there are none, the newest reply counts.
    :returns: None if the conversation has no reply, or another prompt began the newest.
    """
    reply: UUID | None = await connection.fetchval(
        """
        SELECT id FROM (
            SELECT id, model, context_last FROM replies WHERE tenant = $1 AND appid = $2
            ORDER BY started DESC LIMIT 1
        ) AS newest
        WHERE model = $3 AND NOT EXISTS (
            SELECT FROM (
                SELECT row_number() OVER (ORDER BY seq DESC) AS n, username, message, extra
                FROM (
                    SELECT * FROM chatts WHERE tenant = $1 AND appid = $2
                    AND seq <= coalesce(newest.context_last, 9223372036854775807)
                    ORDER BY seq DESC LIMIT $4
                ) AS last
            ) AS recorded
            FULL JOIN unnest($5::text[], $6::text[], $7::json[])
                WITH ORDINALITY AS sent (role, content, extra, n) ON sent.n = recorded.n
            WHERE (username, message, recorded.extra::text) IS DISTINCT FROM (role, content, sent.extra::text)
        )
        """,
        tenant,
        appid,
        model,
        len(prompt),
        [message.role for message in reversed(prompt)],
        [message.content for message in reversed(prompt)],
        [message.extra for message in reversed(prompt)],
    )
    return reply


async def request_stop(connection: asyncpg.Connection, tenant: str, reply: UUID) -> bool:
    """Request a reply's owner to stop it, and notify all processes at the commit.

    :returns: False if no such reply is streaming.
    """
    requested = await connection.fetchval(
        """
        WITH requested AS (
            UPDATE replies SET stop = true WHERE tenant = $1 AND id = $2 AND finished IS NULL RETURNING id
        )
        SELECT pg_notify($3, 'stop ' || id) IS NOT NULL FROM requested
        """,
        tenant,
        reply,
        CHANNEL,
    )
    return requested is not None
