"""The table ``chatts``: the messages of the conversations."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the model sees it.

    :param extra: a JSON object with the fields beside role and content (images, tool_calls, thinking, ...), or None.
    """

    role: str
    content: str
    extra: str | None = None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message as ``chatts`` holds it.

    :param status: how the reply ended whose message it is, as in ``replies.status``, if otherwise than done; else None.
    :param error: what the viewers of that reply were told; None if nothing.
    """

    seq: int
    id: UUID
    time: datetime
    message: Message
    status: str | None = None
    error: str | None = None


MAX_SEQ = 2**63 - 1
"""Above every ``seq``."""


async def read_page(
    connection: asyncpg.Connection, tenant: str, appid: str, limit: int, before: int | None
) -> list[StoredMessage]:
    """Read the newest ``limit`` messages of a conversation, of those with a ``seq`` under ``before``; oldest first."""
    # An assistant's message has its reply's id. One look by primary key for each message that is read, never a join
    # that reads more: hence the limit inside.
    rows = await connection.fetch(
        """
        SELECT said.*, replies.status, replies.error
        FROM (
            SELECT seq, id, time, username, message, extra
            FROM chatts
            WHERE tenant = $1 AND appid = $2 AND seq < $4
            ORDER BY seq DESC
            LIMIT $3
        ) AS said
        LEFT JOIN LATERAL (
            SELECT status, error FROM replies
            WHERE replies.id = said.id AND tenant = $1 AND status NOT IN ('done', 'streaming') LIMIT 1
        ) AS replies ON said.username = 'assistant'
        ORDER BY seq DESC
        """,
        tenant,
        appid,
        limit,
        before if before is not None else MAX_SEQ,
    )
    return [
        StoredMessage(
            row["seq"],
            row["id"],
            row["time"],
            Message(row["username"], row["message"], row["extra"]),
            row["status"],
            row["error"],
        )
        for row in reversed(rows)
    ]


CONTEXT = """
    WITH newest AS (
        SELECT seq, username, message, extra,
               row_number() OVER newest_first AS n,
               sum(octet_length(message) + coalesce(pg_column_size(extra), 0)) OVER newest_first AS bytes
        FROM (
            SELECT * FROM chatts WHERE tenant = {tenant} AND appid = {appid} AND seq < {before}
            ORDER BY seq DESC LIMIT {messages}
        ) AS newest
        WINDOW newest_first AS (ORDER BY seq DESC)
    )
    SELECT seq, username, message, extra FROM newest
    WHERE username <> 'system' AND (bytes <= {size} OR n <= {least})
    UNION ALL
    SELECT seq, username, message, extra FROM chatts
    WHERE tenant = {tenant} AND appid = {appid} AND username = 'system' AND seq < {before}
"""
"""A query for what the model is given of a conversation, in no order: the newest messages before seq ``before``, so
many as fit into ``size`` bytes but ``least`` at least, and every system message. Its places are filled with SQL."""

_CONTEXT = CONTEXT.format(tenant="$1", appid="$2", messages="$3", size="$4", least="$5", before="$6")


async def context(
    connection: asyncpg.Connection, tenant: str, appid: str, messages: int, size: int, before: int | None = None
) -> list[Message]:
    """Read what the model is given of a conversation: its newest messages and all its system messages, oldest first.

    :param messages: how many to read at most.
    :param size: bytes of text to read at most; the very newest message is read in any case.
    :param before: a seq; that message and those after it are left out, and the newest one left may be too.
    """
    rows = await connection.fetch(
        f"{_CONTEXT} ORDER BY seq",
        tenant,
        appid,
        messages,
        size,
        1 if before is None else 0,
        MAX_SEQ if before is None else before,
    )
    return [Message(row["username"], row["message"], row["extra"]) for row in rows]
