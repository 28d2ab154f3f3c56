"""Selects the context of a reply: the messages of its conversation that are sent to the model, and what of them."""

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

IMAGE_BYTES = f"""
    CASE WHEN username <> 'assistant' AND {EXTRA_BYTES} > {IMAGES_MIN_BYTES} THEN {EXTRA_BYTES} ELSE 0 END
"""
"""Bytes of a row of ``chatts`` that count as images."""

_SIZES = f"octet_length(message) + {EXTRA_BYTES} - {IMAGE_BYTES} AS text_bytes, {IMAGE_BYTES} AS image_bytes"

CONTEXT = f"""
    WITH system AS (
        SELECT *, n <= {MAX_SYSTEM_MESSAGES} AND (bytes <= {{system_size}} OR n <= {{least}}) AS kept FROM (
            SELECT *, row_number() OVER newest_first AS n, sum(text_bytes) OVER newest_first AS bytes
            FROM (
                SELECT seq, username, message, extra, {_SIZES}
                FROM chatts WHERE tenant = {{tenant}} AND appid = {{appid}} AND username = 'system' AND seq < {{before}}
                AND left_out IS NOT TRUE
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
                FROM chatts WHERE tenant = {{tenant}} AND appid = {{appid}} AND seq < {{before}} AND seq >= {{first}}
                AND (left_out IS NOT TRUE OR seq >= {{retried}})
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
newest ``messages`` from ``first`` (a seq) on the other ones, up to what remains of ``size`` bytes; of both at least the
newest ``least``. Messages that were refused because of their length are left out before ``retried`` (a seq). Images do
not count in these sizes: from the newest on they are sent until they have ``image_size`` bytes, and older messages
without them, up to ``images_after``. If those to send have more than ``most`` bytes, they are ``deferred``: not read
now. System messages are left out up to ``system_after``. The parameters are SQL expressions."""

_CONTEXT = CONTEXT.format(
    tenant="$1",
    appid="$2",
    messages="$3",
    size="$4",
    least="$5",
    first="0",
    before="$6",
    image_size="$7",
    system_size="$4",
    most=str(MAX_SEQ),
    retried=str(MAX_SEQ),
)

RETRIED = """
    SELECT seq AS first FROM chatts
    WHERE tenant = {tenant} AND appid = {appid} AND left_out AND seq > coalesce((
        SELECT seq FROM chatts WHERE tenant = {tenant} AND appid = {appid} AND left_out IS NOT TRUE
        ORDER BY seq DESC LIMIT 1
    ), -1)
    ORDER BY seq LIMIT 1
"""
"""A query for the ``seq`` of a prompt at the end of a conversation that was refused because of its length: a reply
without a prompt answers it; no row if there is none. The parameters are SQL expressions."""


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
