"""The load generator (bench/load, in C): compiled, started, its events read."""

import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from types import TracebackType
from typing import IO, Any, Self, cast

from bench.errors import BenchError
from bench.paths import BUILD, ROOT

SOURCES = ROOT / "bench/load"
PROGRAM = BUILD / "load"

GRACE = 60.0
"""Seconds by which a load may exceed its planned time before it is killed."""

Event = dict[str, Any]


def build() -> None:
    """Compile the load generator, unless it is up to date.

    :raises BenchError: there is no C compiler, or it fails.
    """
    files = sorted(SOURCES.glob("*.[ch]"))
    if not files:
        raise BenchError(f"No sources in {SOURCES}.")
    if PROGRAM.exists() and PROGRAM.stat().st_mtime >= max(file.stat().st_mtime for file in files):
        return
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-O2", "-o", str(PROGRAM), *(str(file) for file in files if file.suffix == ".c")]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own sources
    except FileNotFoundError as error:
        raise BenchError("The load generator needs gcc. On Debian: apt-get install gcc libc6-dev") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"The load generator does not compile:\n{error.stderr}") from error


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the load generator does.

    :param streams: prompts in all.
    :param rate: lines a second of each reply.
    :param lines: of each reply.
    :param at_once: the most prompts at a time; 0 for all.
    :param ramp: seconds over which the first ones are spread.
    :param one_conversation: send all prompts to conversation ``appid`` instead of ``appid-0``, ``appid-1``, ...
    :param hold: leave replies open after their last line, until the load is stopped.
    :param direct: send prompts to the stub itself, with no server between.
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
        """The planned time: that of a server without latency."""
        rounds = self.streams / self.at_once if self.at_once else 1
        return self.ramp + rounds * self.lines / self.rate

    def arguments(self) -> list[str]:
        """Return the load generator's options, without ports."""
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
    """Return traffic whose streams start at ``begin_rate`` a second, and then all run for ``seconds``."""
    ramp = streams / begin_rate
    return Traffic(streams, rate, ceil(rate * (ramp + seconds)) + 1, ramp=ramp, appid="steady")


class Load:
    """A running load generator, which is the stub Ollama on ``ollama_port`` too; killed at the end of the block."""

    def __init__(self, traffic: Traffic, ollama_port: int, target_port: int) -> None:
        self._traffic = traffic
        self._ports = [f"--ollama={ollama_port}", f"--target={target_port}"]

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [PROGRAM, *self._ports, *self._traffic.arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._input = cast("IO[str]", self._process.stdin)  # end of file stops a load with ``hold``
        self._output = cast("IO[str]", self._process.stdout)
        # Killing a load that hangs unblocks the reader of its events: it reads end of file.
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
        """Yield its events as they arrive, up to and including ``over``.

        :raises BenchError: it exited before.
        """
        for line in self._output:
            event: Event = json.loads(line)
            yield event
            if event["event"] == "over":
                return
        raise BenchError(f"the load generator exited early, with status {self._process.wait()}")

    def wait_for(self, name: str) -> Event:
        """Wait for the event ``name``.

        :raises BenchError: it exited before.
        """
        for event in self.events():
            if event["event"] == name:
                return event
        raise BenchError(f"the load ended without the event {name}")
