"""The statement that begins replies: records their prompts, inserts their rows and reads their contexts."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from db.context.cuts import STORED_CUT, Cut
from db.context.selection import CONTEXT, MAX_IMAGE_BYTES_READ, RETRIED
from db.context.summaries import NEWEST_SUMMARY, SENT_TEXT
from db.messages import CHECKED_EXTRA, MAX_SEQ, Message


@dataclass(frozen=True, slots=True)
class NewReply:
    """A reply to insert, with its prompt.

    :ivar request: JSON object passed on to Ollama, without its messages.
    :ivar owner: id of the process that generates the reply.
    :ivar messages: the prompt, which is recorded.
    :ivar context_messages: maximum number of earlier messages to read.
    :ivar context_bytes: maximum bytes of earlier messages to read, images aside.
    :ivar plain_client: whether the next prompt of the conversation may supersede the reply (:mod:`relay.supersession`).
    :ivar unsent: number of the prompt's oldest messages, system messages not counted, that are not sent to the model.
    :ivar context_image_bytes: bytes of earlier images after which older ones are left out; by default none are.
    :ivar cut_by_us: whether the conversation is sent from its stored cut on (:mod:`db.context.cuts`).
    :ivar context_system_bytes: bytes of earlier system messages after which older ones are left out; by default
        ``context_bytes``, of which they are a part.
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
    plain_client: bool = False
    context_image_bytes: int = MAX_SEQ
    context_system_bytes: int | None = None
    cut_by_us: bool = True

    @property
    def system_bytes(self) -> int:
        """The limit of earlier system messages in bytes."""
        return self.context_bytes if self.context_system_bytes is None else self.context_system_bytes

    def size(self) -> int:
        """Return the number of characters to store."""
        return len(self.request) + sum(message.size for message in self.messages)

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
    :ivar without_images: number of messages of ``context`` whose images are left out.
    :ivar system_left_out: number of system messages that are left out.
    :ivar deferred: the images of ``context`` were not read, because they are large; see
        :func:`db.context.sent_messages.read_sent`.
    :ivar cut: from where on the conversation is sent; None if from its beginning.
    :ivar summary: whether one of the messages is a summary of what is before ``cut``.
    """

    context: list[Message] | None = None
    running: UUID | None = None
    existing: UUID | None = None
    continues_at: int | None = None
    without_images: int = 0
    system_left_out: int = 0
    deferred: bool = False
    cut: Cut | None = None
    summary: bool = False


async def begin(connection: asyncpg.Connection, new: Sequence[NewReply]) -> list[BeginResult]:
    """Insert replies, record their prompts and read their contexts, in one statement.

    A reply is skipped, with nothing of it recorded, if a reply is streaming in its conversation or has its idempotency
    key. A prompt that repeats the newest messages of its conversation takes their place if the reply that they began
    has ended without a word. A reply without a prompt answers the newest messages even if they were refused because of
    their length. An error of one text rolls back all of them.

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
        [reply.plain_client for reply in new],
        [reply.id for reply in new for _ in reply.messages],
        [message.role for reply in new for message in reply.messages],
        [message.content for reply in new for message in reply.messages],
        [message.extra for reply in new for message in reply.messages],
        [sent for reply in new for sent in reply.sent()],
        [len(reply.messages) for reply in new],
        [reply.context_image_bytes for reply in new],
        [reply.system_bytes for reply in new],
        [reply.cut_by_us for reply in new],
    )
    found: dict[UUID, list[asyncpg.Record]] = {reply.id: [] for reply in new}
    for row in rows:
        found[row["id"]].append(row)
    return [await _begin_result(connection, reply, found[reply.id]) for reply in new]


_CONTINUABLE = """
    username = 'assistant' AND message ~ '[^[:space:]]' AND coalesce(extra ->> 'tool_calls', '[]') = '[]'
"""
"""Condition on the newest message of a conversation: a reply without a prompt continues it."""

