"""The finished replies whose lines this process still holds, so that late viewers see them as they were."""

import time
from uuid import UUID

from relay.reply import Reply


class Shelf:
    """Keeps finished replies, the oldest go first.

    :param retention: seconds for which one is kept.
    :param size: bytes of all their lines together.
    """

    def __init__(self, retention: float, size: int) -> None:
        self._retention = retention
        self._size = size
        self._held = 0
        self._replies: dict[UUID, tuple[float, Reply]] = {}

    def put(self, reply: Reply) -> None:
        """Keep a reply that has ended."""
        self._replies[reply.id] = (time.monotonic(), reply)
        self._held += reply.size
        self.prune()

    def get(self, id: UUID) -> Reply | None:
        """The reply, if it is still kept."""
        found = self._replies.get(id)
        return found[1] if found else None

    def drop(self, tenant: str, appid: str) -> None:
        """Keep nothing more of a conversation."""
        for _, reply in list(self._replies.values()):
            if (reply.tenant, reply.appid) == (tenant, appid):
                self._remove(reply)

    def prune(self) -> None:
        """Drop what is over age or over size."""
        oldest = time.monotonic() - self._retention
        while self._replies:
            finished, reply = next(iter(self._replies.values()))
            if finished > oldest and self._held <= self._size:
                break
            self._remove(reply)

    def _remove(self, reply: Reply) -> None:
        del self._replies[reply.id]
        self._held -= reply.size
