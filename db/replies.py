"""The table ``replies``: one row per generation, from the moment its prompt is recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

import asyncpg

from db import messages
from db.messages import Message
from db.processes import CHANNEL

STREAMING = "streaming"
"""The status of a reply until it is finished. A statement that goes by an id says ``finished IS NULL`` instead: to a
PostgreSQL that last looked when nobody streamed, an index of those that stream seems empty, and so cheaper to read from
end to end than to look up an id."""


@dataclass(frozen=True, slots=True)
class NewReply:
    """What :func:`begin` records of a reply before the model is asked.

    :param request: the JSON object passed on to Ollama, without its messages.
    :param owner: the process that generates it.
    :param messages: the prompt, to record.
    :param context_messages: how many earlier messages to read at most.
    :param context_bytes: how many bytes of them at most.
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
    """How :func:`begin` ended. Exactly one of the three is not None.

    :param context: the conversation's earlier messages, oldest first.
    :param running: the reply that is being generated for this conversation already.
    :param existing: the reply that the same idempotency key began.
    """

    context: list[Message] | None = None
    running: UUID | None = None
    existing: UUID | None = None


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


@dataclass(frozen=True, slots=True)
class FinishRequest:
    """What :func:`finish` stores of a reply at its end.

    :param owner: the process that generates it.
    :param message: the assistant's; its id will be the reply's.
    :param first: the number of ``lines[0]``; the log must hold all lines before it.
    :param notices: what to ring at the other processes with the commit.
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
    """Whether :func:`finish` ended a reply."""

    STORED = auto()
    NOT_OWNER = auto()
    """Another process owns it, or it has ended otherwise, or was forgotten."""

    LINES_MISSING = auto()
    """PostgreSQL crashed and lost lines that it had taken: write them again first."""


async def begin(connection: asyncpg.Connection, new: Sequence[NewReply]) -> list[BeginResult]:
    """Record replies with their prompts, and read the conversations before them: one statement, all or nothing.

    Each is refused by itself, with nothing of it recorded, if a reply is streaming in its conversation or if its
    idempotency key is known.

    :returns: how each began, in order.
    """
    rows = await connection.fetch(
        _BEGIN,
        [one.id for one in new],
        [one.tenant for one in new],
        [one.appid for one in new],
        [one.model for one in new],
        [one.request for one in new],
        [one.owner for one in new],
        [one.idempotency_key for one in new],
        [one.context_messages for one in new],
        [one.context_bytes for one in new],
        [0 if one.messages else 1 for one in new],
        [one.id for one in new for _ in one.messages],
        [message.role for one in new for message in one.messages],
        [message.content for one in new for message in one.messages],
        [message.extra for one in new for message in one.messages],
    )
    found: dict[UUID, list[asyncpg.Record]] = {one.id: [] for one in new}
    for row in rows:
        found[row["id"]].append(row)
    return [await _begin_result(connection, one, found[one.id]) for one in new]


# `running` and `existing` are looked up row by row: PostgreSQL assumes that few replies are streaming at any time and
# would otherwise read the whole index of them. Sorted, so that concurrent statements lock their keys in one order.
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
        SELECT begun.tenant, begun.appid, said.role, said.content, said.extra
        FROM unnest($11::uuid[], $12::text[], $13::text[], $14::jsonb[])
            WITH ORDINALITY AS said (reply, role, content, extra, n)
        JOIN begun ON begun.id = said.reply
        ORDER BY said.n
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
        refused_by = await _conflict(connection, new)
        if refused_by is not None:
            return refused_by
        [begun] = await begin(connection, [new])  # it has ended meanwhile
        return begun
    if first["running"] is not None:
        # The statement's snapshot is older than the end of the reply before this one: its message is not in the rows.
        context = await messages.context(
            connection, new.tenant, new.appid, new.context_messages, new.context_bytes, before=first["recorded_from"]
        )
        return BeginResult(context=context)
    earlier = [Message(row["username"], row["message"], row["extra"]) for row in rows if row["seq"] is not None]
    return BeginResult(context=earlier)


async def _conflict(connection: asyncpg.Connection, new: NewReply) -> BeginResult | None:
    """Find the row that refused ``new``, if it still would.

    A statement of its own: that row may be too young for the other's snapshot, which may still show as running what
    ended before it.
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
    found = {row["existing"]: row["id"] for row in rows}
    if True in found:
        return BeginResult(existing=found[True])
    return BeginResult(running=found[False]) if found else None


