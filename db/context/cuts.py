"""The table ``context_cuts``: from which message on a conversation is sent to a model whose window it has outgrown."""

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from db.context.selection import IMAGE_BYTES, MAX_SYSTEM_MESSAGES
from db.context.summaries import SENT_SUMMARY
from db.messages import EXTRA_BYTES, Message


@dataclass(frozen=True, slots=True)
class Cut:
    """From where on a conversation is sent.

    :ivar first: ``chatts.seq`` of the first message that is sent, system messages aside.
    :ivar window: the window for which it was cut, in tokens.
    :ivar left_out: number of messages before ``first``, system messages not counted.
    """

    first: int
    window: int
    left_out: int


STORED_CUT = """
    SELECT first, context_window, left_out FROM context_cuts AS cut
    WHERE cut.tenant = {tenant} AND cut.appid = {appid} AND cut.model = {model} AND cut.first < {before}
    AND (
        SELECT seq FROM chatts WHERE chatts.tenant = {tenant} AND chatts.appid = {appid} AND chatts.seq = cut.first
        AND chatts.left_out IS NOT TRUE
    ) IS NOT NULL
"""
"""A query for the cut of a conversation; no row if there is none, or if its message was deleted or replaced. The
parameters are SQL expressions; ``before`` is a seq, of the prompt for example."""


@dataclass(frozen=True, slots=True)
class SizedMessage:
    """A message that may be sent, without its images.

    :ivar seq: ``chatts.seq``.
    :ivar pictures: number of its images that are sent with it.
    :ivar without_images: whether it has images that are not.
    """

    seq: int
    message: Message
    pictures: int
    without_images: bool


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is known of a conversation before it is decided what of it is sent for a reply.

    :ivar request: see :class:`db.reply_begin.NewReply`.
    :ivar first: ``replies.context_first``.
    :ivar cut: the stored cut for this model.
    :ivar messages: oldest first, up to the last one that the reply is sent.
    :ivar continues: whether the reply continues the last of them.
    :ivar summary: ``seq`` and text of the summary that it is sent (:mod:`db.context.summaries`); None if none is.
    """

    request: str
    first: int | None
    cut: Cut | None
    messages: list[SizedMessage]
    continues: bool
    summary: tuple[int, str] | None = None


async def read_conversation(
    connection: asyncpg.Connection, tenant: str, reply: UUID, messages: int, size: int
) -> Conversation | None:
    """Read a conversation up to the prompt of a reply: the newest messages and system messages, without images.

    :param messages: number of newest messages at most.
    :param size: bytes of them at most; the newest is read even if it is larger.
    :returns: None if there is no such reply.
    """
    rows = await connection.fetch(_CONVERSATION, tenant, reply, messages, size)
    if not rows:
        return None
    head = rows[0]
    cut = None
    if head["cut_first"] is not None:
        cut = Cut(head["cut_first"], head["context_window"], head["left_out"])
    found = [
        SizedMessage(
            row["seq"],
            Message(row["username"], row["message"], row["extra"]),
            row["pictures"] or 0,
            row["without_images"],
        )
        for row in rows
        if row["seq"] is not None
    ]
    summary = None if head["until"] is None else (head["until"], head["summary"])
    return Conversation(head["request"], head["context_first"], cut, found, head["continues_seq"] is not None, summary)


_IS_FOREIGN = """
    greatest(strpos({extra}::text, '\\u0000'), strpos({extra}::text, '\\ud'), strpos({extra}::text, '\\uD')) > 0
