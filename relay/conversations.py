"""The conversation service: changes to a conversation that first stop its reply, wherever it is generated."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID, uuid4

import asyncpg

from db import course, messages
from db.context.summaries import remove_orphaned_summaries
from db.pool import Database
from errors import NotFound, ServiceUnavailable
from relay.cluster.lease import ProcessLease
from relay.generation.prompt import Prompt
from relay.service import ReplyService
from relay.stream.cursor import CursorInvalidated
from relay.waiting import RESTARTING, PromptQueue

STOP_TIMEOUT = 20.0
"""Seconds at most to stop a conversation's reply. A dead process is noticed after some seconds at most; its reply is
adopted and then stopped."""

HEARTBEAT = 5.0
"""Seconds after which a cursor returns without lines; no client sees it."""

Statement = Callable[[asyncpg.Connection], Awaitable[UUID | None]]
"""Changes a conversation, unless a reply is being generated: then it changes nothing and returns the reply's id."""


class ConversationService:
    """Changes conversations."""

    def __init__(self, database: Database, lease: ProcessLease, queue: PromptQueue, replies: ReplyService) -> None:
        self._database = database
        self._queue = queue
        self._lease = lease
        self._replies = replies

    async def delete(self, tenant: str, appid: str, since: int) -> None:
        """Delete the messages of a conversation from seq ``since`` on.

        :raises ServiceUnavailable: the database is unavailable, or the reply could not be stopped in time.
        """
        await self._change(
            tenant, appid, lambda connection: messages.delete_conversation_messages(connection, tenant, appid, since)
        )

    async def replace(self, prompt: Prompt) -> None:
        """Delete a conversation and record the prompt's messages in its place.

        :raises ServiceUnavailable: see :meth:`delete`.
        :raises NotAcceptable: the database cannot store the text.
        """
        await self._change(prompt.tenant, prompt.appid, lambda connection: self._replace(connection, prompt))

    async def _replace(self, connection: asyncpg.Connection, prompt: Prompt) -> UUID | None:
        tenant, appid, claim = prompt.tenant, prompt.appid, uuid4()
        running = await course.claim_conversation(connection, tenant, appid, claim, self._lease.owner)
        if running is not None:
            return running
        try:
            replaced = await course.replace_conversation(connection, tenant, appid, prompt.messages, claim)
        except asyncpg.PostgresError:
            await course.release_conversation(connection, tenant, claim)
            raise
        return None if replaced else claim

    async def _change(self, tenant: str, appid: str, statement: Statement) -> None:
        try:
            with self._queue.hold((tenant, appid)):
                async with asyncio.timeout(STOP_TIMEOUT):
                    await self._stop_and_change(tenant, statement)
                    async with self._database.acquire() as connection:
                        await remove_orphaned_summaries(connection, tenant, appid)
        except TimeoutError as error:
            raise ServiceUnavailable("The conversation's reply could not be stopped in time. Try again.") from error

    async def _stop_and_change(self, tenant: str, statement: Statement) -> None:
        while True:
            async with self._database.acquire() as connection:
                running = await statement(connection)
            if running is None:
                return
            with suppress(NotFound):  # another request has deleted the reply
                await self._stop_and_wait(tenant, running)

    async def _stop_and_wait(self, tenant: str, reply: UUID) -> None:
        cursor = await self._replies.follow(tenant, reply, 0)
        await self._replies.stop(tenant, reply)
        try:
            while await cursor.next(HEARTBEAT) is not None:
                pass
        except CursorInvalidated as error:
            if self._replies.leaving:
                raise ServiceUnavailable(RESTARTING) from error
            # else another request has deleted the reply
