"""The statement that finishes replies: stores their last lines, their messages and how they ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

import asyncpg

from db.messages import CHECKED_EXTRA, Message
from db.processes import CHANNEL
from db.replies import STREAMING


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
    :ivar context: JSON object, what the model was sent (docs/api.md); None if it is not known.
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
    context: str | None = None

    def size(self) -> int:
        """Return the number of characters to store."""
        return (self.message.size if self.message else 0) + sum(map(len, self.lines))


class FinishResult(Enum):
    """The result of :func:`finish` for one reply."""

    STORED = auto()
    NOT_OWNER = auto()
    """Another process owns the reply, or it ended with another status, or it was deleted."""

    LINES_MISSING = auto()
    """The log lacks lines before ``first``, lost in a crash of PostgreSQL: append them again first."""


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
        [ending.context for ending in endings],
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
            $1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::json[], $8::int[], $9::int[],
            $16::json[]
        ) AS ending (id, tenant, owner, status, error, content, extra, first, count, context)
        ORDER BY id
    ), ended AS (
        UPDATE replies
        SET status = ending.status, error = ending.error, finished = now(), line_count = ending.first + ending.count,
            context = ending.context,
            message_seq = CASE WHEN continues_seq IS NOT NULL THEN continues_seq
                               WHEN ending.content IS NOT NULL THEN nextval('chatts_seq_seq') END
        FROM ending
        WHERE replies.id = ending.id AND replies.tenant = ending.tenant AND replies.owner = ending.owner
        AND replies.finished IS NULL
        AND coalesce(ending.last_logged, -1) >= ending.first - 1
        RETURNING replies.id, replies.tenant, appid, message_seq, line_count, continues_seq, continues_at,
                  ending.content, {CHECKED_EXTRA.format(extra="ending.extra")} AS extra
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
            extra = CASE WHEN ended.extra IS NULL THEN chatts.extra
                         WHEN json_typeof(chatts.extra) IS DISTINCT FROM 'object' THEN ended.extra
                         ELSE ({_MERGED_EXTRA}) END,
            extra_bytes = NULL
        FROM ended
        WHERE chatts.tenant = ended.tenant AND chatts.appid = ended.appid AND chatts.seq = ended.continues_seq
        AND content IS NOT NULL
    ), recorded AS (
        INSERT INTO chatts (seq, id, tenant, appid, username, message, extra, extra_bytes)
        SELECT message_seq, id, tenant, appid, 'assistant', content, extra, octet_length(extra::text) FROM ended
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