"""
"""Whether a json value may have what PostgreSQL's functions for json refuse: NUL, lone surrogates. Other programs may
have stored that."""

_CONVERSATION = f"""
    WITH reply AS (
        SELECT tenant, appid, model, request, context_first, context_last, images_after, system_after, continues_seq,
               summary
        FROM replies WHERE tenant = $1 AND id = $2
    ), messages AS (
        SELECT seq, username, message, extra, image_bytes
        FROM (
            SELECT *, sum(octet_length(message) + {EXTRA_BYTES} - image_bytes) OVER (ORDER BY seq DESC) AS bytes,
                   row_number() OVER (ORDER BY seq DESC) AS n
            FROM (
                SELECT seq, username, message, extra, extra_bytes, {IMAGE_BYTES} AS image_bytes
                FROM chatts
                WHERE tenant = $1 AND appid = (SELECT appid FROM reply) AND seq <= (SELECT context_last FROM reply)
                AND left_out IS NOT TRUE
                ORDER BY seq DESC LIMIT $3
            ) AS newest
        ) AS counted
        WHERE username <> 'system' AND (bytes <= $4 OR n = 1)
        UNION ALL
        (
            SELECT seq, username, message, extra, 0
            FROM chatts
            WHERE tenant = $1 AND appid = (SELECT appid FROM reply) AND seq <= (SELECT context_last FROM reply)
            AND username = 'system' AND seq > coalesce((SELECT system_after FROM reply), -1) AND left_out IS NOT TRUE
            ORDER BY seq DESC LIMIT {MAX_SYSTEM_MESSAGES}
        )
    )
    SELECT request, context_first, continues_seq, cut.first AS cut_first, context_window, cut.left_out,
           summary.seq AS until, summary.message AS summary,
           messages.seq, messages.username, messages.message,
           CASE WHEN image_bytes = 0 THEN messages.extra END AS extra,
           CASE WHEN image_bytes > 0 AND messages.seq > coalesce(images_after, -1)
                THEN CASE WHEN {_IS_FOREIGN.format(extra="messages.extra")} THEN 1
                          WHEN json_typeof(messages.extra -> 'images') = 'array'
                          THEN json_array_length(messages.extra -> 'images') END
           END AS pictures,
           coalesce(image_bytes > 0 AND messages.seq <= images_after, false) AS without_images
    FROM reply
    LEFT JOIN LATERAL ({
    STORED_CUT.format(tenant="reply.tenant", appid="reply.appid", model="reply.model", before="reply.context_last + 1")
}) AS cut ON true
    LEFT JOIN LATERAL ({
    SENT_SUMMARY.format(tenant="reply.tenant", appid="reply.appid", id="reply.summary")
}) AS summary ON true
    LEFT JOIN messages ON true
    ORDER BY messages.seq
"""


async def store_cut(
    connection: asyncpg.Connection,
    tenant: str,
    reply: UUID,
    owner: int,
    first: int,
    window: int,
    system_after: int | None,
    with_summary: bool,
) -> int | None:
    """Store a cut, which counts for this reply and the following ones.

    :param system_after: system messages are sent if they have a greater ``seq`` only; None if all are.
    :param with_summary: whether this reply is still sent the summary with which it was begun.
    :returns: number of messages before ``first``, system messages not counted; None if another process owns the reply.
    """
    left_out: int | None = await connection.fetchval(
        """
        WITH reply AS (
            UPDATE replies SET context_first = $4, system_after = greatest(system_after, $6),
                summary = CASE WHEN $7 THEN summary END
            WHERE tenant = $1 AND id = $2 AND owner = $3 AND finished IS NULL
            RETURNING tenant, appid, model
        )
        INSERT INTO context_cuts (tenant, appid, model, first, context_window, left_out)
        SELECT tenant, appid, model, $4, $5, (
            SELECT count(*) FROM chatts
            WHERE chatts.tenant = $1 AND chatts.appid = reply.appid AND seq < $4 AND username <> 'system'
        )
        FROM reply
        ON CONFLICT (tenant, appid, model) DO UPDATE
        SET first = excluded.first, context_window = excluded.context_window, left_out = excluded.left_out
        RETURNING left_out
        """,
        tenant,
        reply,
        owner,
        first,
        window,
        system_after,
        with_summary,
    )
    return left_out


async def send_from(
    connection: asyncpg.Connection, tenant: str, reply: UUID, owner: int, first: int, system_after: int | None
) -> None:
    """Send the conversation from ``first`` on for this reply, and only for it, without a summary.

    :param system_after: see :func:`store_cut`.
    """
    await connection.execute(
        """
        UPDATE replies SET context_first = $4, system_after = greatest(system_after, $5), summary = NULL
        WHERE tenant = $1 AND id = $2 AND owner = $3 AND finished IS NULL
        """,
        tenant,
        reply,
        owner,
        first,
        system_after,
    )


async def remove_cut(connection: asyncpg.Connection, tenant: str, reply: UUID, owner: int, first: int) -> None:
    """Send the conversation from ``first`` on, for this reply, and let the following ones be without a cut."""
    await connection.execute(
        """
        WITH reply AS (
            UPDATE replies SET context_first = $4, summary = NULL
            WHERE tenant = $1 AND id = $2 AND owner = $3 AND finished IS NULL
            RETURNING tenant, appid, model
        )
        DELETE FROM context_cuts AS cut USING reply
        WHERE cut.tenant = $1 AND cut.appid = reply.appid AND cut.model = reply.model
        """,
        tenant,
        reply,
        owner,
        first,
    )


async def leave_out_messages(connection: asyncpg.Connection, tenant: str, reply: UUID, owner: int, first: int) -> None:
    """Never send the messages of a reply's prompt again, from ``first`` on: they exceed the window."""
    await connection.execute(
        """
        UPDATE chatts SET left_out = true
        FROM replies
        WHERE replies.tenant = $1 AND replies.id = $2 AND owner = $3 AND finished IS NULL
        AND chatts.tenant = $1 AND chatts.appid = replies.appid AND seq >= $4 AND seq <= context_last
        AND username <> 'system'
        """,
        tenant,
        reply,
        owner,
        first,
    )
