"""A listening socket that takes no more clients than there are files for: replies and PostgreSQL need some, too."""

import errno
import logging
import resource
import socket
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any

log = logging.getLogger("chatterd.http")

SPARE = 64
"""Open files left for the log, the process itself, and whoever has to look into it."""

PAUSE_SECONDS = 0.1
"""Seconds after which room is looked for again."""

WARN_SECONDS = 60.0
"""Seconds between two warnings that there is none."""

FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What accept() fails with while there is no room (accept(2)); the client goes on waiting."""


def most_clients(others: int) -> int:
    """How many clients there may be at once under this process's limit of open files; half of it at least.

    :param others: connections to others than clients, at most.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    return limit - min(limit // 2, others + SPARE)


class Listener:
    """Stands for a listening socket where Tornado accepts from it.

    :param room: whether one more client may be taken.
    :param pause: stops the accepting for :data:`PAUSE_SECONDS`; the socket would be told as readable all the time.
    """

    def __init__(self, listening: socket.socket, room: Callable[[], bool], pause: "Callable[[Listener], None]") -> None:
        self._listening = listening
        self._room = room
        self._pause = pause
        self._warned = -WARN_SECONDS

    def fileno(self) -> int:
        """The socket's number."""
        return self._listening.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        """Take a client.

        :raises BlockingIOError: none is there, or there is no room.
        """
        if not self._room():
            raise self._full()
        try:
            return self._listening.accept()
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise self._full() from error

    def _full(self) -> BlockingIOError:
        if monotonic() - self._warned >= WARN_SECONDS:
            self._warned = monotonic()
            log.warning("More clients want to connect than there are open files for; they wait. Raise the limit.")
        self._pause(self)
        return BlockingIOError()
