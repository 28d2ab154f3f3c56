"""Run the program under test as a process: start it with settings, read its log, stop or kill it."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests import pgbouncer

ROOT = Path(__file__).parent.parent

NAMED_BY_OPTIONS = ("DATABASE_URL", "SESSION_DATABASE_URL", "OLLAMA_HOST")
"""Environment variables that the program under test must not inherit."""

START_TIMEOUT = 120.0
"""Seconds until its log must report that it is ready."""

STOP_TIMEOUT = 60.0
"""Seconds until it must end after SIGTERM."""

PATIENCE = 60.0
"""Default timeout of :meth:`Program.wait_log`, in seconds."""

BUSY = (
    r"Ollama (is unreachable|has not answered yet) at \S+; replies wait for it",
    r"\d+ replies could not be released; they are adopted when this process has ended\.",
)
"""Warnings after a fixed timeout of 3 s or 1 s in the program, which a busy machine may exceed. They fail no test; the
summary of the run reports them."""

ALARMING = re.compile(r'^\[[WEC] |^Traceback |^\{.*"level": "(warning|error|critical)"', re.MULTILINE)
"""Matches log lines of level warning and above, in both formats, and the traceback of a crash."""


FAILED_START_TIMEOUT = 60.0
"""Seconds within which a program that cannot start must end."""


def failed_start(**settings: object) -> str:
    """Run a program that cannot start, on a free port, and return the sentence that it ends with.

    Check that it exits with status 1, and writes no traceback and no other alarming line.
    """
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in ({"port": 0} | settings).items()]
    environment = {name: value for name, value in os.environ.items() if name not in NAMED_BY_OPTIONS}
    result = subprocess.run(
        [sys.executable, "server.py", *arguments],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        timeout=FAILED_START_TIMEOUT,
        check=False,
    )
    *lines, last = result.stderr.splitlines()
    assert result.returncode == 1, result.stderr
    assert not any(ALARMING.match(line) for line in lines), result.stderr
    return last.removeprefix("chatterd cannot start: ")


class Program:
    """A running chatterd on a free port.

    :param settings: by name, with underscores: ``Program(database_url=..., heartbeat_interval=1)``.
    :cvar root: the folder of its code.
    :cvar command: what Python runs.
    :ivar busy: log lines that :data:`BUSY` matches, up to the last call of :meth:`alarms`.
    """

    root = ROOT
    command: Sequence[str] = ("server.py",)

    def __init__(self, **settings: object) -> None:
        url = settings.get("database_url")
        if url and pgbouncer.EVERYTHING and "session_database_url" not in settings:
            settings |= {"database_url": pgbouncer.behind(str(url)), "session_database_url": url}
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in ({"port": 0} | settings).items()]
        self.busy: list[str] = []
        self._read = 0
        self._lines: list[str] = []
        self._changed = threading.Condition()
        environment = {name: value for name, value in os.environ.items() if name not in NAMED_BY_OPTIONS}
        self.process = subprocess.Popen(
            [sys.executable, *self.command, *arguments],
            cwd=self.root,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, name="log of chatterd")
        self._reader.start()
        try:
            self.url = self.wait_log(r"open (https?://\S+?)/ ", START_TIMEOUT)[1]
        except TimeoutError:
            self.kill()
            raise

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._lines.append("")
            self._changed.notify_all()

    @property
    def log(self) -> str:
        """Return its log so far."""
        with self._changed:
            return "".join(self._lines)

    def wait_log(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """Wait for a log line that matches, and return the match.

        :raises TimeoutError: there is none within ``timeout`` seconds, or the program ends first.
        """
        found: list[re.Match[str]] = []

        def matches() -> bool:
            found[:] = [match for line in self._lines if (match := re.search(pattern, line))]
            return bool(found) or "" in self._lines

        with self._changed:
            self._changed.wait_for(matches, timeout)
        if not found:
            raise TimeoutError(f"No log line matches {pattern!r}:\n{self.log}")
        return found[0]

    def alarms(self, expected: list[str]) -> list[str]:
        """Return new log lines of level warning and above that no pattern in ``expected`` matches."""
        with self._changed:
            fresh, self._read = self._lines[self._read :], len(self._lines)
        alarms = [
            line for line in fresh if ALARMING.match(line) and not any(re.search(pattern, line) for pattern in expected)
        ]
        busy = [line for line in alarms if any(re.search(pattern, line) for pattern in BUSY)]
        self.busy += busy
        return [line for line in alarms if line not in busy]

    def terminate(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        try:
            return self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise TimeoutError(f"The program did not end:\n{self.log}") from None
        finally:
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            assert self.terminate() == 0, self.log
