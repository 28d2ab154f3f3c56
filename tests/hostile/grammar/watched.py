"""``python -m tests.hostile.grammar.watched``: chatterd, and a clock on its event loop.

Whether another process holds the machine does not matter: what counts is the CPU time of this process while its loop
does not take its turn. On SIGUSR1 it collects garbage and writes a report to its log.
"""

import asyncio
import faulthandler
import gc
import json
import signal
import sys
import tempfile
import threading
import time

import uvloop

import server
from tests.program import Program

INTERVAL = 0.01
"""Seconds between two probes."""

STACK_AFTER = 0.2
"""Seconds of CPU time after which the stacks of a loop that is held are kept."""

MARK = "report {} of the loop: "
"""Stands in the log before a report with this number."""


class Watch:
    """Asks a loop for its turn, again and again, from a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._taken = threading.Event()
        self._worst = self._longest = 0.0
        self._stack = ""
        self._reports = 0
        loop.call_soon(loop.add_signal_handler, signal.SIGUSR1, self._report)
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _run(self) -> None:
        with tempfile.TemporaryFile("w+") as file:
            while True:
                time.sleep(INTERVAL)
                self._taken.clear()
                began, used = time.monotonic(), time.process_time()
                try:
                    self._loop.call_soon_threadsafe(self._taken.set)
                except RuntimeError:  # it is closed
                    return
                stack = ""
                while not self._taken.wait(0.05):
                    if not stack and time.process_time() - used > STACK_AFTER:
                        file.seek(0)
                        file.truncate()
                        faulthandler.dump_traceback(file)
                        file.seek(0)
                        stack = file.read()
                held = time.process_time() - used
                self._longest = max(self._longest, time.monotonic() - began)
                if held > self._worst:
                    self._worst, self._stack = held, stack

    def take(self) -> dict[str, float | str]:
        """Return how long the loop was held since the last call; see :meth:`WatchedProgram.report`."""
        report: dict[str, float | str] = {"held": self._worst, "longest": self._longest, "stack": self._stack}
        self._worst = self._longest = 0.0
        self._stack = ""
        return report

    def _report(self) -> None:
        gc.collect()
        self._reports += 1
        print(MARK.format(self._reports) + json.dumps(self.take()), file=sys.stderr, flush=True)


class WatchedProgram(Program):
    """A running chatterd whose loop is watched."""

    command = ("-m", "tests.hostile.grammar.watched")

    def __init__(self, **settings: object) -> None:
        self._reports = 0
        super().__init__(**settings)

    def report(self) -> dict[str, float | str]:
        """Let it collect garbage; return how long its loop was held since the last report.

        :returns: ``held``: seconds of CPU time at most; ``longest``: seconds, the work of other processes included;
            ``stack``: of the threads, at the worst time.
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
