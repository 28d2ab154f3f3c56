"""The table ``reply_lines``: the durable log of what was shown of each reply."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from db.processes import CHANNEL


@dataclass(frozen=True, slots=True)
class LogPage:
    """A piece of a reply's log, and how the reply was at that moment.

    :param status: as in ``replies.status``.
    :param owner: the process that generates it; None if none does.
    :param owned: whether that process lives, as far as is known.
    :param pruned: whether its log is not read any more.
    :param lines: from the number that was asked for on; empty at the log's present end.
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
    """Write lines of any number of replies, one row for each place in the three lists, and send notices with them.

    The process's own row in ``processes`` is locked against its deletion while the lines are written. A process that
    was declared dead writes nothing, be its snapshot as old as it may.

    The lists go to PostgreSQL as one text each: asyncpg takes half as long for that as for arrays.

    :param replies: their ids, in the usual form of a UUID.
    :param lines: UTF-8; no line holds an LF, and none is empty.
    :param again: some of the lines may be there already, after a round whose answer was lost; those are left alone.
        It costs PostgreSQL nearly twice as much, hence not always.
    :returns: False if this process was declared dead.
    :raises asyncpg.UniqueViolationError: one of the lines is there already, and none was written.
    """
    alive: bool = await connection.fetchval(
        _APPEND_AGAIN if again else _APPEND,
        owner,
        f"{{{','.join(replies)}}}",
        f"{{{','.join(map(str, numbers))}}}",
        b"\n".join(lines).decode(),
        CHANNEL,
        notices,
    )
    return alive


_APPEND_FORM = """
    WITH alive AS MATERIALIZED (
        SELECT owner FROM processes WHERE owner = $1 FOR KEY SHARE
    ), written AS (
        INSERT INTO reply_lines (reply, seq, line)
        SELECT new.reply, new.seq, new.line
        FROM alive CROSS JOIN ROWS FROM (
            unnest($2::text::uuid[]), unnest($3::text::int[]), string_to_table($4, E'\\n')
        ) AS new (reply, seq, line)
        {on_conflict}
    ), rung AS MATERIALIZED (
        SELECT pg_notify($5, notice) FROM alive CROSS JOIN unnest($6::text[]) AS notice
    )
    SELECT EXISTS (SELECT FROM alive) AND (SELECT count(*) FROM rung) >= 0
"""
_APPEND = _APPEND_FORM.format(on_conflict="")
_APPEND_AGAIN = _APPEND_FORM.format(on_conflict="ON CONFLICT DO NOTHING")


async def read_page(
    connection: asyncpg.Connection, tenant: str, reply: UUID, first: int, retention: float, count: int, size: int
) -> LogPage | None:
    """Read a reply's log from line number ``first`` on, and the reply's state in the same snapshot.

    :param retention: seconds after its end for which a reply's log is read.
    :param count: lines at most.
    :param size: bytes at most; one line is read in any case.
    :returns: None if there is no such reply.
    """
    rows = await connection.fetch(
        """
        WITH reply AS (
            SELECT id, status, owner, line_count, pruned OR finished < now() - make_interval(secs => $4) AS pruned
            FROM replies WHERE tenant = $1 AND id = $2
        )
        SELECT reply.status, reply.owner, coalesce(reply.pruned, false) AS pruned, log.line,
               EXISTS (SELECT FROM processes WHERE processes.owner = reply.owner) AS owned
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
    return LogPage(rows[0]["status"], rows[0]["owner"], rows[0]["owned"], rows[0]["pruned"], lines)


async def prune(connection: asyncpg.Connection, retention: float, batch: int) -> int:
    """Delete lines of replies that ended more than ``retention`` seconds ago, a small batch of them.

    :param batch: rows to delete at most.
    :returns: how many were deleted; ask again until it is 0.
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
            -- reply by reply, and by their places: never the whole table, be it analyzed or not
            SELECT log.place FROM due CROSS JOIN LATERAL (
                SELECT ctid AS place FROM reply_lines WHERE reply = due.id LIMIT $2
            ) AS log LIMIT $2
        ), gone AS (
            DELETE FROM reply_lines WHERE ctid = ANY (ARRAY (SELECT place FROM rows))
            RETURNING 1
        ), done AS (
            UPDATE replies SET pruned = true
            WHERE id = ANY (ARRAY (SELECT id FROM due)) AND (SELECT count(*) FROM rows) < $2
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM done)
        """,
        retention,
        batch,
    )
    return pruned
