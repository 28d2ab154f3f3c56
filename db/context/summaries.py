"""The table ``context_summaries``: what stands for the messages that a model is not sent any more."""

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from db.messages import MAX_SEQ

KEPT = 4
"""Summaries of one conversation that are kept, and that of its running reply. After a deletion an older one counts."""

MAX_CHARACTERS = 4_000
"""Characters of a summary at most."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary of a conversation up to a message.

    :ivar until: ``chatts.seq`` of the last message that it summarises.
    :ivar edited: whether a person has written it.
    """

    id: int
    until: int
    text: str
    edited: bool


NEWEST_SUMMARY = """
    SELECT id, until, text, edited FROM context_summaries AS summary
    WHERE summary.tenant = {tenant} AND summary.appid = {appid} AND summary.until < {before}
    AND (
        SELECT seq FROM chatts
        WHERE chatts.tenant = {tenant} AND chatts.appid = {appid} AND chatts.seq = summary.until
    ) IS NOT NULL
    ORDER BY until DESC, id DESC LIMIT 1
"""
"""A query for the summary that counts where a conversation is sent from ``before`` (a seq) on: it may be empty. No row
if there is none, or if its last message was deleted or replaced. The parameters are SQL expressions."""

SENT_TEXT = "'Summary of the earlier part of this conversation:' || chr(10) || text"
"""A summary's text as it is sent."""

SENT_SUMMARY = f"""
    SELECT until AS seq, 'system' AS username, {SENT_TEXT} AS message, NULL::json AS extra, NULL::int AS extra_bytes
    FROM context_summaries AS sent
    WHERE sent.tenant = {{tenant}} AND sent.appid = {{appid}} AND sent.id = {{id}}
"""
"""A query for a summary as it is sent: as a system message, in the place of the messages that it summarises. So it is
behind the system messages from before the cut, and nothing in front of it changes with a turn."""


@dataclass(frozen=True, slots=True)
class Unsummarised:
    """What a reply was not sent and no summary contains.

    :ivar request: see :class:`db.reply_begin.NewReply`.
    :ivar earlier: the summary of what is before; None if there is none.
    :ivar until: ``seq`` of the last of the messages.
    :ivar messages: role and text of each, oldest first.
    """

    appid: str
    request: str
    earlier: Summary | None
    until: int
    messages: list[tuple[str, str]]


async def read_unsummarised(
    connection: asyncpg.Connection, tenant: str, reply: UUID, messages: int, size: int
) -> Unsummarised | None:
    """Read what a reply was not sent and no summary contains.

    :param messages: number of messages at most, the newest.
    :param size: bytes of them at most; the newest is read even if it is larger.
    :returns: None if there is nothing.
    """
    rows = await connection.fetch(_UNSUMMARISED, tenant, reply, messages, size)
    if not rows:
        return None
    last = rows[-1]
    earlier = None
    if last["id"] is not None:
        earlier = Summary(last["id"], last["until"], last["text"], last["edited"])
    return Unsummarised(
        last["appid"], last["request"], earlier, last["seq"], [(row["username"], row["message"]) for row in rows]
    )


_UNSUMMARISED = f"""
    SELECT appid, request, earlier.*, messages.*
    FROM (SELECT appid, request, context_first FROM replies WHERE tenant = $1 AND id = $2) AS reply
    LEFT JOIN LATERAL ({
    NEWEST_SUMMARY.format(tenant="$1", appid="reply.appid", before="reply.context_first")
}) AS earlier ON true
    CROSS JOIN LATERAL (
        SELECT seq, username, message FROM (
            SELECT *, sum(octet_length(message)) OVER (ORDER BY seq DESC) AS bytes,
                   row_number() OVER (ORDER BY seq DESC) AS n
            FROM (
                SELECT seq, username, message FROM chatts
                WHERE tenant = $1 AND appid = reply.appid AND seq < reply.context_first
                AND seq > coalesce(earlier.until, -1) AND username <> 'system' AND left_out IS NOT TRUE
                ORDER BY seq DESC LIMIT $3
            ) AS newest
        ) AS counted
        WHERE bytes <= $4 OR n = 1
    ) AS messages
    ORDER BY seq
"""


async def store_summary(connection: asyncpg.Connection, tenant: str, unsummarised: Unsummarised, text: str) -> bool:
    """Store a summary that was made after a reply.

    :returns: False if it came too late: a reply is streaming in the conversation, the last of the messages was
        deleted, or another summary was stored.
    """
    newest = NEWEST_SUMMARY.format(tenant="$1", appid="$2::text", before="$3 + 1")
    stored = await connection.fetchval(
        _STORE.format(
            condition=f"""
                NOT EXISTS (SELECT FROM replies WHERE tenant = $1 AND appid = $2 AND status = 'streaming')
                AND (SELECT id FROM ({newest}) AS newest) IS NOT DISTINCT FROM $6::bigint
            """
        ),
        tenant,
        unsummarised.appid,
        unsummarised.until,
        text,
        False,
        unsummarised.earlier.id if unsummarised.earlier else None,
    )
    return stored is not None


async def edit_summary(connection: asyncpg.Connection, tenant: str, appid: str, until: int, text: str) -> bool:
    """Let another text take the place of a conversation's summary, from its next reply on.

    :param until: see :class:`Summary`.
    :param text: empty to remove the summary.
    :returns: False if the conversation's summary is another one, or there is none.
    :raises asyncpg.DataError: PostgreSQL cannot store the text.
    """
    newest = NEWEST_SUMMARY.format(tenant="$1", appid="$2::text", before=MAX_SEQ)
    stored = await connection.fetchval(
        _STORE.format(condition=f"(SELECT until FROM ({newest}) AS newest) = $3"), tenant, appid, until, text, True
    )
    return stored is not None


# FOR KEY SHARE: a deletion of the message waits, or has ended; see remove_orphaned_summaries().
_STORE = f"""
    WITH last AS MATERIALIZED (
        SELECT appid, seq FROM chatts WHERE tenant = $1 AND appid = $2::text AND seq = $3 FOR KEY SHARE
    ), pruned AS (
        DELETE FROM context_summaries
        WHERE tenant = $1 AND appid = $2
        AND id NOT IN (
            SELECT id FROM context_summaries WHERE tenant = $1 AND appid = $2
            ORDER BY until DESC, id DESC LIMIT {KEPT - 1}
        )
        AND id IS DISTINCT FROM (
            SELECT summary FROM replies WHERE tenant = $1 AND appid = $2 AND status = 'streaming'
        )
    )
    INSERT INTO context_summaries (tenant, appid, until, text, edited)
    SELECT $1, appid, seq, $4::text, $5::boolean FROM last
    WHERE {{condition}}
    RETURNING id
"""


async def remove_orphaned_summaries(connection: asyncpg.Connection, tenant: str, appid: str) -> None:
    """Delete the summaries whose last message is not there any more.

    After a deletion of messages, in a statement of its own: a summary that was stored at the same time, for which the
    deletion had to wait, is visible then.
    """
    await connection.execute(
        """
        DELETE FROM context_summaries AS summary
        WHERE tenant = $1 AND appid = $2 AND NOT EXISTS (
            SELECT FROM chatts WHERE chatts.tenant = $1 AND chatts.appid = $2 AND chatts.seq = summary.until
        )
        """,
        tenant,
        appid,
    )
