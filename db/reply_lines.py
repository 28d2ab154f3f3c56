"""The table ``reply_lines``: the log of the lines of all replies."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from db.processes import CHANNEL


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LogPage:
    """Consecutive lines of a reply, and the state of the reply in the same snapshot.

    :ivar status: ``replies.status``.
    :ivar owner: id of the process that generates the reply; None if the reply was released.
    :ivar owner_alive: whether that process is registered in ``processes``.
    :ivar pruned: whether the log was deleted or its retention has expired; ``lines`` is empty then.
    :ivar lines: the lines from the requested number on; empty at the current end of the log.
    """

    status: str
    owner: int | None
    owner_alive: bool
    pruned: bool
    lines: list[bytes]


async def append(
    connection: asyncpg.Connection,
    owner: int,
    replies: Sequence[str],
    numbers: Sequence[int],
    lines: Sequence[bytes],
    notices: Sequence[str],
    again: bool = False,
) -> bool:
    """Append a batch of lines of any number of replies to the log, and send notifications at its commit.

    The statement locks the process's own row in ``processes`` FOR KEY SHARE, and writes nothing if there is none: see
    :mod:`db.processes`.

    ``replies``, ``numbers`` and ``lines`` have the same length. Each is sent as one text, which asyncpg encodes in half
    the time of an array.

    :param owner: id of this process.
    :param replies: ids of the replies, in the standard form of a UUID.
    :param numbers: numbers of the lines within their replies.
    :param lines: the lines in UTF-8, not empty and without line feeds.
    :param notices: payloads of the notifications.
    :param again: skip lines that exist already; for repeating a batch whose result was lost. Costs PostgreSQL nearly
        twice as much.
    :returns: False if this process was declared dead; nothing was written.
    :raises asyncpg.UniqueViolationError: a line exists already, and ``again`` is False; nothing was written.
    """
    alive: bool = await connection.fetchval(
        _APPEND_SKIPPING if again else _APPEND,
        owner,
        f"{{{','.join(replies)}}}",
        f"{{{','.join(map(str, numbers))}}}",
        b"\n".join(lines).decode(),
        CHANNEL,
        notices,
    )
    return alive


_APPEND_TEMPLATE = """
    WITH alive AS MATERIALIZED (
        SELECT owner FROM processes WHERE owner = $1 FOR KEY SHARE
    ), written AS (
        INSERT INTO reply_lines (reply, seq, line)
        SELECT new.reply, new.seq, new.line
        FROM alive CROSS JOIN ROWS FROM (
            unnest($2::text::uuid[]), unnest($3::text::int[]), string_to_table($4, E'\\n')
        ) AS new (reply, seq, line)
        {on_conflict}
    ), sent AS MATERIALIZED (
        SELECT pg_notify($5, notice) FROM alive CROSS JOIN unnest($6::text[]) AS notice
    )
    SELECT EXISTS (SELECT FROM alive) AND (SELECT count(*) FROM sent) >= 0
"""
_APPEND = _APPEND_TEMPLATE.format(on_conflict="")
_APPEND_SKIPPING = _APPEND_TEMPLATE.format(on_conflict="ON CONFLICT DO NOTHING")


async def read_page(
    connection: asyncpg.Connection, tenant: str, reply: UUID, first: int, retention: float, count: int, size: int
) -> LogPage | None:
    """Read lines of a reply and the state of the reply in one snapshot.

    :param first: number of the first line to read.
    :param retention: seconds after the end of a reply for which its lines are read.
    :param count: maximum number of lines.
    :param size: maximum bytes; the first line is read even if it is larger.
    :returns: None if there is no such reply.
    """
    rows = await connection.fetch(
        """
        WITH reply AS (
            SELECT id, status, owner, line_count, pruned OR finished < now() - make_interval(secs => $4) AS pruned
            FROM replies WHERE tenant = $1 AND id = $2
        )
        SELECT reply.status, reply.owner, coalesce(reply.pruned, false) AS pruned, log.line,
               EXISTS (SELECT FROM processes WHERE processes.owner = reply.owner) AS owner_alive
        FROM reply LEFT JOIN LATERAL (
            SELECT seq, line, sum(octet_length(line)) OVER (ORDER BY seq) AS bytes
            FROM (
                SELECT seq, line FROM reply_lines
                WHERE reply = $2 AND seq >= $3::bigint AND (reply.line_count IS NULL OR seq < reply.line_count)
                ORDER BY seq LIMIT $5
            ) AS following
        ) AS log ON reply.pruned IS NOT TRUE AND (log.bytes <= $6 OR log.seq = $3)
        ORDER BY log.seq
        """,
        tenant,
        reply,
        first,
        retention,
        count,
        size,
    )
    if not rows:
        return None
    lines = [row["line"].encode() for row in rows if row["line"] is not None]
    state = rows[0]
    return LogPage(state["status"], state["owner"], state["owner_alive"], state["pruned"], lines)


async def prune(connection: asyncpg.Connection, retention: float, batch: int) -> int:
    """Delete one batch of lines of replies that ended more than ``retention`` seconds ago.

    :param batch: maximum number of rows to delete.
    :returns: number of rows deleted or replies marked as pruned; repeat until it is 0.
    """
    pruned: int = await connection.fetchval(
        """
        WITH due AS (
            SELECT id FROM replies
            WHERE NOT pruned AND finished < now() - make_interval(secs => $1)
            ORDER BY finished
            LIMIT 100
            FOR UPDATE SKIP LOCKED
        ), rows AS (
            -- by reply, then by ctid: never a scan of the whole table, whether or not it was analyzed
            SELECT log.ctid FROM due CROSS JOIN LATERAL (
                SELECT ctid FROM reply_lines WHERE reply = due.id LIMIT $2
            ) AS log LIMIT $2
        ), deleted AS (
            DELETE FROM reply_lines WHERE ctid = ANY (ARRAY (SELECT ctid FROM rows))
            RETURNING 1
        ), marked AS (
            UPDATE replies SET pruned = true
            WHERE id = ANY (ARRAY (SELECT id FROM due)) AND (SELECT count(*) FROM rows) < $2
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM deleted) + (SELECT count(*) FROM marked)
        """,
        retention,
        batch,
    )
    return pruned
