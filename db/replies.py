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
    :ivar unsent: number of the prompt's oldest messages, system messages not counted, that are not sent to the model.
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
    unsent: int = 0

    def sent(self) -> list[bool]:
        """Return for each message of the prompt whether it is sent to the model."""
        unsent, sent = self.unsent, []
        for message in self.messages:
            sent.append(message.role == "system" or unsent <= 0)
            unsent -= message.role != "system"
        return sent


@dataclass(frozen=True, slots=True)
class BeginResult:
    """The result of :func:`begin` for one reply. Exactly one of ``context``, ``running`` and ``existing`` is not None.

    :ivar context: the reply was inserted; the conversation's earlier messages, oldest first.
    :ivar running: the reply that is already streaming in this conversation.
    :ivar existing: the reply that has the same idempotency key.
    :ivar continues_at: the reply continues the last message of ``context``, which has this number of characters.
    """

    context: list[Message] | None = None
    running: UUID | None = None
    existing: UUID | None = None
    continues_at: int | None = None


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

    :ivar request: see :class:`NewReply`.
    :ivar context_first: ``seq`` of the first message sent that is not a system message; None if there was none.
    :ivar context_last: ``seq`` of the last message sent, 0 if none was; None if a version of chatterd before migration
        0005 began the reply. See :func:`db.messages.context_between`.
    :ivar continues_at: number of characters of the last message sent, which the reply continues; None for others.
    """

    appid: str
    request: str
    context_first: int | None
    context_last: int | None
    continues_at: int | None


@dataclass(frozen=True, slots=True)
class FinishRequest:
    """The end of a reply, to store.

    :ivar owner: id of the process that generates the reply.
    :ivar status: the final status.
    :ivar error: error message for viewers, or None.
    :ivar message: the assistant's message, stored with the id of the reply or appended to the message that the reply
        continues; None if the reply has no content.
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
        [sent for reply in new for sent in reply.sent()],
    )
    found: dict[UUID, list[asyncpg.Record]] = {reply.id: [] for reply in new}
    for row in rows:
        found[row["id"]].append(row)
    return [await _begin_result(connection, reply, found[reply.id]) for reply in new]


_CONTINUABLE = """
    username = 'assistant' AND message ~ '[^[:space:]]' AND coalesce(extra ->> 'tool_calls', '[]') = '[]'
"""
"""Condition on the newest message of a conversation: a reply without a prompt continues it."""

_CHECKED = "CASE WHEN {extra}::jsonb IS NOT NULL THEN {extra} END"
"""``extra``, or an error if it contains what jsonb refuses (\\u0000, lone surrogates) and clients could not read."""

