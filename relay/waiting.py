"""Prompts of plain clients that wait for the end of their conversation's reply, first come, first served."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from uuid import UUID, uuid4

from db import replies
from errors import ChatterdError, Conflict, ServiceUnavailable
from relay.generation.context import RelayContext
from relay.generation.prompt import Prompt
from relay.generation.registry import ConcurrencyCounter
from relay.ollama import chat_line
from relay.stream.cursor import Cursor, TryWrite, write_nothing
from relay.supersession import Supersession

log = logging.getLogger("chatterd.relay")

RESTARTING = "The server is being restarted. Try again in a moment."

RECHECK_INTERVAL = 2.0
"""Seconds after which a prompt that waits checks again whether the reply has ended or lost its viewers: viewers of
other processes leave without a notification, and notifications can be lost."""

INTERNAL_ERROR = "Internal server error. The server's log has the details."

Begin = Callable[[Prompt, UUID], Awaitable[Cursor]]
"""Records a prompt and starts its reply under an id; raises Conflict if a reply is being generated."""


class WaitingPrompt:
    """A prompt that waits. It is read like the cursor of the reply that it will begin.

    :ivar id: id reserved for the reply, which is unknown to the database until the prompt's turn.
    :ivar beginning: its turn has come; the reply is being begun, or was.
    :ivar left: its client has disconnected.
    :ivar turn: the task that waits, begins the reply and returns its cursor.
    """

    turn: "asyncio.Task[Cursor]"

    def __init__(self) -> None:
        self.id = uuid4()
        self.beginning = False
        self.left = False
        self._cursor: Cursor | None = None
        self._failed = False

    async def next(self, seconds: float, try_write: TryWrite = write_nothing) -> tuple[int, list[bytes]] | None:
        """Wait, and then return lines as :meth:`relay.stream.cursor.Cursor.next` does.

        What goes wrong while the prompt waits is one error line, which is in no log: nothing was recorded.
        """
        if self._failed:
            return None
        if self._cursor is None:
            await asyncio.wait([self.turn], timeout=seconds)
            if not self.turn.done():
                return 0, []
            if error := self.turn.exception():
                self._failed = True
                return 0, [chat_line.error_line(str(error) if isinstance(error, ChatterdError) else INTERNAL_ERROR)]
            self._cursor = self.turn.result()
        return await self._cursor.next(seconds, try_write)

    def leave(self) -> None:
        """Note that the client has disconnected: nothing is left behind, unless the reply is being begun."""
        self.left = True
        if not self.beginning:
            self.turn.cancel()


class _Line:
    """The prompts of one conversation that wait.

    :ivar lock: held by the first of them. (asyncio.Lock serves its waiters in order of arrival.)
    """

    __slots__ = ("lock", "size")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.size = 0


class PromptQueue:
    """The prompts that wait, by conversation.

    :param limit: prompts at most.
    """

    def __init__(
        self, relay: RelayContext, supersession: Supersession, concurrency: ConcurrencyCounter, limit: int
    ) -> None:
        self._database = relay.database
        self._notifier = relay.notifier
        self._metrics = relay.metrics
        self._retry_timeout = relay.settings.db_retry_timeout
        self._supersession = supersession
        self._concurrency = concurrency
        self._limit = limit
        self._lines: dict[tuple[str, str], _Line] = {}
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __contains__(self, conversation: object) -> bool:
        return conversation in self._lines

    def add(self, prompt: Prompt, begin: Begin) -> WaitingPrompt:
        """Let a prompt wait behind those of its conversation that wait already.

        :param begin: called when its turn has come.
        :raises ServiceUnavailable: as many prompts wait as the limit allows.
        """
        if self._metrics.prompts_waiting >= self._limit:
            raise ServiceUnavailable("Too many prompts wait for the end of other replies. Try again in a moment.")
        self._metrics.prompts_waiting += 1
        line = self._lines.setdefault(prompt.conversation, _Line())
        line.size += 1
        waiting = WaitingPrompt()
        waiting.turn = asyncio.create_task(self._take_turn(prompt, waiting, line.lock, begin))
        waiting.turn.add_done_callback(lambda turn: self._on_done(prompt.conversation, turn))
        return waiting

    def close(self) -> None:
        """End all waiting with an error: no reply is begun any more."""
        if not self._closed.done():
            self._closed.set_result(None)

    def _on_done(self, conversation: tuple[str, str], turn: "asyncio.Task[Cursor]") -> None:
        self._metrics.prompts_waiting -= 1
        line = self._lines[conversation]
        line.size -= 1
        if not line.size:
            del self._lines[conversation]
        error = None if turn.cancelled() else turn.exception()
        if error and not isinstance(error, ChatterdError):
            log.error("A prompt that waited could not begin its reply.", exc_info=error)

    async def _take_turn(self, prompt: Prompt, waiting: WaitingPrompt, lock: asyncio.Lock, begin: Begin) -> Cursor:
        with self._concurrency.counted(prompt.tenant, prompt.address):
            async with lock:
                while True:
                    await self._wait_for_end(prompt.tenant, prompt.appid)
                    waiting.beginning = True
                    try:
                        return await begin(prompt, waiting.id)
                    except Conflict:  # a prompt elsewhere was faster
                        if waiting.left:
                            raise
                        waiting.beginning = False

    async def _wait_for_end(self, tenant: str, appid: str) -> None:
        """Wait until no reply is generated in a conversation, and let the one that is be superseded if possible.

        :raises ServiceUnavailable: the database was unavailable for ``--db-retry-timeout``, or the process drains.
        """
        unavailable_since: float | None = None
        while not self._closed.done():
            try:
                if await self._has_ended(tenant, appid):
                    return
                unavailable_since = None
            except ServiceUnavailable:
                unavailable_since = unavailable_since or monotonic()
                if monotonic() - unavailable_since > self._retry_timeout:
                    raise
                await asyncio.wait([self._closed], timeout=RECHECK_INTERVAL)
        raise ServiceUnavailable(RESTARTING)

    async def _has_ended(self, tenant: str, appid: str) -> bool:
        """Return whether no reply is generated; otherwise wait for a change, :data:`RECHECK_INTERVAL` at most."""
        running = await self._find_running(tenant, appid)
        if running is None:
            return True
        with self._notifier.subscribe(running) as changed:
            if await self._find_running(tenant, appid) == running:
                await self._supersession.request(running)
                waiting = [changed, self._closed]
                await asyncio.wait(waiting, timeout=RECHECK_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
        return False

    async def _find_running(self, tenant: str, appid: str) -> UUID | None:
        async with self._database.acquire() as connection:
            return await replies.find_streaming(connection, tenant, appid)
