"""The table ``replies``: one row per generation, inserted together with its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

import asyncpg

from db import messages
from db.messages import Message
from db.processes import CHANNEL

STREAMING = "streaming"
"""The status of a reply until it is finished.

Statements that select by id use ``finished IS NULL`` instead: if the table was last analyzed while no reply was
streaming, the planner assumes an empty partial index on streaming replies, and scans it instead of looking up the id.
"""


@dataclass(frozen=True, slots=True)
class NewReply:
    """A reply to insert, with its prompt.

    :ivar request: JSON object passed on to Ollama, without its messages.
    :ivar owner: id of the process that generates the reply.
    :ivar messages: the prompt, which is recorded.
    :ivar context_messages: maximum number of earlier messages to read.
    :ivar context_bytes: maximum bytes of earlier messages to read.
    """

    id: UUID
    tenant: str
    appid: str
    model: str
    request: str
    owner: int
    idempotency_key: str | None
    messages: Sequence[Message]
    context_messages: int
    context_bytes: int


@dataclass(frozen=True, slots=True)
class BeginResult:
    """The result of :func:`begin` for one reply. Exactly one of the attributes is not None.

    :ivar context: the reply was inserted; the conversation's earlier messages, oldest first.
    :ivar running: the reply that is already streaming in this conversation.
    :ivar existing: the reply that has the same idempotency key.
    """

    context: list[Message] | None = None
    running: UUID | None = None
    existing: UUID | None = None


@dataclass(frozen=True, slots=True)
class StoredReply:
    """One row of ``replies`` and the message that the reply produced.

    :ivar error: error message sent to viewers, unless the status is ``streaming``, ``done`` or ``stopped``.
    :ivar message: the assistant's message; None if the reply has no content.
    """

    id: UUID
    appid: str
    model: str
    status: str
    error: str | None
    message: Message | None


@dataclass(frozen=True, slots=True)
class FinishRequest:
    """The end of a reply, to store.

    :ivar owner: id of the process that generates the reply.
    :ivar status: the final status.
    :ivar error: error message for viewers, or None.
    :ivar message: the assistant's message, stored with the id of the reply; None if the reply has no content.
    :ivar first: number of ``lines[0]``; the log must contain all lines before it.
    :ivar lines: the last lines.
    :ivar notices: payloads of notifications to send at the commit.
    """

    id: UUID
    tenant: str
    owner: int
    status: str
    error: str | None
    message: Message | None
    first: int
    lines: Sequence[str]
    notices: Sequence[str]


class FinishResult(Enum):
    """The result of :func:`finish` for one reply."""

    STORED = auto()
    NOT_OWNER = auto()
    """Another process owns the reply, or it ended with another status, or it was deleted."""

    LINES_MISSING = auto()
    """The log lacks lines before ``first``, lost in a crash of PostgreSQL: append them again first."""


async def begin(connection: asyncpg.Connection, new: Sequence[NewReply]) -> list[BeginResult]:
    """Insert replies, record their prompts and read their contexts, in one statement.

    A reply is skipped, with nothing of it recorded, if a reply is streaming in its conversation or has its idempotency
    key. An error of one text rolls back all of them.

    :returns: one result for each reply, in order.
    :raises asyncpg.DataError: PostgreSQL cannot store a text.
    """
    rows = await connection.fetch(
        _BEGIN,
        [reply.id for reply in new],
        [reply.tenant for reply in new],
        [reply.appid for reply in new],
        [reply.model for reply in new],
        [reply.request for reply in new],
        [reply.owner for reply in new],
        [reply.idempotency_key for reply in new],
        [reply.context_messages for reply in new],
        [reply.context_bytes for reply in new],
        [0 if reply.messages else 1 for reply in new],
        [reply.id for reply in new for _ in reply.messages],
        [message.role for reply in new for message in reply.messages],
        [message.content for reply in new for message in reply.messages],
        [message.extra for reply in new for message in reply.messages],
    )
    found: dict[UUID, list[asyncpg.Record]] = {reply.id: [] for reply in new}
    for row in rows:
        found[row["id"]].append(row)
    return [await _begin_result(connection, reply, found[reply.id]) for reply in new]


# LATERAL and scalar subqueries look up `running` and `existing` by key for each row: the planner assumes few streaming
# replies and would scan the whole partial index. ORDER BY lets concurrent statements lock the unique keys in the same
# order, which prevents deadlocks.
_BEGIN = f"""
    WITH new AS MATERIALIZED (
        SELECT * FROM unnest(
            $1::uuid[], $2::text[], $3::text[], $4::text[], $5::json[], $6::bigint[], $7::text[], $8::int[],
            $9::bigint[], $10::int[]
        ) WITH ORDINALITY AS new (
            id, tenant, appid, model, request, owner, idempotency_key, messages, size, least, n
        )
    ), begun AS (
        INSERT INTO replies (id, tenant, appid, model, request, owner, idempotency_key)
        SELECT id, tenant, appid, model, request, owner, idempotency_key FROM new ORDER BY tenant, appid, n
        ON CONFLICT DO NOTHING
        RETURNING id, tenant, appid
    ), recorded AS (
        INSERT INTO chatts (tenant, appid, username, message, extra)
        SELECT begun.tenant, begun.appid, prompt.role, prompt.content, prompt.extra
        FROM unnest($11::uuid[], $12::text[], $13::text[], $14::jsonb[])
            WITH ORDINALITY AS prompt (reply, role, content, extra, n)
        JOIN begun ON begun.id = prompt.reply
        ORDER BY prompt.n
        RETURNING tenant, appid, seq
    )
    SELECT new.id, begun.id IS NOT NULL AS begun, running.id AS running, context.*,
    CASE WHEN running.id IS NOT NULL THEN (
        SELECT min(seq) FROM recorded WHERE recorded.tenant = new.tenant AND recorded.appid = new.appid
    ) END AS recorded_from, (
        SELECT id FROM replies WHERE tenant = new.tenant AND appid = new.appid
        AND idempotency_key = new.idempotency_key
    ) AS existing
    FROM new LEFT JOIN begun ON begun.id = new.id
    LEFT JOIN LATERAL (
        SELECT id FROM replies WHERE tenant = new.tenant AND appid = new.appid AND status = 'streaming' LIMIT 1
    ) AS running ON true
    LEFT JOIN LATERAL ({
    messages.CONTEXT.format(
        tenant="new.tenant",
        appid="new.appid",
        messages="new.messages",
        size="new.size",
        least="new.least",
        before=messages.MAX_SEQ,
    )
}) AS context ON begun.id IS NOT NULL
    ORDER BY context.seq
