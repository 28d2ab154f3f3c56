"""SIGTERM and SIGINT: the first one ends the server after a drain, a second one at once."""

import asyncio
import logging
import os
import signal
import threading

log = logging.getLogger("chatterd")

END_TIMEOUT = 5.0
"""Seconds after the second signal until the process ends, whatever its components are waiting for."""


class StopSignals:
    """Handles the signals from its creation on.

    :param server: the task that runs the server.
    :ivar received: set by the first signal.
    :ivar cancelled: whether a signal has cancelled the task.
    :ivar exit_status: 0, or 128 and the number of the second signal, as a shell reports it.
    """

    def __init__(self, server: "asyncio.Task[int]") -> None:
        self.received = asyncio.Event()
        self.exit_status = 0
        self.cancelled = False
        self._starting = True
        self._server = server
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._handle, number)

    def started(self) -> None:
        """Let the first signal begin a drain from now on; before, it cancels the task."""
        self._starting = False

    def _handle(self, number: signal.Signals) -> None:
        if self.received.is_set():
            log.info("%s again: ending at once.", number.name)
            self.exit_status = 128 + number
            self._cancel()
            return
        self.received.set()
        if self._starting:
            log.info("%s: the start is cancelled.", number.name)
            self._cancel()

    def _cancel(self) -> None:
        """Cancel the task, which stops the components that run; end the process if that takes long."""
        self.cancelled = True
        self._server.cancel()
        timer = threading.Timer(END_TIMEOUT, os._exit, [self.exit_status])
        timer.daemon = True
        timer.start()
