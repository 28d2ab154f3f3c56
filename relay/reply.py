"""One reply in this process: its lines, how many of them may be shown, and who waits for more."""

import asyncio
from uuid import UUID

AT_ONCE = 1_000
"""Lines given to a viewer at once, so that a long backlog is not copied again for each piece of it."""


class Reply:
    """An append-only list of lines. Viewers are cursors into it; they may come, go and be slow as they like.

    :ivar lines: what Ollama sent, or chatterd said, line by line; the index is the line's number.
    :ivar shown: how many lines may be shown.
    :ivar ended: no line will follow.
    """

    def __init__(self, id: UUID, tenant: str, appid: str, model: str) -> None:
        self.id = id
        self.tenant = tenant
        self.appid = appid
        self.model = model
        self.lines: list[bytes] = []
        self.shown = 0
        self.ended = False
        self.size = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def append(self, line: bytes) -> None:
        """Add a line, and show it."""
        self.lines.append(line)
        self.size += len(line)
        self.shown = len(self.lines)
        self._wake()

    def end(self) -> None:
        """Add nothing more."""
        self.ended = True
        self._wake()

    def unseen(self, cursor: int) -> list[bytes]:
        """The next lines that may be shown, from number ``cursor`` on, :data:`AT_ONCE` at most."""
        return self.lines[cursor : min(self.shown, cursor + AT_ONCE)]

    async def more(self, cursor: int, timeout: float) -> bool:
        """Wait until there is a line number ``cursor`` to show, or no such line will come.

        :param timeout: seconds.
        :returns: False if the timeout passed first.
        """
        if self.shown > cursor or self.ended:
            return True
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await asyncio.wait_for(waiting, timeout)
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(waiting)
        return True

    def _wake(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()
