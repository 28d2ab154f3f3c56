"""The table ``replies``: one row per generation, from the moment its prompt is recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from db import chatts
from db.chatts import Message

STREAMING = "streaming"


@dataclass(frozen=True, slots=True)
class NewReply:
    """What :func:`begin` records of a reply before the model is asked.

    :param request: the JSON object passed on to Ollama, without its messages.
    :param owner: the process that generates it.
    """

    id: UUID
    tenant: str
    appid: str
    model: str
    request: str
    owner: int
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class Begun:
    """How :func:`begin` ended. Exactly one of the three is not None.

    :param context: the conversation's earlier messages, oldest first.
    :param running: the reply that is being generated for this conversation already.
    :param known: the reply that the same idempotency key began.
    """

    context: list[Message] | None = None
    running: UUID | None = None
    known: UUID | None = None


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A reply as the database holds it.

    :param error: what the viewers were told if it ended otherwise than done or stopped.
    :param message: the assistant's message, None if the model had said nothing.
    """

    id: UUID
    appid: str
    model: str
    status: str
    error: str | None
    message: Message | None


async def begin(
    connection: asyncpg.Connection,
    new: NewReply,
    messages: Sequence[Message],
    context_messages: int,
    context_bytes: int,
) -> Begun:
    """Record the messages and the reply, and read the conversation before them: one statement, all or nothing.

    Refused, with nothing recorded, if the conversation has a reply that is streaming or if the idempotency key is known.

    :param context_messages: how many earlier messages to read at most.
    :param context_bytes: how many bytes of them at most.
    """
    rows = await connection.fetch(
        f"""
        WITH begun AS (
            INSERT INTO replies (id, tenant, appid, model, request, owner, idempotency_key)
            VALUES ($7, $1, $2, $8, $9, $10, $11)
            ON CONFLICT DO NOTHING
            RETURNING id
        ), recorded AS (
            INSERT INTO chatts (tenant, appid, username, message, extra)
            SELECT $1, $2, new.role, new.content, new.extra
            FROM begun, unnest($12::text[], $13::text[], $14::jsonb[]) WITH ORDINALITY AS new (role, content, extra, n)
            ORDER BY new.n
            RETURNING seq
        ), running AS (
            SELECT id FROM replies WHERE tenant = $1 AND appid = $2 AND status = 'streaming'
        ), known AS (
            SELECT id FROM replies WHERE tenant = $1 AND appid = $2 AND idempotency_key = $11
        )
        SELECT begun.id AS begun, running.id AS running, known.id AS known, context.*,
               (SELECT min(seq) FROM recorded) AS recorded_from
        FROM (SELECT) AS always
        LEFT JOIN begun ON true LEFT JOIN running ON true LEFT JOIN known ON true
        LEFT JOIN ({chatts.CONTEXT}) AS context ON begun.id IS NOT NULL
        ORDER BY context.seq
        """,
        new.tenant,
        new.appid,
        context_messages,
        context_bytes,
        0 if messages else 1,
        chatts.NO_END,
        new.id,
        new.model,
        new.request,
        new.owner,
        new.idempotency_key,
        [message.role for message in messages],
        [message.content for message in messages],
        [message.extra for message in messages],
    )
    first = rows[0]
    if first["begun"] is None:
        if first["known"] or first["running"]:
            return Begun(running=None if first["known"] else first["running"], known=first["known"])
        return await _conflict(connection, new)
    if first["running"] is not None:
        # The statement's snapshot is older than the end of the reply before this one: its message is not in the rows.
        context = await chatts.context(
            connection, new.tenant, new.appid, context_messages, context_bytes, before=first["recorded_from"]
        )
        return Begun(context=context)
    earlier = [Message(row["username"], row["message"], row["extra"]) for row in rows if row["seq"] is not None]
    return Begun(context=earlier)


