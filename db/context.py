"""The context of a reply: which messages of its conversation are sent to the model, and what of them."""

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from db.messages import EXTRA_BYTES, MAX_SEQ, Message

MAX_IMAGE_BYTES_READ = 65_536
"""Bytes of images that the statement that begins a reply reads. It reads the contexts of several replies, whose memory
nothing else bounds; more are read when there is room for the request."""

MAX_SYSTEM_MESSAGES = 1_000
"""System messages of one conversation that are sent at most, newest first."""

IMAGES_MIN_BYTES = 1_000
"""Bytes of ``extra`` above which a message that is not the assistant's is taken to have images. Of such messages Ollama
reads no other long field, only names of tools (ollama ``api/types.go``, ``Message``); and to look into ``extra`` would
read every image of a conversation for every prompt."""

_IMAGE_BYTES = f"""
    CASE WHEN username <> 'assistant' AND {EXTRA_BYTES} > {IMAGES_MIN_BYTES} THEN {EXTRA_BYTES} ELSE 0 END
"""

_SIZES = f"octet_length(message) + {EXTRA_BYTES} - {_IMAGE_BYTES} AS text_bytes, {_IMAGE_BYTES} AS image_bytes"

CONTEXT = f"""
    WITH system AS (
        SELECT *, n <= {MAX_SYSTEM_MESSAGES} AND (bytes <= {{system_size}} OR n <= {{least}}) AS kept FROM (
            SELECT *, row_number() OVER newest_first AS n, sum(text_bytes) OVER newest_first AS bytes
            FROM (
                SELECT seq, username, message, extra, {_SIZES}
                FROM chatts WHERE tenant = {{tenant}} AND appid = {{appid}} AND username = 'system' AND seq < {{before}}
                ORDER BY seq DESC LIMIT {MAX_SYSTEM_MESSAGES} + 1
            ) AS newest
            WINDOW newest_first AS (ORDER BY seq DESC)
        ) AS counted
    ), limits AS (
        SELECT {{size}} - coalesce(sum(text_bytes) FILTER (WHERE kept), 0) AS size,
               max(seq) FILTER (WHERE NOT kept) AS system_after, count(*) FILTER (WHERE NOT kept) AS system_left_out
        FROM system
    ), selected AS (
        SELECT seq, username, message, extra, image_bytes
        FROM (
            SELECT *, row_number() OVER newest_first AS n,
                   sum(CASE username WHEN 'system' THEN 0 ELSE text_bytes END) OVER newest_first AS bytes
            FROM (
                SELECT seq, username, message, extra, {_SIZES}
                FROM chatts WHERE tenant = {{tenant}} AND appid = {{appid}} AND seq < {{before}}
                ORDER BY seq DESC LIMIT {{messages}}
            ) AS newest
            WINDOW newest_first AS (ORDER BY seq DESC)
        ) AS counted CROSS JOIN limits
        WHERE username <> 'system' AND (bytes <= limits.size OR n <= {{least}})
        UNION ALL
        SELECT seq, username, message, extra, image_bytes FROM system WHERE kept
    ), images AS (
        SELECT max(seq) FILTER (WHERE newer >= {{image_size}}) AS images_after,
               coalesce(sum(image_bytes) FILTER (WHERE newer < {{image_size}}), 0) > {{most}} AS deferred
        FROM (
            SELECT seq, image_bytes, sum(image_bytes) OVER (ORDER BY seq DESC) - image_bytes AS newer FROM selected
        ) AS counted
        WHERE image_bytes > 0
    )
    SELECT seq, username, message,
           CASE WHEN image_bytes > 0 AND (deferred OR seq <= images_after) THEN NULL ELSE extra END AS extra,
           images_after, image_bytes > 0 AND seq <= images_after AS without_images, system_after, system_left_out,
           deferred
    FROM images CROSS JOIN limits LEFT JOIN selected ON true
"""
"""A query for the context of a reply, unordered; one row without a ``seq`` if there is no message to send.

Of the messages before ``before`` (a seq) it has the newest system messages, up to ``system_size`` bytes, and of the
newest ``messages`` the other ones, up to what remains of ``size`` bytes; of both at least the newest ``least``. Images
do not count in these sizes: from the newest on they are sent until they have ``image_size`` bytes, and older messages
without them, up to ``images_after``. If those to send have more than ``most`` bytes, they are ``deferred``: not read
now. System messages are left out up to ``system_after``. The parameters are SQL expressions."""

_CONTEXT = CONTEXT.format(
    tenant="$1",
    appid="$2",
    messages="$3",
    size="$4",
    least="$5",
    before="$6",
    image_size="$7",
    system_size="$4",
    most=str(MAX_SEQ),
)


