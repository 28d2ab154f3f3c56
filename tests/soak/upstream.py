"""What a site's servers ask for text: scripted Ollamas, in this process or killable, and the embedded model."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.balancers import OllamaBalancer
from tests.fakes.ollama import Prompt, Request, ScriptedOllama, Words

ROOT = Path(__file__).parent.parent.parent

START_TIMEOUT = 60.0
"""Seconds until a process must say its URL; the embedded model loads before."""

Asked = tuple[float, str, int]
"""A request for text: its time, the prompt, and the number of words that had been said before."""


@dataclass(eq=False, kw_only=True)
class TimedWords(Words):
    """The deterministic model; records the time of each request and the number of words before it."""

    asked: list[Asked] = field(default_factory=list)

    def signature(self, prompt: Prompt) -> Mapping[str, Any]:
        self.asked.append((time.monotonic(), prompt.question, len(prompt.given.split())))
        return {}


class Upstream:
    """What the servers ask.

    :ivar url: its address.
    :ivar asked: the requests for text so far.
    :ivar errors: its own failures, each of which is a failed check.
    :cvar ports: how many ports it needs.
    """

    ports = 0

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.errors: list[str] = []

    def start(self, ports: Sequence[int]) -> None:
        """Start it on these ports."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop it."""
        raise NotImplementedError


class InProcess(Upstream):
    """A scripted Ollama in a thread of this process.

    :param pause: seconds between two words of the model.
    :param model: the model's class.
    """

    def __init__(self, pause: float, model: type[TimedWords] = TimedWords) -> None:
        super().__init__()
        self._ollama = ScriptedOllama()
        self._words = model(pause=pause)
        self.asked = self._words.asked

    @property
    def generations(self) -> list[Request]:
        """The requests for text, as they came."""
        return self._ollama.generations

    def start(self, ports: Sequence[int]) -> None:
        self._ollama.__enter__()
        self._ollama.default = (self._words,)
        self.url = self._ollama.url

    def stop(self) -> None:
        self._ollama.__exit__(None, None, None)


class OllamaProcess:
    """A process that speaks Ollama's API, on a port that it keeps when it is killed and started again.

    :param arguments: of Python; ``--port=`` is added.
    """

    def __init__(self, upstream: Upstream, port: int, arguments: Sequence[str]) -> None:
        self._upstream = upstream
        self._command = [sys.executable, *arguments, f"--port={port}"]
        self._readers: list[threading.Thread] = []
        self._over = False
        self.url = f"http://127.0.0.1:{port}"
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdin=subprocess.PIPE,  # it ends when this process dies
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started = threading.Event()
        self._readers.append(threading.Thread(target=self._read, args=(self.process, started)))
        self._readers[-1].start()
        if not started.wait(START_TIMEOUT) or self.process.poll() is not None:
            self.kill()
            raise TimeoutError(f"{self._command} does not start.")
        if self._over:  # Ctrl-C, while a thread waited for this one to start
            self.kill()

    def _read(self, process: "subprocess.Popen[bytes]", started: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            started.set()
            self._take(line)
        started.set()
        process.stdout.close()

    def _take(self, line: bytes) -> None:
        said = json.loads(line) if line.startswith(b"{") and line.endswith(b"\n") else {}
        if "asked" in said:
            when, prompt, words = said["asked"]
            self._upstream.asked.append((when, prompt, words))
        if "error" in said:
            self._upstream.errors.append(f"the scripted Ollama failed: {said['error']}")

    def kill(self) -> float:
        """Send SIGKILL and wait for the end; return the time."""
        killed = time.monotonic()
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        return killed

    def kill_runner(self) -> float:
        """Let the runner of a scripted Ollama die in the middle of its answers; return the time."""
        killed = time.monotonic()
        os.kill(self.process.pid, signal.SIGUSR1)
        return killed

    def revive(self) -> None:
        """Start it again."""
        self._start()

    def stop(self) -> None:
        """End it for good."""
        self._over = True
        self.kill()
        for reader in self._readers:
            reader.join()


class Processes(Upstream):
    """Ollamas as processes: one, or two behind deploy/haproxy-ollama.cfg.

    :param arguments: of Python, for each of them.
    """

    def __init__(self, arguments: Sequence[str], count: int = 1) -> None:
        super().__init__()
        self.ports = count + (count > 1)
        self.processes: list[OllamaProcess] = []
        self._count = count
        self._arguments = arguments
        self._balancer: OllamaBalancer | None = None

    def start(self, ports: Sequence[int]) -> None:
        own = ports[: self._count]
        self.processes = [OllamaProcess(self, port, self._arguments) for port in own]
        self.url = self.processes[0].url
        if self._count > 1:
            # One of them works on all replies while the other is dead.
            self._balancer = OllamaBalancer(ports[-1], own, {"maxconn 4": "maxconn 1000"})
            self.url = self._balancer.url

    def stop(self) -> None:
        if self._balancer:
            self._balancer.stop()
        for process in self.processes:
            process.stop()

    async def kill(self, *numbers: int, away: float = 0.0) -> tuple[float, float]:
        """Kill some of them, and start them again after ``away`` seconds.

        :returns: the time of the death, and after how many seconds all answered again.
        """
        killed = min([self.processes[number].kill() for number in numbers])
        await asyncio.sleep(away)
        await asyncio.gather(*(asyncio.to_thread(self.processes[number].revive) for number in numbers))
        await self._answers()
        return killed, time.monotonic() - killed

    async def _answers(self) -> None:
        """Wait until a request is answered; what the balancer has not noticed yet, it redispatches."""
        async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(START_TIMEOUT):
            while (await client.get(f"{self.url}/api/version")).status_code != 200:
                await asyncio.sleep(0.05)


def scripted(pause: float, count: int = 1, renders: bool = True) -> Processes:
    """Return scripted Ollamas; the model's name is its mode.

    :param pause: seconds between two words of the model.
    :param renders: whether they render prompts; old ones do not.
    """
    options = [f"--pause={pause}", *([] if renders else ["--no-renderings"])]
    return Processes(["-m", "tests.fakes.serve", *options], count)


def embedded(exact: bool) -> Processes:
    """Return the embedded model in a process of its own.

    :param exact: see :class:`embedded.llama.Llama`.
    """
    return Processes(["-m", "embedded.ollama", "--until-stdin-closes", *(["--exact"] if exact else [])])