_REPEATED = """
    SELECT same.first
    FROM (
        SELECT seq FROM chatts WHERE tenant = {tenant} AND appid = {appid} AND seq < {before} ORDER BY seq DESC LIMIT 1
    ) AS newest
    CROSS JOIN LATERAL (
        SELECT status, context_last, message_seq FROM replies
        WHERE appid = {appid} AND tenant = {tenant} AND id <> {reply}
        ORDER BY started DESC LIMIT 1
    ) AS last
    CROSS JOIN LATERAL (
        SELECT min(stored.seq) AS first
        FROM (
            SELECT seq, username, message, extra, row_number() OVER (ORDER BY seq DESC) AS from_end
            FROM (
                SELECT * FROM chatts WHERE tenant = {tenant} AND appid = {appid} AND seq <= newest.seq
                ORDER BY seq DESC LIMIT {count}
            ) AS newest_messages
        ) AS stored
        JOIN {prompt} ON n = {count} - from_end + 1 AND role = username AND content = message
        AND prompt.extra::text IS NOT DISTINCT FROM stored.extra::text
        WHERE last.context_last = newest.seq AND last.message_seq IS NULL
        AND last.status IN ('failed', 'truncated', 'interrupted', 'stopped')
        HAVING count(*) = {count}
    ) AS same
"""
"""A query for the ``seq`` from which on a conversation consists of the prompt's own messages, recorded by an earlier
attempt whose reply, the last one, ended without a word; no row if it does not. The parameters are SQL expressions:
``reply``, the id of the one to begin; ``before``, a seq;
``prompt``, a relation of that name with role, content, extra and n from 1 to ``count``."""

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
            $9::bigint[], $10::int[], $11::boolean[], $17::int[], $18::bigint[], $19::bigint[],
            $20::boolean[]
        ) WITH ORDINALITY AS new (
            id, tenant, appid, model, request, owner, idempotency_key, messages, size, least, plain_client,
            prompt_count, image_size, system_size, cut_by_us, n
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
            SELECT *, row_number() OVER (PARTITION BY reply ORDER BY position) AS n
            FROM unnest($12::uuid[], $13::text[], $14::text[], $15::json[], $16::boolean[])
                WITH ORDINALITY AS prompt (reply, role, content, extra, sent, position)
            ORDER BY position
        ) AS ordered
    ), repeated AS MATERIALIZED (
        SELECT new.id AS reply, repeated.first FROM new CROSS JOIN LATERAL ({
    _REPEATED.format(
        tenant="new.tenant",
        appid="new.appid",
        reply="new.id",
        before=MAX_SEQ,
        count="new.prompt_count",
        prompt="(SELECT * FROM prompt WHERE reply = new.id) AS prompt",
    )
}) AS repeated WHERE new.settled AND new.prompt_count > 0
    ), retried AS MATERIALIZED (
        SELECT new.id AS reply, retried.first FROM new CROSS JOIN LATERAL ({
    RETRIED.format(tenant="new.tenant", appid="new.appid")
}) AS retried WHERE new.settled AND new.prompt_count = 0
    ), context AS MATERIALIZED (
        SELECT new.id AS reply, cut.first AS cut_first, cut.context_window, cut.left_out, context.*
        FROM new LEFT JOIN repeated ON repeated.reply = new.id LEFT JOIN retried ON retried.reply = new.id
        LEFT JOIN LATERAL ({
    STORED_CUT.format(
        tenant="new.tenant",
        appid="new.appid",
        model="new.model",
        before=f"coalesce(repeated.first, {MAX_SEQ})",
    )
}) AS cut ON new.cut_by_us CROSS JOIN LATERAL ({
    CONTEXT.format(
        tenant="new.tenant",
        appid="new.appid",
        messages="new.messages",
        size="new.size",
        image_size="new.image_size",
        system_size="new.system_size",
        most=MAX_IMAGE_BYTES_READ,
        least="new.least",
        first="coalesce(cut.first, 0)",
        before=f"coalesce(repeated.first, {MAX_SEQ})",
        retried=f"coalesce(retried.first, {MAX_SEQ})",
    )
}) AS context WHERE new.settled
    ), summarised AS MATERIALIZED (
        SELECT head.reply, sent.* FROM (
            SELECT reply, max(cut_first) AS first FROM context GROUP BY reply
        ) AS head
        JOIN new ON new.id = head.reply CROSS JOIN LATERAL ({
    NEWEST_SUMMARY.format(tenant="new.tenant", appid="new.appid", before="head.first")
}) AS sent WHERE sent.text <> ''
    ), begun AS (
        INSERT INTO replies (
            id, tenant, appid, model, request, owner, idempotency_key, plain_client,
            context_first, context_last, images_after, system_after, summary, continues_seq, continues_at
        )
        SELECT new.id, new.tenant, new.appid, model, request, owner, idempotency_key, plain_client,
               CASE WHEN settled THEN coalesce(earlier.first, own.first) END,
               CASE WHEN settled THEN coalesce(own.last, earlier.last, 0) END, earlier.images_after,
               earlier.system_after, summarised.id, continued.seq, continued.length
        FROM new
        LEFT JOIN (
            SELECT reply, min(seq) FILTER (WHERE username <> 'system') AS first, max(seq) AS last,
                   max(images_after) AS images_after, max(system_after) AS system_after
            FROM context GROUP BY reply
        ) AS earlier ON earlier.reply = new.id
        LEFT JOIN (
            SELECT reply, min(seq) FILTER (WHERE role <> 'system' AND sent) AS first, max(seq) AS last
            FROM prompt GROUP BY reply
        ) AS own ON own.reply = new.id
        LEFT JOIN summarised ON summarised.reply = new.id
        LEFT JOIN LATERAL (
            SELECT seq, char_length(message) AS length FROM chatts
            WHERE tenant = new.tenant AND appid = new.appid AND seq = earlier.last AND own.last IS NULL
            AND {_CONTINUABLE} LIMIT 1
        ) AS continued ON true
        ORDER BY tenant, appid, n
        ON CONFLICT DO NOTHING
        RETURNING id, tenant, appid, context_last IS NOT NULL AS settled, continues_at
    ), replaced AS (
        DELETE FROM chatts USING begun JOIN repeated ON repeated.reply = begun.id
        WHERE chatts.tenant = begun.tenant AND chatts.appid = begun.appid AND chatts.seq >= repeated.first
    ), restored AS (
        UPDATE chatts SET left_out = NULL FROM begun JOIN retried ON retried.reply = begun.id
        WHERE chatts.tenant = begun.tenant AND chatts.appid = begun.appid AND chatts.seq >= retried.first
    ), recorded AS (
        INSERT INTO chatts (seq, tenant, appid, username, message, extra, extra_bytes)
        SELECT CASE WHEN settled THEN seq ELSE nextval('chatts_seq_seq') END, tenant, appid, role, content,
               {CHECKED_EXTRA.format(extra="extra")}, octet_length(extra::text)
        FROM (
            SELECT * FROM prompt JOIN begun ON begun.id = prompt.reply ORDER BY prompt.position
        ) AS ordered
        RETURNING tenant, appid, seq
    )
    SELECT new.id, begun.id IS NOT NULL AS begun, begun.settled, new.existing, begun.continues_at,
           CASE WHEN NOT begun.settled THEN ARRAY (
               SELECT recorded.seq FROM recorded
               WHERE recorded.tenant = new.tenant AND recorded.appid = new.appid ORDER BY recorded.seq
           ) END AS recorded, NULL::bigint AS seq, NULL AS username, NULL AS message, NULL::json AS extra,
           NULL::boolean AS without_images,
           head.system_left_out, head.deferred, head.cut_first, head.context_window, head.left_out,
           summarised.id AS summary
    FROM new LEFT JOIN begun ON begun.id = new.id LEFT JOIN summarised ON summarised.reply = new.id
    LEFT JOIN (
        SELECT reply, max(system_left_out) AS system_left_out, bool_or(deferred) AS deferred,
               max(cut_first) AS cut_first, max(context_window) AS context_window, max(left_out) AS left_out
        FROM context GROUP BY reply
    ) AS head ON head.reply = new.id
    UNION ALL
    SELECT reply, NULL, NULL, NULL, NULL, NULL, seq, username, message, extra, without_images,
           NULL, NULL, NULL, NULL, NULL, NULL
    FROM context WHERE seq IS NOT NULL
    UNION ALL
    SELECT reply, NULL, NULL, NULL, NULL, NULL, until, 'system', {SENT_TEXT}, NULL, false,
           NULL, NULL, NULL, NULL, NULL, NULL
    FROM summarised
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
    return _begun(rows[1:], first)


