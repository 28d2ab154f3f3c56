"""Finds again what was sent to the model for a reply, whatever was recorded since."""

from dataclasses import dataclass

import asyncpg

from db.context.selection import IMAGE_BYTES
from db.context.summaries import SENT_SUMMARY
from db.messages import EXTRA_BYTES, Message


@dataclass(frozen=True, slots=True)
class ContextBounds:
    """Which messages of a conversation are sent for a reply, and what of them; all values are of ``chatts.seq``.

    :ivar first: of the first message sent that is not a system message; None if there was none.
    :ivar last: of the last message sent.
    :ivar images_after: images are sent of messages with a greater value only; None if of all.
    :ivar fields_after: other fields than role and content are sent of messages with a greater value only; None if of
        all.
    :ivar system_after: system messages are sent if they have a greater value only; None if all are.
    :ivar summary: id of the summary that is sent; None if none is. See :mod:`db.context.summaries`.
    """

    first: int | None
    last: int
    images_after: int | None = None
    fields_after: int | None = None
    system_after: int | None = None
    summary: int | None = None


SENT = f"""
    SELECT seq, username, message, extra, extra_bytes FROM chatts
    WHERE tenant = {{tenant}} AND appid = {{appid}} AND username <> 'system' AND seq >= {{first}} AND seq <= {{last}}
    AND left_out IS NOT TRUE
    UNION ALL
    SELECT seq, username, message, extra, extra_bytes FROM chatts
    WHERE tenant = {{tenant}} AND appid = {{appid}} AND username = 'system' AND seq <= {{last}}
    AND left_out IS NOT TRUE AND seq > coalesce({{system_after}}, -1)
    UNION ALL
    {SENT_SUMMARY.format(tenant="{tenant}", appid="{appid}", id="{summary}")}
"""
"""A query for the messages that were sent for a reply, with everything that is stored of them."""

_SENT_BETWEEN = SENT.format(tenant="$1", appid="$2", first="$3", last="$4", system_after="$5", summary="$6")


async def read_sent(connection: asyncpg.Connection, tenant: str, appid: str, bounds: ContextBounds) -> list[Message]:
    """Read the messages that were sent for a reply, oldest first, whatever was recorded since."""
    rows = await connection.fetch(
        f"""
        SELECT seq, username, message,
               CASE WHEN seq <= $8 OR (seq <= $7 AND {IMAGE_BYTES} > 0) THEN NULL ELSE extra END AS extra
        FROM ({_SENT_BETWEEN}) AS sent
        ORDER BY seq
        """,
        tenant,
        appid,
        bounds.first,
        bounds.last,
        bounds.system_after,
        bounds.summary,
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
        bounds.summary,
    )
    return size
