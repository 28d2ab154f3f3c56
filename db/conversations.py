"""A conversation as a whole, across ``chatts`` and ``replies``."""

from uuid import UUID

import asyncpg


async def delete_messages(connection: asyncpg.Connection, tenant: str, appid: str, since: int) -> UUID | None:
    """Delete the messages from ``since`` (a seq) on and the replies that made them, unless a reply is streaming.

    :param since: 0 forgets the whole conversation, replies that left no message among it.
    :returns: the reply that is streaming, in which case nothing was deleted; otherwise None.
    """
    running: UUID | None = await connection.fetchval(
        """
        WITH running AS (
            SELECT id FROM replies WHERE tenant = $1 AND appid = $2 AND status = 'streaming'
        ), replies_gone AS (
            DELETE FROM replies
            WHERE tenant = $1 AND appid = $2 AND NOT EXISTS (SELECT FROM running)
            AND (message_seq >= $3 OR (message_seq IS NULL AND $3 = 0))
        ), messages_gone AS (
            DELETE FROM chatts
            WHERE tenant = $1 AND appid = $2 AND seq >= $3 AND NOT EXISTS (SELECT FROM running)
        )
        SELECT id FROM running
        """,
        tenant,
        appid,
        since,
    )
    return running
