"""Many slow sockets, read together: with thousands of lines a second, waking up for each costs more than reading it."""

import asyncio
import select
from collections.abc import Callable
from socket import socket

READ_INTERVAL = 0.004
"""Seconds between two readings of all sockets. What arrives after a pause is read at once."""

READ_SOCKETS = 256
"""Sockets read before the event loop has its turn; the rest come first the next time."""

READ_SIZE = 16_384
"""Bytes read of one socket at once."""

Take = Callable[[bytes | None], None]
"""Is given what was read of a socket: nothing at its clean end, None if it broke. After either it removes it."""


class Sockets:
    """Connected sockets in an epoll set of their own, which the event loop sees as one.

    All sockets that are ready are read before any of it is given on: a processor that changes between the two kinds of
    work for each socket is slower at both.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._takers: dict[int, tuple[Callable[[int], bytes], Take]] = {}
        self._next_reading: asyncio.Handle | None = None
        self._loop.add_reader(self._epoll.fileno(), self._begin_reading)

    def add(self, connection: socket, take: Take) -> None:
        """Read a socket from now on.

        :raises OSError: the system watches too many already.
        """
        self._epoll.register(connection.fileno(), select.EPOLLIN)
        self._takers[connection.fileno()] = connection.recv, take

    def remove(self, connection: socket) -> None:
        """Read it no more; to be called before it is closed. What was read of it already may still be given on."""
        if self._takers.pop(connection.fileno(), None):
            self._epoll.unregister(connection.fileno())

    def close(self) -> None:
        """Read none any more."""
        if self._epoll.closed:
            return
        if self._next_reading:
            self._next_reading.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        self._takers.clear()
        self._epoll.close()

    def _begin_reading(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._go_on_reading()

    def _go_on_reading(self) -> None:
        due = self._loop.time() + READ_INTERVAL
        count = self._read()
        if self._epoll.closed:
            return
        if count == READ_SOCKETS:
            due = 0.0
        if count:
            self._next_reading = self._loop.call_at(due, self._go_on_reading)
        else:
            self._next_reading = None
            self._loop.add_reader(self._epoll.fileno(), self._begin_reading)

    def _read(self) -> int:
        """Read sockets that are ready, and say how many."""
        ready = self._epoll.poll(0, READ_SOCKETS)
        received: list[tuple[Take, bytes | None]] = []
        for descriptor, _ in ready:
            receive, take = self._takers[descriptor]
            try:
                received.append((take, receive(READ_SIZE)))
            except BlockingIOError:
                continue
            except OSError:
                received.append((take, None))
        for take, data in received:
            try:
                take(data)
            except Exception as error:  # the others' bytes are read already and must not be lost
                self._loop.call_exception_handler({"message": "Bytes of a socket were not taken.", "exception": error})
        return len(ready)
