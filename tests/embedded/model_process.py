"""The embedded model as a process of its own, and requests to it."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = "smollm2:135m"
SHORT = {"temperature": 0, "seed": 1, "num_predict": 8}
Messages = list[dict[str, str]]


@dataclass
class Running:
    """A running process, its URL, and its log file."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def ended(self) -> tuple[int, str]:
        """Close its stdin, wait for its end, and return its exit status and the rest of its stdout."""
        rest, _ = self.process.communicate(timeout=30)
        return self.process.returncode, rest


def start(log: Path, *arguments: str) -> Running:
    """Start the module as chatterd does, and wait for its URL."""
    command = [sys.executable, "-m", "embedded.ollama", "--until-stdin-closes", *arguments]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, **pipes)
    assert process.stdout
    line = process.stdout.readline()
    if not re.fullmatch(r"http://127\.0\.0\.1:\d+\n", line):
        process.kill()
        process.communicate()
        pytest.fail(f"not its URL: {line!r}\n{log.read_text()}")
    return Running(process, line.strip(), log)


def ask(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def lines(http: httpx.Client, path: str, **body: Any) -> list[Any]:
    """Return the decoded lines of a streamed answer; each must be compact JSON."""
    response = http.post(path, json={"model": MODEL, **body})
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/x-ndjson"
    *texts, rest = response.text.split("\n")
    assert rest == ""
    decoded = [json.loads(text) for text in texts]
    assert texts == [json.dumps(line, ensure_ascii=False, separators=(",", ":")) for line in decoded]
    return decoded
