"""The load generator (bench/load, in C): built, started with some traffic to make, listened to."""

import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from types import TracebackType
from typing import IO, Any, Self, cast

from bench.failure import Failed
from bench.machine import ROOT

SOURCES = ROOT / "bench/load"
PROGRAM = ROOT / "bench/build/load"

GRACE = 60.0
"""Seconds that traffic may take beyond its plan."""

Event = dict[str, Any]


def build() -> None:
    """Compile it, unless that was done.

    :raises Failed: there is no C compiler, or it refuses.
    """
    files = sorted(SOURCES.glob("*.[ch]"))
    if not files:
        raise Failed(f"There is nothing to compile in {SOURCES}.")
    if PROGRAM.exists() and PROGRAM.stat().st_mtime >= max(file.stat().st_mtime for file in files):
        return
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-O2", "-o", str(PROGRAM), *(str(file) for file in files if file.suffix == ".c")]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own sources
    except FileNotFoundError as error:
        raise Failed("The load generator needs gcc. On Debian: apt-get install gcc libc6-dev") from error
    except subprocess.CalledProcessError as error:
        raise Failed(f"The load generator does not compile:\n{error.stderr}") from error


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the load generator is to do.

    :param streams: prompts in all.
    :param rate: lines a second of each reply.
    :param lines: of each reply.
    :param at_once: prompts at a time; 0 for all.
    :param ramp: seconds over which the first ones are spread.
    :param one_conversation: all go to conversation ``appid``, not to ``appid-0``, ``appid-1``, ...
    :param hold: replies fall silent after their lines, for as long as the load runs.
    :param direct: ask the stub itself, with no server between.
    """

    streams: int
    rate: float
    lines: int
    at_once: int = 0
    ramp: float = 0.0
    appid: str = "bench"
    one_conversation: bool = False
    hold: bool = False
    direct: bool = False

    @property
    def seconds(self) -> float:
        """How long it takes with a server that takes no time itself."""
        rounds = self.streams / self.at_once if self.at_once else 1
        return self.ramp + rounds * self.lines / self.rate

    def arguments(self) -> list[str]:
        """As the load generator's command line, without ports."""
        flags = ["--one-conversation"] * self.one_conversation + ["--hold"] * self.hold
        path = "/api/chat" if self.direct else "/llmchat"
        return [
            f"--path={path}",
            f"--streams={self.streams}",
            f"--at-once={self.at_once or self.streams}",
            f"--rate={self.rate:g}",
            f"--lines={self.lines}",
            f"--ramp={self.ramp:g}",
            f"--appid={self.appid}",
            *flags,
        ]


def steady(streams: int, rate: float, seconds: float, begin_rate: float) -> Traffic:
    """Traffic in which all streams run side by side for ``seconds`` at least; ``begin_rate`` of them begin a second."""
    ramp = streams / begin_rate
    return Traffic(streams, rate, ceil(rate * (ramp + seconds)) + 1, ramp=ramp, appid="steady")


class Load:
    """A running load generator, which is the Ollama on ``ollama_port`` too; ended with the ``with`` block."""

    def __init__(self, traffic: Traffic, ollama_port: int, target_port: int) -> None:
        self._traffic = traffic
        self._ports = [f"--ollama={ollama_port}", f"--target={target_port}"]

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [PROGRAM, *self._ports, *self._traffic.arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._input = cast("IO[str]", self._process.stdin)  # its end would end the load
        self._output = cast("IO[str]", self._process.stdout)
        # Whoever waits for an event of a load that hangs then reads the end of its output.
        self._alarm = threading.Timer(self._traffic.seconds + GRACE, self._process.kill)
        self._alarm.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._alarm.cancel()
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()

    def events(self) -> Iterator[Event]:
        """What it reports, as it does, up to and with ``over``.

        :raises Failed: it ended before.
        """
        for line in self._output:
            event: Event = json.loads(line)
            yield event
            if event["event"] == "over":
                return
        raise Failed(f"the load generator ended early, with status {self._process.wait()}")

    def wait_for(self, name: str) -> Event:
        """Wait until it reports ``name``.

        :raises Failed: it ended before.
        """
        for event in self.events():
            if event["event"] == name:
                return event
        raise Failed(f"the load was over without {name}")
