"""Lets callers that want the same value at the same time share one read of it."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class SharedReads(Generic[Key, Value]):
    """Reads values by key, each key once at a time. A read goes on when callers that wait for it are cancelled.

    :param read: reads the value of a key.
    """

    def __init__(self, read: Callable[[Key], Awaitable[Value]]) -> None:
        self._read = read
        self._running: dict[Key, asyncio.Future[Value]] = {}

    def is_running(self, key: Key) -> bool:
        """Return whether the value is being read, and possibly older than the call."""
        running = self._running.get(key)
        return running is not None and not running.done()

    async def get(self, key: Key) -> Value:
        """Read the value, or wait for the read in progress. What the read raises, all its callers receive."""
        if not self.is_running(key):
            reading = self._running[key] = asyncio.ensure_future(self._read(key))
            reading.add_done_callback(lambda done: self._on_done(key, done))
        return await asyncio.shield(self._running[key])

    def _on_done(self, key: Key, done: "asyncio.Future[Value]") -> None:
        if self._running.get(key) is done:
            del self._running[key]
        if not done.cancelled():
            done.exception()  # marks it as retrieved, for the case that no caller is left
