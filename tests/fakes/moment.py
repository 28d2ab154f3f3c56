"""Something that a test waits for, from any thread."""

import asyncio
import contextlib
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which a test that waits has failed."""


class Moment(Generic[T]):
    """Something that happens once, to wait for from any thread: ``wait()`` blocks, ``await`` does not."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._future: Future[T] = Future()

    def __await__(self) -> Generator[Any, None, T]:
        return self.within(PATIENCE).__await__()

    @property
    def happened(self) -> bool:
        return self._future.done()

    def happen(self, value: T) -> None:
        """Let it happen; only the first time counts."""
        if not self._future.done():
            self._future.set_result(value)

    def wait(self, timeout: float = PATIENCE) -> T:
        """Block until it happens.

        :raises TimeoutError: it did not, within ``timeout`` seconds.
        """
        try:
            return self._future.result(timeout)
        except TimeoutError:
            raise TimeoutError(f"not within {timeout} s: {self._what}") from None

    async def within(self, timeout: float | None) -> T:
        """As ``wait``, for a coroutine; ``None`` waits without limit."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and so nobody waits in it
                loop.call_soon_threadsafe(woken.set)

        self._future.add_done_callback(wake)
        try:
            await asyncio.wait_for(woken.wait(), timeout)
        except TimeoutError:
            raise TimeoutError(f"not within {timeout} s: {self._what}") from None
        return self._future.result()