"""


async def _begin_result(connection: asyncpg.Connection, new: NewReply, rows: Sequence[asyncpg.Record]) -> BeginResult:
    first = rows[0]
    if not first["begun"]:
        if first["existing"] is not None:
            return BeginResult(existing=first["existing"])
        conflict = await _find_conflict(connection, new)
        if conflict is not None:
            return conflict
        [result] = await begin(connection, [new])  # the conflicting reply has ended in the meantime
        return result
    if first["running"] is not None:
        # The previous reply ended after the statement's snapshot was taken: its message is not in the rows.
        context = await messages.context(
            connection, new.tenant, new.appid, new.context_messages, new.context_bytes, before=first["recorded_from"]
        )
        return BeginResult(context=context)
    earlier = [Message(row["username"], row["message"], row["extra"]) for row in rows if row["seq"] is not None]
    return BeginResult(context=earlier)


async def _find_conflict(connection: asyncpg.Connection, new: NewReply) -> BeginResult | None:
    """Find the reply that conflicts with ``new``; None if there is none any more.

    This needs a new snapshot: the conflicting row may have been committed after that of :func:`begin`, which may also
    show a reply as streaming that has ended since.
    """
    rows = await connection.fetch(
        """
        SELECT id, true AS existing FROM replies WHERE tenant = $1 AND appid = $2 AND idempotency_key = $3
        UNION ALL
        SELECT id, false FROM replies WHERE tenant = $1 AND appid = $2 AND status = 'streaming'
        """,
        new.tenant,
        new.appid,
        new.idempotency_key,
    )
    ids = {row["existing"]: row["id"] for row in rows}
    if True in ids:
        return BeginResult(existing=ids[True])
    return BeginResult(running=ids[False]) if ids else None


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


async def finish(connection: asyncpg.Connection, endings: Sequence[FinishRequest]) -> list[FinishResult]:
    """Finish streaming replies: store their last lines, messages and status, in one statement.

    Idempotent: may be repeated if the result was lost. An error of one text rolls back all of them.

    :returns: one result for each reply, in order.
    :raises asyncpg.DataError: PostgreSQL cannot store a text.
    """
    rows = await connection.fetch(
        _FINISH,
        [ending.id for ending in endings],
        [ending.tenant for ending in endings],
        [ending.owner for ending in endings],
        [ending.status for ending in endings],
        [ending.error for ending in endings],
        [ending.message.content if ending.message else None for ending in endings],
        [ending.message.extra if ending.message else None for ending in endings],
        [ending.first for ending in endings],
        [len(ending.lines) for ending in endings],
        [ending.id for ending in endings for _ in ending.lines],
        [ending.first + n for ending in endings for n in range(len(ending.lines))],
        [line for ending in endings for line in ending.lines],
        CHANNEL,
        [ending.id for ending in endings for _ in ending.notices],
        [notice for ending in endings for notice in ending.notices],
    )
    stored = {row["id"] for row in rows}
    return [
        FinishResult.STORED if ending.id in stored else await _why_not_finished(connection, ending)
        for ending in endings
    ]


# `finished IS NULL`: see STREAMING. ORDER BY lets concurrent statements lock rows in the same order, as in _BEGIN.
_FINISH = """
    WITH ending AS MATERIALIZED (
        SELECT *, (SELECT max(seq) FROM reply_lines WHERE reply = ending.id) AS last_logged FROM unnest(
            $1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::int[], $9::int[]
        ) AS ending (id, tenant, owner, status, error, content, extra, first, count)
        ORDER BY id
    ), ended AS (
        UPDATE replies
        SET status = ending.status, error = ending.error, finished = now(), line_count = ending.first + ending.count,
            message_seq = CASE WHEN ending.content IS NOT NULL THEN nextval('chatts_seq_seq') END
        FROM ending
        WHERE replies.id = ending.id AND replies.tenant = ending.tenant AND replies.owner = ending.owner
        AND replies.finished IS NULL
        AND coalesce(ending.last_logged, -1) >= ending.first - 1
        RETURNING replies.id, replies.tenant, appid, message_seq, line_count, ending.content, ending.extra
    ), written AS (
        INSERT INTO reply_lines (reply, seq, line)
        SELECT last.reply, last.seq, last.line
        FROM unnest($10::uuid[], $11::int[], $12::text[]) AS last (reply, seq, line)
        JOIN ended ON ended.id = last.reply
        ON CONFLICT (reply, seq) DO UPDATE SET line = excluded.line
    ), never_sent AS (
        DELETE FROM reply_lines USING ended WHERE reply = ended.id AND seq >= ended.line_count
    ), recorded AS (
        INSERT INTO chatts (seq, id, tenant, appid, username, message, extra)
        SELECT message_seq, id, tenant, appid, 'assistant', content, extra FROM ended WHERE message_seq IS NOT NULL
    )
    SELECT ended.id, (
        SELECT count(pg_notify($13, notices.payload))
        FROM unnest($14::uuid[], $15::text[]) AS notices (reply, payload) WHERE notices.reply = ended.id
    ) FROM ended
