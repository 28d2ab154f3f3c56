"""``python -m tests.hostile.grammar.watched``: chatterd, and a clock on its event loop.

Whether another process holds the machine does not matter: what counts is the CPU time of this process while its loop
does not take its turn. On SIGUSR1 it collects garbage and writes a report to its log.
"""

import asyncio
import ctypes
import faulthandler
import gc
import json
import signal
import sys
import tempfile
import threading
import time

import psutil
import uvloop

import server
from tests.program import Program

INTERVAL = 0.01
"""Seconds between two turns of the clock. A loop that is not held uses no more CPU time between them."""

STACK_AFTER = 0.2
"""Seconds without a turn after which the stacks of a held loop are kept."""

MEGABYTE = 1_000_000

MARK = "report {} of the loop: "
"""Stands in the log before a report with this number."""


class Watch:
    """A clock on a loop: it measures the CPU time between its turns.

    A thread could not measure that: while a function in C holds the interpreter's lock, it does not run. One takes the
    stacks, as soon as it runs. (``faulthandler.dump_traceback_later`` does not wait for the lock, and may crash.)
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._worst = self._longest = 0.0
        self._stack = ""
        self._reports = 0
        self._stacks = tempfile.TemporaryFile("w+")  # noqa: SIM115  # stop() closes it
        self._began = self._used = 0.0
        self._stopped = threading.Event()
        self._dumping = threading.Lock()
        loop.call_soon(self._start)

    def _start(self) -> None:
        self._loop.add_signal_handler(signal.SIGUSR1, self._report)
        self._wait()
        threading.Thread(target=self._take_stacks, name="watch", daemon=True).start()

    def _take_stacks(self) -> None:
        taken = 0.0
        while not self._stopped.wait(STACK_AFTER / 4):
            with self._dumping:
                is_late = self._began != taken and time.monotonic() - self._began > STACK_AFTER
                if is_late and not self._stopped.is_set():
                    taken = self._began
                    faulthandler.dump_traceback(self._stacks)

    def _wait(self) -> None:
        self._began, self._used = time.monotonic(), time.process_time()
        self._timer = self._loop.call_later(INTERVAL, self._measure)

    def _measure(self) -> None:
        self._longest = max(self._longest, time.monotonic() - self._began)
        held = time.process_time() - self._used
        with self._dumping:
            self._stacks.seek(0)
            if held > self._worst:
                self._worst, self._stack = held, self._stacks.read()
                self._stacks.seek(0)
            self._stacks.truncate()
            self._wait()

    def take(self) -> dict[str, float | str]:
        """Return how long the loop was held since the last call; see :meth:`WatchedProgram.report`."""
        report: dict[str, float | str] = {"held": self._worst, "longest": self._longest, "stack": self._stack}
        self._worst = self._longest = 0.0
        self._stack = ""
        return report

    def stop(self) -> None:
        """Stop the clock."""
        self._stopped.set()
        self._timer.cancel()
        with self._dumping:
            self._stacks.close()

    def _report(self) -> None:
        self._reports += 1
        report = self.take()
        gc.collect()
        report["resident"] = _resident()
        _give_back()
        report["used"] = _resident()
        self._timer.cancel()
        self._wait()
        print(MARK.format(self._reports) + json.dumps(report), file=sys.stderr, flush=True)


def _resident() -> float:
    return float(psutil.Process().memory_info().rss) / MEGABYTE


def _give_back() -> None:
    """Let malloc give back what is free: it keeps parts of what large bodies took (GNU C library, malloc_trim(3))."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


class WatchedProgram(Program):
    """A running chatterd whose loop is watched."""

    command = ("-m", "tests.hostile.grammar.watched")

    def __init__(self, **settings: object) -> None:
        self._reports = 0
        super().__init__(**settings)

    def report(self) -> dict[str, float | str]:
        """Let it collect garbage; return how long its loop was held since the last report.

        :returns: ``held``: seconds of CPU time at most; ``longest``: seconds, the work of other processes included;
            ``stack``: of the threads, at the worst time; ``resident``: its memory in megabytes; ``used``: without what
            malloc keeps.
        """
        self.process.send_signal(signal.SIGUSR1)
        self._reports += 1
        return dict(json.loads(self.wait_log(f"^{MARK.format(self._reports)}(.*)")[1]))


def main() -> None:
    """Run chatterd with a watch."""
    make = uvloop.new_event_loop

    def watched() -> asyncio.AbstractEventLoop:
        loop = make()
        Watch(loop)
        return loop

    uvloop.new_event_loop = watched  # type: ignore[assignment]
    server.main()


if __name__ == "__main__":
    main()