async def read_context(
    connection: asyncpg.Connection,
    tenant: str,
    appid: str,
    messages: int,
    size: int,
    before: int | None = None,
    image_size: int = MAX_SEQ,
) -> list[Message]:
    """Read the context for the model: the newest messages and system messages, oldest first.

    :param messages: number of newest messages to read at most; older system messages are read, too.
    :param size: bytes of them at most, images aside, those of system messages included; without ``before``, the newest
        message is read even if it is larger.
    :param before: read only messages with a smaller ``seq``.
    :param image_size: bytes of images, from the newest on, after which older ones are left out; by default none are.
    """
    rows = await connection.fetch(
        f"{_CONTEXT} ORDER BY seq",
        tenant,
        appid,
        messages,
        size,
        1 if before is None else 0,
        MAX_SEQ if before is None else before,
        image_size,
    )
    return [Message(row["username"], row["message"], row["extra"]) for row in rows if row["seq"] is not None]


@dataclass(frozen=True, slots=True)
class ContextBounds:
    """Which messages of a conversation are sent for a reply, and what of them; all values are of ``chatts.seq``.

    :ivar first: of the first message sent that is not a system message; None if there was none.
    :ivar last: of the last message sent.
    :ivar images_after: images are sent of messages with a greater value only; None if of all.
    :ivar fields_after: other fields than role and content are sent of messages with a greater value only; None if of
        all.
    :ivar system_after: system messages are sent if they have a greater value only; None if all are.
    """

    first: int | None
    last: int
    images_after: int | None = None
    fields_after: int | None = None
    system_after: int | None = None


_SENT = """
    SELECT seq, username, message, extra, extra_bytes FROM chatts
    WHERE tenant = {tenant} AND appid = {appid} AND username <> 'system' AND seq >= {first} AND seq <= {last}
    UNION ALL
    SELECT seq, username, message, extra, extra_bytes FROM chatts
    WHERE tenant = {tenant} AND appid = {appid} AND username = 'system' AND seq <= {last}
    AND seq > coalesce({system_after}, -1)
"""
"""A query for the messages that were sent for a reply, with everything that is stored of them."""

_SENT_BETWEEN = _SENT.format(tenant="$1", appid="$2", first="$3", last="$4", system_after="$5")


async def read_sent(connection: asyncpg.Connection, tenant: str, appid: str, bounds: ContextBounds) -> list[Message]:
    """Read the messages that were sent for a reply, oldest first, whatever was recorded since."""
    rows = await connection.fetch(
        f"""
        SELECT seq, username, message,
               CASE WHEN seq <= $7 OR (seq <= $6 AND {_IMAGE_BYTES} > 0) THEN NULL ELSE extra END AS extra
        FROM ({_SENT_BETWEEN}) AS sent
        ORDER BY seq
        """,
        tenant,
        appid,
        bounds.first,
        bounds.last,
        bounds.system_after,
        bounds.images_after,
        bounds.fields_after,
    )
    return [Message(row["username"], row["message"], row["extra"]) for row in rows]


async def sent_size(connection: asyncpg.Connection, tenant: str, appid: str, bounds: ContextBounds) -> int:
    """Return the bytes of what :func:`read_sent` reads, or more."""
    size: int = await connection.fetchval(
        f"SELECT coalesce(sum(octet_length(message) + {EXTRA_BYTES}), 0)::bigint FROM ({_SENT_BETWEEN}) AS sent",
        tenant,
        appid,
        bounds.first,
        bounds.last,
        bounds.system_after,
    )
    return size


async def reduce_context(
    connection: asyncpg.Connection, tenant: str, reply: UUID, owner: int, prompt_messages: int
) -> str | None:
    """Leave out of the conversation that a reply is sent what Ollama may have refused: the images of the messages
    before the prompt or, if they have none, all their fields but role and content.

    :param prompt_messages: number of messages at the end of the conversation that are the prompt, and stay as they are.
    :returns: what is left out now, ``images`` or ``fields``; None if there was nothing, or another process owns the
        reply.
    """
    left_out: str | None = await connection.fetchval(
        f"""
        WITH reply AS (
            SELECT id, appid, context_first, context_last, images_after, fields_after, system_after
            FROM replies WHERE tenant = $1 AND id = $2 AND owner = $3 AND finished IS NULL
        ), earlier AS (
            SELECT max(seq) AS last,
                   bool_or({_IMAGE_BYTES} > 0 AND seq > coalesce(images_after, -1)) AS has_images,
                   bool_or(extra IS NOT NULL AND NOT ({_IMAGE_BYTES} > 0 AND seq <= coalesce(images_after, -1)))
                       AS has_fields
            FROM (
                SELECT sent.*, images_after FROM reply CROSS JOIN LATERAL ({
            _SENT.format(
                tenant="$1",
                appid="reply.appid",
                first="context_first",
                last="context_last",
                system_after="system_after",
            )
        }) AS sent
                WHERE fields_after IS NULL
                ORDER BY seq DESC OFFSET $4
            ) AS earlier
        )
        UPDATE replies
        SET images_after = CASE WHEN has_images THEN last ELSE replies.images_after END,
            fields_after = CASE WHEN NOT has_images THEN last END
        FROM reply CROSS JOIN earlier
        WHERE replies.id = reply.id AND replies.owner = $3 AND finished IS NULL AND (has_images OR has_fields)
        RETURNING CASE WHEN has_images THEN 'images' ELSE 'fields' END
        """,
        tenant,
        reply,
        owner,
        prompt_messages,
    )
    return left_out
