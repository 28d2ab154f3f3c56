"""The table ``replies``: one row per generation, from the moment its prompt is recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

import asyncpg

from db import chatts
from db.chatts import Message
from db.presence import CHANNEL

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


class Finished(Enum):
    """Whether :func:`finish` ended a reply."""

    YES = auto()
    NOT_OURS = auto()
    """Another process owns it, or it has ended otherwise, or was forgotten."""

    LINES_MISSING = auto()
    """PostgreSQL crashed and lost lines that it had taken: write them again first."""


async def begin(
    connection: asyncpg.Connection,
    new: NewReply,
    messages: Sequence[Message],
    context_messages: int,
    context_bytes: int,
) -> Begun:
    """Record the messages and the reply, and read the conversation before them: one statement, all or nothing.

    Refused, with nothing recorded, if a reply is streaming in this conversation or if the idempotency key is known.

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
        refused_by = await _conflict(connection, new)
        if refused_by is not None:
            return refused_by
        return await begin(connection, new, messages, context_messages, context_bytes)  # it has ended meanwhile
    if first["running"] is not None:
        # The statement's snapshot is older than the end of the reply before this one: its message is not in the rows.
        context = await chatts.context(
            connection, new.tenant, new.appid, context_messages, context_bytes, before=first["recorded_from"]
        )
        return Begun(context=context)
    earlier = [Message(row["username"], row["message"], row["extra"]) for row in rows if row["seq"] is not None]
    return Begun(context=earlier)


async def _conflict(connection: asyncpg.Connection, new: NewReply) -> Begun | None:
    """Find the row that refused ``new`` and was too young for the statement's snapshot, if it still would."""
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
    return Begun(running=rows[0]["id"]) if rows else None


async def finish(
    connection: asyncpg.Connection,
    reply: UUID,
    tenant: str,
    owner: int,
    status: str,
    error: str | None,
    message: Message | None,
    first: int,
    lines: Sequence[str],
    notices: Sequence[str],
) -> Finished:
    """End a streaming reply: its last lines, the assistant's message and the status, in one statement, all or nothing.

    Safe to repeat when the answer was lost. The message's id is the reply's.

    :param first: the number of ``lines[0]``; the log must hold all lines before it.
    :param notices: what to ring at the other processes with the commit.
    """
    [row] = await connection.fetch(
        """
        WITH ended AS (
            UPDATE replies
            SET status = $4, error = $5, finished = now(), line_count = $8 + cardinality($9::text[]),
                message_seq = CASE WHEN $6::text IS NOT NULL THEN nextval('chatts_seq_seq') END
            WHERE tenant = $1 AND id = $2 AND status = 'streaming' AND owner = $3
            AND coalesce((SELECT max(seq) FROM reply_lines WHERE reply = $2), -1) >= $8 - 1
            RETURNING appid, status, message_seq
        ), written AS (
            INSERT INTO reply_lines (reply, seq, line)
            SELECT $2, $8 + new.n - 1, new.line
            FROM ended CROSS JOIN unnest($9::text[]) WITH ORDINALITY AS new (line, n)
            ON CONFLICT (reply, seq) DO UPDATE SET line = excluded.line
        ), never_shown AS (
            DELETE FROM reply_lines USING ended WHERE reply = $2 AND seq >= $8 + cardinality($9::text[])
        ), recorded AS (
            INSERT INTO chatts (seq, id, tenant, appid, username, message, extra)
            SELECT message_seq, $2, $1, appid, 'assistant', $6, $7::jsonb FROM ended WHERE message_seq IS NOT NULL
        )
        SELECT (SELECT status FROM ended) AS now,
               (SELECT count(pg_notify($10, notice)) FROM ended CROSS JOIN unnest($11::text[]) AS notice)
        """,
        tenant,
        reply,
        owner,
        status,
        error,
        message.content if message else None,
        message.extra if message else None,
        first,
        lines,
        CHANNEL,
        notices,
    )
    if row["now"] == status:
        return Finished.YES
    return await _ended_so(connection, reply, tenant, owner, status)


async def _ended_so(connection: asyncpg.Connection, reply: UUID, tenant: str, owner: int, status: str) -> Finished:
    """Find out why a reply could not be ended. A statement of its own: the other's snapshot may be older than an end
    for which it had to wait, that of its own first try."""
    row = await connection.fetchrow("SELECT status, owner FROM replies WHERE tenant = $1 AND id = $2", tenant, reply)
    if row is None or row["owner"] != owner or row["status"] not in (status, STREAMING):
        return Finished.NOT_OURS
    return Finished.YES if row["status"] == status else Finished.LINES_MISSING


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


async def request_stop(connection: asyncpg.Connection, tenant: str, reply: UUID) -> bool:
    """Ask a reply's owner to stop it, whichever process that is; it hears of it at the commit.

    :returns: False if no such reply is streaming.
    """
    asked = await connection.fetchval(
        """
        WITH asked AS (
            UPDATE replies SET stop = true WHERE tenant = $1 AND id = $2 AND status = 'streaming' RETURNING id
        )
        SELECT pg_notify($3, 'stop ' || id) IS NOT NULL FROM asked
        """,
        tenant,
        reply,
        CHANNEL,
    )
    return asked is not None
