"""Prompts of plain clients that wait for the end of their conversation's reply, first come, first served."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Protocol
from uuid import UUID, uuid4

from db import replies
from errors import ChatterdError, Conflict, NotFound, ServiceUnavailable
from relay.components import RelayComponents
from relay.generation.prompt import Prompt
from relay.generation.registry import ConcurrencyCounter
from relay.ollama import chat_line
from relay.outgoing import Counted
from relay.stream.cursor import Cursor, TryWrite, write_nothing
from relay.supersession import Supersession

log = logging.getLogger("chatterd.relay")

RESTARTING = "The server is being restarted. Try again in a moment."

RECHECK_INTERVAL = 2.0
"""Seconds after which a prompt that waits checks again whether the reply has ended or lost its viewers: viewers of
other processes leave without a notification, and notifications can be lost."""

INTERNAL_ERROR = "Internal server error. The server's log has the details."


class PromptStarter(Protocol):
    """What the queue needs of :class:`relay.service.ReplyService`."""

    async def begin(self, prompt: Prompt, id: UUID | None = None) -> Cursor:
        """Record a prompt and start its reply under an id; raises Conflict if a reply is being generated."""

    async def follow(self, tenant: str, id: UUID, first: int) -> Cursor:
        """Find a reply to show; raises NotFound if there is none."""


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
            deadline = monotonic() + seconds
            await asyncio.wait([self.turn], timeout=seconds)
            if not self.turn.done():
                return 0, []
            if error := self.turn.exception():
                self._failed = True
                return 0, [chat_line.error_line(str(error) if isinstance(error, ChatterdError) else INTERNAL_ERROR)]
            self._cursor = self.turn.result()
            seconds = max(0.0, deadline - monotonic())
        return await self._cursor.next(seconds, try_write)

    def keep(self, charge: Counted) -> None:
        """Let the prompt's memory be charged to its sender until it is recorded, or waits no more."""
        self.turn.add_done_callback(lambda _: charge.release())

    def leave(self) -> None:
        """Note that the client has disconnected: nothing is left behind, unless the reply is being begun."""
        self.left = True
        if not self.beginning:
            self.turn.cancel()
        # The traceback of its error leads back to this object. Such a cycle would keep the prompt in memory until
        # Python's cyclic garbage collector runs, which ignores sizes.
        del self.turn


class _Line:
    """The prompts of one conversation that wait.

    :ivar lock: held by the first of them. (asyncio.Lock serves its waiters in order of arrival.)
    :ivar unavailable_since: since when the first of them could not begin although no reply may be running; None if it
        was not tried, or another reply is running.
    """

    __slots__ = ("lock", "size", "unavailable_since")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.size = 0
        self.unavailable_since: float | None = None


class _Hold:
    """Changes of a conversation in progress, before whose end none of its prompts begins.

    :ivar count: how many there are.
    """

    __slots__ = ("count", "released")

    def __init__(self) -> None:
        self.count = 0
        self.released = asyncio.Event()


