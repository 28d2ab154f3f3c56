"""A cursor on a reply in memory: what it returns, and what its fast path writes at the commit."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest

from relay.generation.reply_buffer import ReplyBuffer
from relay.stream.cursor import Cursor, CursorContext, CursorInvalidated


class Scene:
    """A reply, a cursor at its first line, and the lines that its fast path has written."""

    def __init__(self) -> None:
        self.reply = ReplyBuffer(uuid4(), "", "m", owner=1)
        self.replies = Mock(leaving=False)
        self.replies.find_local.return_value = self.reply
        self.cursor = Cursor(CursorContext(self.replies, Mock(), Mock(), Mock()), "", self.reply.id, 0, self.reply)
        self.writable = True
        self.written: list[tuple[int, list[bytes]]] = []

    def try_write(self, first: int, lines: list[bytes]) -> bool:
        if self.writable:
            self.written.append((first, lines))
        return self.writable

    def commit(self, *lines: bytes) -> None:
        for line in lines:
            self.reply.append(line)
        self.reply.commit_all(0.0)

    async def next_after(self, *actions: Callable[[], object], seconds: float = 5.0) -> tuple[int, list[bytes]] | None:
        """Perform actions while the cursor waits; return what it returns then."""
        reading = asyncio.create_task(self.cursor.next(seconds, self.try_write))
        await asyncio.sleep(0)
        for action in actions:
            action()
        return await reading


def play(act: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await act(Scene())

    asyncio.run(run())


def test_lines_committed_before_the_read_are_returned() -> None:
    async def act(scene: Scene) -> None:
        scene.commit(b"a", b"b")
        assert await scene.cursor.next(5) == (0, [b"a", b"b"])
        assert scene.cursor.next_line == 2
        scene.reply.end()
        assert scene.cursor.exhausted
        assert await scene.cursor.next(5) is None

    play(act)


def test_lines_are_written_at_their_commit_as_long_as_possible_and_then_returned() -> None:
    async def act(scene: Scene) -> None:
        def commit_and_check() -> None:
            scene.commit(b"a")
            scene.commit(b"b", b"c")
            assert scene.written == [(0, [b"a"]), (1, [b"b", b"c"])]
            scene.writable = False
            scene.commit(b"d")
            scene.writable = True
            scene.commit(b"e")

        assert await scene.next_after(commit_and_check) == (3, [b"d", b"e"])
        assert scene.written == [(0, [b"a"]), (1, [b"b", b"c"])]

    play(act)


def test_the_end_is_returned_after_lines_written_at_their_commit() -> None:
    async def act(scene: Scene) -> None:
        assert await scene.next_after(lambda: scene.commit(b"a"), scene.reply.end) is None
        assert scene.written == [(0, [b"a"])]

    play(act)


def test_an_empty_list_is_returned_when_the_time_has_passed_since_the_last_line() -> None:
    async def act(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        loop.call_later(0.1, scene.commit, b"a")
        assert await scene.cursor.next(0.2, scene.try_write) == (1, [])
        assert scene.written == [(0, [b"a"])]
        assert loop.time() - started >= 0.3

    play(act)


def test_a_cursor_is_invalidated_when_the_process_shuts_down() -> None:
    async def act(scene: Scene) -> None:
        scene.replies.leaving = True
        with pytest.raises(CursorInvalidated):
            await scene.cursor.next(5)

    play(act)


def test_a_cursor_leaves_no_subscriber_behind() -> None:
    async def act(scene: Scene) -> None:
        assert await scene.next_after(seconds=0.01) == (0, [])
        reading = asyncio.create_task(scene.cursor.next(5, scene.try_write))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        scene.commit(b"a")
        assert not scene.written

    play(act)
