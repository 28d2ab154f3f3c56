"""Run coroutines that only pause, without an event loop, and count their pauses."""

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Return the coroutine's result."""
    return count_pauses(work)[0]


def count_pauses(work: Coroutine[Any, Any, T]) -> tuple[T, int]:
    """Return the coroutine's result, and how often it gave the event loop its turn (``asyncio.sleep(0)``)."""
    pauses = 0
    while True:
        try:
            work.send(None)
        except StopIteration as end:
            return end.value, pauses
        pauses += 1
