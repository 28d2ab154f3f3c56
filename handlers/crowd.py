"""A crowd of prompts that comes at once is taken up in groups, for the first not to wait until the last were read."""

import asyncio
from collections import deque

GROUP = 100
"""Prompts in a group. Larger ones keep the first waiting for the others; smaller ones lose what it saves to do the same
for many at once."""

GROUP_SECONDS = 0.1
"""Seconds after which the next group has its turn, whatever keeps the one before: a database that is slow or away, or
clients that send their bodies slowly."""


class Crowd:
    """Lets prompts in as they come while there are few, and group by group while there are many.

    A group has its turn when all of the one before have their answers, or at least their beginning, or have left.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._group: set[object] = set()
        self._waiting: deque[tuple[object, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, one: object) -> None:
        """Wait for its turn."""
        if not self._waiting and len(self._group) < GROUP:
            self._group.add(one)
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((one, turn))
        if not self._timer:
            self._timer = self._loop.call_later(GROUP_SECONDS, self._let_in)
        await turn

    def leave(self, one: object) -> None:
        """Note that it is answered or gone, if it has entered."""
        self._group.discard(one)
        if self._waiting and not self._group:
            self._let_in()

    def _let_in(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._group.clear()
        while self._waiting and len(self._group) < GROUP:
            one, turn = self._waiting.popleft()
            if not turn.done():
                self._group.add(one)
                turn.set_result(None)
        if self._waiting:
            self._timer = self._loop.call_later(GROUP_SECONDS, self._let_in)
