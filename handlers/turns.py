"""Whose turn it is to write a large piece: a crowd of viewers with a backlog must not hold everybody else up."""

import asyncio
from collections import deque

AT_ONCE = 16
"""Large pieces written in one turn of the event loop: about 2 ms."""


class Turns:
    """Lets :data:`AT_ONCE` go on in each turn of the event loop, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait for a turn, the loop's next at the earliest."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._next)
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _next(self) -> None:
        for _ in range(min(AT_ONCE, len(self._waiting))):
            mine = self._waiting.popleft()
            if not mine.done():
                mine.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
