"""The scripted Ollama as a program: it says its URL and what it is asked, and is killed and started again."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.program import ROOT

from .deaths import RUNNER_DIED

Process = subprocess.Popen[str]


@contextmanager
def served(port: int = 0, **options: object) -> Iterator[tuple[Process, str]]:
    """Run it; yield the process and its URL."""
    arguments = [f"--{name}={value}" for name, value in ({"port": port} | options).items()]
    command = [sys.executable, "-m", "tests.fakes.serve", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, report(process)["url"]
        finally:
            process.kill()


def report(process: Process) -> Any:
    assert process.stdout
    return json.loads(process.stdout.readline())


def chat(url: str, model: str = "m", said: str = "") -> list[Any]:
    """Return the lines of an answer of eight words."""
    messages = [{"role": "user", "content": "hi"}] + ([{"role": "assistant", "content": said}] if said else [])
    body = {"model": model, "messages": messages, "options": {"num_predict": 8}}
    answer = httpx.post(f"{url}/api/chat", json=body, trust_env=False, verify=False)
    return [json.loads(line) for line in answer.text.splitlines()]


def test_it_is_killed_and_started_again_on_its_port() -> None:
    with served() as (process, url):
        assert len(chat(url)) == 9
        asked = report(process)["asked"]
        assert asked[0] > 0 and asked[1:] == ["hi", 0]
        process.kill()
        process.wait()
        with pytest.raises(httpx.ConnectError):
            chat(url)
        with served(int(url.rpartition(":")[2])) as (_, again):
            assert again == url
            assert len(chat(url)) == 9


@pytest.mark.parametrize(("model", "first"), [("open", "w2 "), ("closed", "w0 "), ("echo", "w0 w1 w2 ")])
def test_the_models_name_is_its_mode(model: str, first: str) -> None:
    with served() as (_, url):
        assert chat(url, model, "w0 w1 ")[0]["message"]["content"] == first


def test_its_runner_dies_by_sigusr1() -> None:
    with served(pause=0.2) as (process, url), httpx.Client(trust_env=False, verify=False, timeout=30) as client:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        with client.stream("POST", f"{url}/api/chat", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGUSR1)
            assert json.loads(list(lines)[-1]) == {"error": RUNNER_DIED}
        assert len(chat(url)) == 9


def test_it_ends_with_its_stdin_and_by_sigterm() -> None:
    with served() as (process, _):
        assert process.stdin
        process.stdin.close()
        assert process.wait(10) == 0
    with served() as (process, _):
        process.terminate()
        assert process.wait(10) == 0