# LATERAL and scalar subqueries look up `running` and `existing` by key for each row: the planner assumes few streaming
# replies and would scan the whole partial index. ORDER BY lets concurrent statements lock the unique keys in the same
# order, which prevents deadlocks.
#
# The prompt's `seq` is allocated before the insertion into `replies`, which stores it and may wait for the end of the
# previous reply. If so, the snapshot shows the previous reply as streaming (`running`): no context is read or stored,
# and the prompt gets a new `seq`, greater than that of the previous reply's message.
_BEGIN = f"""
    WITH new AS MATERIALIZED (
        SELECT new.*, running.id IS NULL AND existing.id IS NULL AS settled, existing.id AS existing
        FROM unnest(
            $1::uuid[], $2::text[], $3::text[], $4::text[], $5::json[], $6::bigint[], $7::text[], $8::int[],
            $9::bigint[], $10::int[]
        ) WITH ORDINALITY AS new (
            id, tenant, appid, model, request, owner, idempotency_key, messages, size, least, n
        )
        LEFT JOIN LATERAL (
            SELECT id FROM replies WHERE tenant = new.tenant AND appid = new.appid AND status = 'streaming' LIMIT 1
        ) AS running ON true
        LEFT JOIN LATERAL (
            SELECT id FROM replies WHERE tenant = new.tenant AND appid = new.appid
            AND idempotency_key = new.idempotency_key LIMIT 1
        ) AS existing ON true
    ), prompt AS MATERIALIZED (
        SELECT nextval('chatts_seq_seq') AS seq, ordered.* FROM (
            SELECT * FROM unnest($11::uuid[], $12::text[], $13::text[], $14::json[], $15::boolean[])
                WITH ORDINALITY AS prompt (reply, role, content, extra, sent, n)
            ORDER BY n
        ) AS ordered
    ), context AS MATERIALIZED (
        SELECT new.id AS reply, context.* FROM new CROSS JOIN LATERAL ({
    messages.CONTEXT.format(
        tenant="new.tenant",
        appid="new.appid",
        messages="new.messages",
        size="new.size",
        least="new.least",
        before=messages.MAX_SEQ,
    )
}) AS context WHERE new.settled
    ), begun AS (
        INSERT INTO replies (
            id, tenant, appid, model, request, owner, idempotency_key,
            context_first, context_last, continues_seq, continues_at
        )
        SELECT new.id, new.tenant, new.appid, model, request, owner, idempotency_key,
               CASE WHEN settled THEN coalesce(earlier.first, own.first) END,
               CASE WHEN settled THEN coalesce(own.last, earlier.last, 0) END,
               continued.seq, continued.length
        FROM new
        LEFT JOIN (
            SELECT reply, min(seq) FILTER (WHERE username <> 'system') AS first, max(seq) AS last
            FROM context GROUP BY reply
        ) AS earlier ON earlier.reply = new.id
        LEFT JOIN (
            SELECT reply, min(seq) FILTER (WHERE role <> 'system' AND sent) AS first, max(seq) AS last
            FROM prompt GROUP BY reply
        ) AS own ON own.reply = new.id
        LEFT JOIN LATERAL (
            SELECT seq, char_length(message) AS length FROM chatts
            WHERE tenant = new.tenant AND appid = new.appid AND seq = earlier.last AND own.last IS NULL
            AND {_CONTINUABLE} LIMIT 1
        ) AS continued ON true
        ORDER BY tenant, appid, n
        ON CONFLICT DO NOTHING
        RETURNING id, tenant, appid, context_last IS NOT NULL AS settled, continues_at
    ), recorded AS (
        INSERT INTO chatts (seq, tenant, appid, username, message, extra)
        SELECT CASE WHEN settled THEN seq ELSE nextval('chatts_seq_seq') END, tenant, appid, role, content,
               {_CHECKED.format(extra="extra")}
        FROM (
            SELECT * FROM prompt JOIN begun ON begun.id = prompt.reply ORDER BY prompt.n
        ) AS ordered
        RETURNING tenant, appid, seq
    )
    SELECT new.id, begun.id IS NOT NULL AS begun, begun.settled, new.existing, begun.continues_at,
           CASE WHEN NOT begun.settled THEN ARRAY (
               SELECT recorded.seq FROM recorded
               WHERE recorded.tenant = new.tenant AND recorded.appid = new.appid ORDER BY recorded.seq
           ) END AS recorded, NULL::bigint AS seq, NULL AS username, NULL AS message, NULL::json AS extra
    FROM new LEFT JOIN begun ON begun.id = new.id
    UNION ALL
    SELECT reply, NULL, NULL, NULL, NULL, NULL, seq, username, message, extra FROM context
    ORDER BY seq NULLS FIRST
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
    if not first["settled"]:
        return await _read_context_again(connection, new, first["recorded"])
    return BeginResult(context=_messages(rows[1:]), continues_at=first["continues_at"])


def _messages(rows: Sequence[asyncpg.Record]) -> list[Message]:
    return [Message(row["username"], row["message"], row["extra"]) for row in rows]


async def _read_context_again(connection: asyncpg.Connection, new: NewReply, recorded: Sequence[int]) -> BeginResult:
    """Read and store the context of a reply whose predecessor ended after the snapshot of :func:`begin` was taken.

    :param recorded: ``seq`` of each message of the prompt.
    """
    sent = [
        seq
        for seq, message, is_sent in zip(recorded, new.messages, new.sent(), strict=True)
        if is_sent and message.role != "system"
    ]
    rows = await connection.fetch(
        _READ_CONTEXT_AGAIN,
        new.tenant,
        new.appid,
        new.context_messages,
        new.context_bytes,
        0 if new.messages else 1,
        recorded[0] if recorded else messages.MAX_SEQ,
        sent[0] if sent else None,
        recorded[-1] if recorded else None,
        new.id,
        new.owner,
    )
    return BeginResult(context=_messages(rows), continues_at=rows[0]["continues_at"] if rows else None)


_READ_CONTEXT_AGAIN = f"""
    WITH context AS MATERIALIZED ({
    messages.CONTEXT.format(tenant="$1", appid="$2", messages="$3", size="$4", least="$5", before="$6")
}), bounds AS (
        SELECT coalesce(min(seq) FILTER (WHERE username <> 'system'), $7::bigint) AS first,
               coalesce($8::bigint, max(seq), 0) AS last
        FROM context
    ), continued AS (
        SELECT seq, char_length(message) AS length FROM context
        WHERE $8 IS NULL AND seq = (SELECT last FROM bounds) AND {_CONTINUABLE}
    ), stored AS (
        UPDATE replies SET context_first = bounds.first, context_last = bounds.last, continues_seq = continued.seq,
            continues_at = continued.length
        FROM bounds LEFT JOIN continued ON true
        WHERE id = $9 AND owner = $10 AND finished IS NULL
    )
    SELECT context.*, continued.length AS continues_at FROM context LEFT JOIN continued ON true ORDER BY context.seq