"""


async def _why_not_finished(connection: asyncpg.Connection, ending: FinishRequest) -> FinishResult:
    """Find out why a reply was not finished.

    This needs a new snapshot: :func:`finish` may have waited for its own first attempt, which committed after its
    snapshot was taken.
    """
    row = await connection.fetchrow(
        "SELECT status, owner FROM replies WHERE tenant = $1 AND id = $2", ending.tenant, ending.id
    )
    if row is None or row["owner"] != ending.owner or row["status"] not in (ending.status, STREAMING):
        return FinishResult.NOT_OWNER
    return FinishResult.STORED if row["status"] == ending.status else FinishResult.LINES_MISSING


async def find(connection: asyncpg.Connection, tenant: str, reply: UUID) -> StoredReply | None:
    """Read a reply and its message.

    :returns: None if there is no such reply.
    """
    row = await connection.fetchrow(
        """
        SELECT id, appid, model, status, error, produced.username, produced.message, produced.extra
        FROM replies LEFT JOIN LATERAL (
            SELECT username, message, extra FROM chatts
            WHERE tenant = $1 AND appid = replies.appid AND seq = replies.message_seq LIMIT 1
        ) AS produced ON true
        WHERE tenant = $1 AND id = $2
        """,
        tenant,
        reply,
    )
    if row is None:
        return None
    message = Message(row["username"], row["message"], row["extra"]) if row["message"] is not None else None
    return StoredReply(row["id"], row["appid"], row["model"], row["status"], row["error"], message)


async def find_streaming(connection: asyncpg.Connection, tenant: str, appid: str) -> UUID | None:
    """Find the reply that is streaming in a conversation."""
    reply: UUID | None = await connection.fetchval(
        "SELECT id FROM replies WHERE tenant = $1 AND appid = $2 AND status = 'streaming'", tenant, appid
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
