"""Leaves out of a conversation what Ollama has refused, so that one message does not refuse all later prompts."""

from uuid import UUID

import asyncpg

from db.context.selection import IMAGE_BYTES
from db.context.sent_messages import SENT


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
            SELECT id, appid, context_first, context_last, images_after, fields_after, system_after,
                   summary
            FROM replies WHERE tenant = $1 AND id = $2 AND owner = $3 AND finished IS NULL
        ), earlier AS (
            SELECT max(seq) AS last,
                   bool_or({IMAGE_BYTES} > 0 AND seq > coalesce(images_after, -1)) AS has_images,
                   bool_or(extra IS NOT NULL AND NOT ({IMAGE_BYTES} > 0 AND seq <= coalesce(images_after, -1)))
                       AS has_fields
            FROM (
                SELECT sent.*, images_after FROM reply CROSS JOIN LATERAL ({
            SENT.format(
                tenant="$1",
                appid="reply.appid",
                first="context_first",
                last="context_last",
                system_after="system_after",
                summary="reply.summary",
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