async def find_by_idempotency_key(
    connection: asyncpg.Connection, tenant: str, appid: str, idempotency_key: str
) -> UUID | None:
    """Find the reply that an idempotency key began."""
    known: UUID | None = await connection.fetchval(
        "SELECT id FROM replies WHERE tenant = $1 AND appid = $2 AND idempotency_key = $3",
        tenant,
        appid,
        idempotency_key,
    )
    return known


async def finish(connection: asyncpg.Connection, endings: Sequence[FinishRequest]) -> list[FinishResult]:
    """End streaming replies: last lines, the assistant's message and the status, in one statement, all or nothing.

    Safe to repeat when the answer was lost.

    :returns: for each ending, in order, whether it is stored now.
    """
    rows = await connection.fetch(
        _FINISH,
        [one.id for one in endings],
        [one.tenant for one in endings],
        [one.owner for one in endings],
        [one.status for one in endings],
        [one.error for one in endings],
        [one.message.content if one.message else None for one in endings],
        [one.message.extra if one.message else None for one in endings],
        [one.first for one in endings],
        [len(one.lines) for one in endings],
        [one.id for one in endings for _ in one.lines],
        [one.first + n for one in endings for n in range(len(one.lines))],
        [line for one in endings for line in one.lines],
        CHANNEL,
        [one.id for one in endings for _ in one.notices],
        [notice for one in endings for notice in one.notices],
    )
    stored = {row["id"] for row in rows}
    return [FinishResult.STORED if one.id in stored else await _why_not_finished(connection, one) for one in endings]


# `finished IS NULL`: see STREAMING. Sorted, as two statements that repeat each other's endings must go in order.
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
    ), never_shown AS (
        DELETE FROM reply_lines USING ended WHERE reply = ended.id AND seq >= ended.line_count
    ), recorded AS (
        INSERT INTO chatts (seq, id, tenant, appid, username, message, extra)
        SELECT message_seq, id, tenant, appid, 'assistant', content, extra FROM ended WHERE message_seq IS NOT NULL
    )
    SELECT ended.id, (
        SELECT count(pg_notify($13, rung.notice))
        FROM unnest($14::uuid[], $15::text[]) AS rung (reply, notice) WHERE rung.reply = ended.id
    ) FROM ended
"""


async def _why_not_finished(connection: asyncpg.Connection, ending: FinishRequest) -> FinishResult:
    """Find out why a reply could not be ended. A statement of its own: the other's snapshot may be older than an end
    for which it had to wait, that of its own first try."""
    row = await connection.fetchrow(
        "SELECT status, owner FROM replies WHERE tenant = $1 AND id = $2", ending.tenant, ending.id
    )
    if row is None or row["owner"] != ending.owner or row["status"] not in (ending.status, STREAMING):
        return FinishResult.NOT_OWNER
    return FinishResult.STORED if row["status"] == ending.status else FinishResult.LINES_MISSING


async def find(connection: asyncpg.Connection, tenant: str, reply: UUID) -> StoredReply | None:
    """Read a reply and its message; None if there is no such reply."""
    row = await connection.fetchrow(
        """
        SELECT id, appid, model, status, error, said.username, said.message, said.extra
        FROM replies LEFT JOIN LATERAL (
            SELECT username, message, extra FROM chatts
            WHERE tenant = $1 AND appid = replies.appid AND seq = replies.message_seq LIMIT 1
        ) AS said ON true
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
            UPDATE replies SET stop = true WHERE tenant = $1 AND id = $2 AND finished IS NULL RETURNING id
        )
        SELECT pg_notify($3, 'stop ' || id) IS NOT NULL FROM asked
        """,
        tenant,
        reply,
        CHANNEL,
    )
    return asked is not None