async def _conflict(connection: asyncpg.Connection, new: NewReply) -> Begun:
    """Find the row that refused ``new`` and was too young for the statement's snapshot."""
    rows = await connection.fetch(
        """
        SELECT id, idempotency_key FROM replies
        WHERE tenant = $1 AND appid = $2 AND (status = 'streaming' OR idempotency_key = $3)
        """,
        new.tenant,
        new.appid,
        new.idempotency_key,
    )
    for row in rows:
        if new.idempotency_key is not None and row["idempotency_key"] == new.idempotency_key:
            return Begun(known=row["id"])
    return Begun(running=rows[0]["id"]) if rows else Begun()


async def finish(
    connection: asyncpg.Connection, reply: UUID, tenant: str, status: str, error: str | None, message: Message | None
) -> bool:
    """End a streaming reply and store what the model said as the assistant's message: one statement, all or nothing.

    Safe to repeat when the answer was lost. The message's id is the reply's.

    :returns: whether the reply has ended so; False if it had ended otherwise before, or was forgotten.
    """
    ended = await connection.fetchval(
        """
        WITH ended AS (
            UPDATE replies
            SET status = $3, error = $4, finished = now(),
                message_seq = CASE WHEN $5::text IS NOT NULL THEN nextval('chatts_seq_seq') END
            WHERE tenant = $1 AND id = $2 AND status = 'streaming'
            RETURNING appid, status, message_seq
        ), recorded AS (
            INSERT INTO chatts (seq, id, tenant, appid, username, message, extra)
            SELECT message_seq, $2, $1, appid, 'assistant', $5, $6::jsonb FROM ended WHERE message_seq IS NOT NULL
        )
        SELECT status FROM ended
        UNION ALL
        SELECT status FROM replies WHERE tenant = $1 AND id = $2 AND status <> 'streaming'
        """,
        tenant,
        reply,
        status,
        error,
        message.content if message else None,
        message.extra if message else None,
    )
    return bool(ended == status)


async def find(connection: asyncpg.Connection, tenant: str, reply: UUID) -> StoredReply | None:
    """Read a reply and its message; None if there is no such reply."""
    row = await connection.fetchrow(
        """
        SELECT replies.id, replies.appid, model, status, error, chatts.username, chatts.message, chatts.extra
        FROM replies LEFT JOIN chatts
        ON chatts.tenant = replies.tenant AND chatts.appid = replies.appid AND chatts.seq = replies.message_seq
        WHERE replies.tenant = $1 AND replies.id = $2
        """,
        tenant,
        reply,
    )
    if row is None:
        return None
    message = Message(row["username"], row["message"], row["extra"]) if row["message"] is not None else None
    return StoredReply(row["id"], row["appid"], row["model"], row["status"], row["error"], message)


async def running(connection: asyncpg.Connection, tenant: str, appid: str) -> UUID | None:
    """Find the reply that is being generated for a conversation."""
    found: UUID | None = await connection.fetchval(
        "SELECT id FROM replies WHERE tenant = $1 AND appid = $2 AND status = 'streaming'", tenant, appid
    )
    return found


async def interrupt_orphans(connection: asyncpg.Connection, owner: int, error: str) -> list[UUID]:
    """End the replies whose process is gone: no session holds the advisory lock that is its owner id.

    Those of ``owner``, the process that asks, are left alone: it knows better, even while its session is cut.

    PostgreSQL shows a lock with a bigint key as its two halves (system view pg_locks: classid and objid).

    :param error: what their viewers are told.
    """
    rows = await connection.fetch(
        """
        UPDATE replies SET status = 'interrupted', error = $2, finished = now()
        WHERE status = 'streaming' AND owner <> $1 AND NOT EXISTS (
            SELECT FROM pg_locks
            WHERE locktype = 'advisory' AND granted AND objsubid = 1
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND classid::bigint = owner >> 32 AND objid::bigint = owner & 4294967295
        )
        RETURNING id
        """,
        owner,
        error,
    )
    return [row["id"] for row in rows]