def _begun(context: Sequence[asyncpg.Record], head: asyncpg.Record) -> BeginResult:
    first = head["cut_first"]
    return BeginResult(
        context=[Message(row["username"], row["message"], row["extra"]) for row in context],
        continues_at=head["continues_at"],
        without_images=sum(1 for row in context if row["without_images"]),
        system_left_out=head["system_left_out"] or 0,
        deferred=bool(head["deferred"]),
        cut=None if first is None else Cut(first, head["context_window"], head["left_out"]),
        summary=head["summary"] is not None,
    )


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
        recorded[0] if recorded else MAX_SEQ,
        sent[0] if sent else None,
        recorded[-1] if recorded else None,
        new.id,
        new.owner,
        new.context_image_bytes,
        len(new.messages),
        [message.role for message in new.messages],
        [message.content for message in new.messages],
        [message.extra for message in new.messages],
        new.system_bytes,
        new.model,
        new.cut_by_us,
    )
    context = [row for row in rows if row["seq"] is not None]
    return _begun(context, rows[0])


_READ_CONTEXT_AGAIN = f"""
    WITH repeated AS MATERIALIZED ({
    _REPEATED.format(
        tenant="$1",
        appid="$2",
        reply="$9",
        before="$6",
        count="$12::int",
        prompt='''unnest($13::text[], $14::text[], $15::json[])
            WITH ORDINALITY AS prompt (role, content, extra, n)''',
    )
}), replaced AS (
        DELETE FROM chatts USING repeated WHERE tenant = $1 AND appid = $2 AND seq >= repeated.first AND seq < $6
    ), retried AS MATERIALIZED (
        SELECT first FROM ({RETRIED.format(tenant="$1", appid="$2")}) AS retried WHERE $12 = 0
    ), restored AS (
        UPDATE chatts SET left_out = NULL FROM retried WHERE tenant = $1 AND appid = $2 AND seq >= retried.first
    ), cut AS MATERIALIZED ({
    STORED_CUT.format(tenant="$1", appid="$2", model="$17", before="coalesce((SELECT first FROM repeated), $6::bigint)")
} AND $18), context AS MATERIALIZED ({
    CONTEXT.format(
        tenant="$1",
        appid="$2",
        messages="$3",
        size="$4",
        image_size="$11",
        system_size="$16",
        most=MAX_IMAGE_BYTES_READ,
        least="$5",
        first="coalesce((SELECT first FROM cut), 0)",
        before="coalesce((SELECT first FROM repeated), $6)",
        retried=f"coalesce((SELECT first FROM retried), {MAX_SEQ})",
    )
}), summarised AS MATERIALIZED (
        SELECT * FROM ({
    NEWEST_SUMMARY.format(tenant="$1", appid="$2", before="(SELECT first FROM cut)")
}) AS sent WHERE text <> ''
    ), bounds AS (
        SELECT coalesce(min(seq) FILTER (WHERE username <> 'system'), $7::bigint) AS first,
               coalesce($8::bigint, max(seq), 0) AS last, max(images_after) AS images_after,
               max(system_after) AS system_after
        FROM context
    ), continued AS (
        SELECT seq, char_length(message) AS length FROM context
        WHERE $8 IS NULL AND seq = (SELECT last FROM bounds) AND {_CONTINUABLE}
    ), stored AS (
        UPDATE replies SET context_first = bounds.first, context_last = bounds.last,
            images_after = bounds.images_after, system_after = bounds.system_after,
            summary = (SELECT id FROM summarised),
            continues_seq = continued.seq, continues_at = continued.length
        FROM bounds LEFT JOIN continued ON true
        WHERE id = $9 AND owner = $10 AND finished IS NULL
    )
    SELECT sent.*, continued.length AS continues_at, cut.first AS cut_first, cut.context_window, cut.left_out,
           (SELECT id FROM summarised) AS summary
    FROM (
        SELECT * FROM context
        UNION ALL
        SELECT until, 'system', {SENT_TEXT}, NULL, NULL, false, NULL, (SELECT max(system_left_out) FROM context),
               (SELECT bool_or(deferred) FROM context)
        FROM summarised
    ) AS sent
    LEFT JOIN continued ON true LEFT JOIN cut ON true ORDER BY sent.seq
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