class PromptQueue:
    """The prompts that wait, by conversation.

    At most ``--max-waiting-prompts`` wait. Their memory is charged to their senders; see :meth:`WaitingPrompt.keep`.
    """

    def __init__(self, relay: RelayComponents, supersession: Supersession, concurrency: ConcurrencyCounter) -> None:
        self._database = relay.database
        self._notifier = relay.notifier
        self._metrics = relay.metrics
        self._retry_timeout = relay.settings.db_retry_timeout
        self._supersession = supersession
        self._concurrency = concurrency
        self._limit = relay.settings.max_waiting_prompts
        self._lines: dict[tuple[str, str], _Line] = {}
        self._holds: dict[tuple[str, str], _Hold] = {}
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __contains__(self, conversation: object) -> bool:
        return conversation in self._lines

    def add(self, prompt: Prompt, starter: PromptStarter) -> WaitingPrompt:
        """Let a prompt wait behind those of its conversation that wait already.

        :param starter: begins its reply when its turn has come.
        :raises ServiceUnavailable: as many prompts wait as the limit allows.
        """
        if self._metrics.prompts_waiting >= self._limit:
            raise ServiceUnavailable("Too many prompts wait for the end of other replies. Try again in a moment.")
        self._metrics.prompts_waiting += 1
        line = self._lines.setdefault(prompt.conversation, _Line())
        line.size += 1
        waiting = WaitingPrompt()
        waiting.turn = asyncio.create_task(self._take_turn(prompt, waiting, line, starter))
        waiting.turn.add_done_callback(lambda turn: self._on_done(prompt.conversation, turn))
        return waiting

    @contextmanager
    def hold(self, conversation: tuple[str, str]) -> Iterator[None]:
        """Let no prompt of a conversation that waits begin within the block, which stops the running reply to change
        the conversation: the prompts begin afterwards, instead of being stopped one after the other."""
        hold = self._holds.setdefault(conversation, _Hold())
        hold.count += 1
        try:
            yield
        finally:
            hold.count -= 1
            if not hold.count:
                del self._holds[conversation]
                hold.released.set()

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

    async def _take_turn(self, prompt: Prompt, waiting: WaitingPrompt, line: _Line, starter: PromptStarter) -> Cursor:
        with self._concurrency.counted(prompt.tenant, prompt.address):
            async with line.lock:
                uncertain = False
                while True:
                    await self._wait_for_end(prompt, waiting.id, line)
                    try:
                        if uncertain:
                            with suppress(NotFound):
                                return await starter.follow(prompt.tenant, waiting.id, 0)
                        waiting.beginning = True
                        cursor = await starter.begin(prompt, waiting.id)
                    except (Conflict, ServiceUnavailable) as error:
                        if waiting.left:
                            raise
                        waiting.beginning = False
                        if isinstance(error, ServiceUnavailable):  # a Conflict: a prompt elsewhere was faster
                            uncertain = True  # the reply may have been begun: the result of a statement can be lost
                            await self._wait_until_available(line, error)
                    else:
                        line.unavailable_since = None
                        return cursor

    async def _wait_for_end(self, prompt: Prompt, id: UUID, line: _Line) -> None:
        """Wait until no reply is generated in a conversation, and let the one that is be superseded if possible.

        :param id: the id reserved for the prompt's reply; it may have been begun, although the result was lost.
        :raises ServiceUnavailable: the database was unavailable for ``--db-retry-timeout``, or the process drains.
        """
        while not self._closed.done():
            if hold := self._holds.get(prompt.conversation):
                await hold.released.wait()  # relay.conversations.STOP_TIMEOUT at most
            try:
                running = await self._find_running(prompt)
                if prompt.conversation in self._holds:
                    continue
                if running is None or running == id:
                    return
                await self._wait_for_change(prompt, running)
                line.unavailable_since = None
            except ServiceUnavailable as error:
                await self._wait_until_available(line, error)
        raise ServiceUnavailable(RESTARTING)

    async def _wait_until_available(self, line: _Line, error: ServiceUnavailable) -> None:
        """Wait for :data:`RECHECK_INTERVAL`.

        :raises ServiceUnavailable: ``error``, if nothing could begin for ``--db-retry-timeout``. All prompts of the
            conversation share this time.
        """
        line.unavailable_since = line.unavailable_since or monotonic()
        if monotonic() - line.unavailable_since > self._retry_timeout:
            raise error
        await asyncio.wait([self._closed], timeout=RECHECK_INTERVAL)

    async def _wait_for_change(self, prompt: Prompt, running: UUID) -> None:
        """Request that a reply be superseded, and wait until it may have ended, :data:`RECHECK_INTERVAL` at most."""
        with self._notifier.subscribe(running) as changed:
            if await self._find_running(prompt) == running:
                await self._supersession.request(running)
                waiting = [changed, self._closed]
                await asyncio.wait(waiting, timeout=RECHECK_INTERVAL, return_when=asyncio.FIRST_COMPLETED)

    async def _find_running(self, prompt: Prompt) -> UUID | None:
        async with self._database.acquire() as connection:
            return await replies.find_streaming(connection, prompt.tenant, prompt.appid)