"""


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


_MERGED_EXTRA = """
    SELECT json_object_agg(key, value ORDER BY n) FROM (
        SELECT key, min(n) AS n,
               CASE WHEN key = 'thinking' THEN to_json(string_agg(value #>> '{}', '' ORDER BY n))
                    ELSE (array_agg(value ORDER BY n DESC))[1] END AS value
        FROM (
            SELECT key, value, n FROM json_each(chatts.extra) WITH ORDINALITY AS earlier (key, value, n)
            UNION ALL
            SELECT key, value, 1000000 + n FROM json_each(ended.extra) WITH ORDINALITY AS later (key, value, n)
        ) AS both_extras GROUP BY key
    ) AS merged
"""
"""The fields of a message and those of the reply that continues it: the thoughts joined, of others the newer value."""

# `finished IS NULL`: see STREAMING. ORDER BY lets concurrent statements lock rows in the same order, as in _BEGIN.
#
# A reply that continues a message is appended to it. If somebody has deleted the message, it is stored in its place.
_FINISH = f"""
    WITH ending AS MATERIALIZED (
        SELECT *, (SELECT max(seq) FROM reply_lines WHERE reply = ending.id) AS last_logged FROM unnest(
            $1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::json[], $8::int[], $9::int[]
        ) AS ending (id, tenant, owner, status, error, content, extra, first, count)
        ORDER BY id
    ), ended AS (
        UPDATE replies
        SET status = ending.status, error = ending.error, finished = now(), line_count = ending.first + ending.count,
            message_seq = CASE WHEN continues_seq IS NOT NULL THEN continues_seq
                               WHEN ending.content IS NOT NULL THEN nextval('chatts_seq_seq') END
        FROM ending
        WHERE replies.id = ending.id AND replies.tenant = ending.tenant AND replies.owner = ending.owner
        AND replies.finished IS NULL
        AND coalesce(ending.last_logged, -1) >= ending.first - 1
        RETURNING replies.id, replies.tenant, appid, message_seq, line_count, continues_seq, continues_at,
                  ending.content, {_CHECKED.format(extra="ending.extra")} AS extra
    ), written AS (
        INSERT INTO reply_lines (reply, seq, line)
        SELECT last.reply, last.seq, last.line
        FROM unnest($10::uuid[], $11::int[], $12::text[]) AS last (reply, seq, line)
        JOIN ended ON ended.id = last.reply
        ON CONFLICT (reply, seq) DO UPDATE SET line = excluded.line
    ), never_sent AS (
        DELETE FROM reply_lines USING ended WHERE reply = ended.id AND seq >= ended.line_count
    ), continued AS (
        UPDATE chatts
        SET message = left(message, continues_at) || content,
            extra = CASE WHEN chatts.extra IS NULL OR ended.extra IS NULL THEN coalesce(chatts.extra, ended.extra)
                         ELSE ({_MERGED_EXTRA}) END
        FROM ended
        WHERE chatts.tenant = ended.tenant AND chatts.appid = ended.appid AND chatts.seq = ended.continues_seq
        AND content IS NOT NULL
    ), recorded AS (
        INSERT INTO chatts (seq, id, tenant, appid, username, message, extra)
        SELECT message_seq, id, tenant, appid, 'assistant', content, extra FROM ended
        WHERE content IS NOT NULL AND (continues_seq IS NULL OR (
            SELECT seq FROM chatts
            WHERE chatts.tenant = ended.tenant AND chatts.appid = ended.appid AND chatts.seq = ended.continues_seq
        ) IS NULL)
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
                WHEN reply.start = 0 THEN nullif(extra::jsonb - 'tool_calls', '{}')::json
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
        SELECT appid, request, context_first, context_last, continues_at FROM replies WHERE tenant = $1 AND id = $2
        """,
        tenant,
        reply,
    )
    return ReplySource(**row) if row else None


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
