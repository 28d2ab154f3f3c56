"""Notices that a client has closed its connection while Tornado does not read from it."""

import asyncio
import select

from tornado.iostream import IOStream

CHECK_INTERVAL = 1.0
"""Seconds between two looks at a connection."""

CLOSED_BY_CLIENT = getattr(select, "POLLRDHUP", 0)
"""The client sends no more (Linux poll(2)). A reset connection (POLLERR, POLLHUP) is reported in any case."""


def has_disconnected(stream: IOStream) -> bool:
    """Return whether a connection is closed or reset by its client, even if there are bytes before that to be read."""
    if stream.closed():
        return True
    poll = select.poll()
    poll.register(stream.fileno(), CLOSED_BY_CLIENT)
    return bool(poll.poll(0))


class DisconnectWatch:
    """Closes a connection within a block when its client has closed it: the handler's ``on_connection_close`` runs.

    Tornado sees the end of a connection by reading it. While a request is processed, it stops reading as soon as it has
    received something: the next request, or a single byte.
    """

    def __init__(self, stream: IOStream) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        """Begin to look at the connection."""
        self._schedule()

    def __exit__(self, *_error: object) -> None:
        """Stop looking."""
        self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._check)

    def _check(self) -> None:
        if has_disconnected(self._stream):
            self._stream.close()
        else:
            self._schedule()
