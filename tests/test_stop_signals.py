"""Ctrl-C and SIGTERM: a drain, the end at once when they come again, and the end of a start."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.client import Client
from tests.fakes.ollama import Gate, ScriptedOllama, Words
from tests.program import ROOT, Program
from tests.test_first_chat import start


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_ends_a_drain_at_once(
    number: signal.Signals,
    status: int,
    start_chatterd: Callable[..., Program],
    ollama: ScriptedOllama,
    database_url: str,
) -> None:
    gate = Gate()
    ollama.script(Words(hold={2: gate}))
    program = start_chatterd(database_url=database_url, drain_timeout=600)
    with Client(program.url) as client, client.prompt("hi") as stream:
        path = stream.response.headers["Content-Location"]
        shown = [stream.next(), stream.next()]
        program.process.send_signal(number)
        program.wait_log("Waiting 600 s at most for 1 replies")
        program.process.send_signal(number)
        assert program.wait() == status  # within the 60 s of STOP_TIMEOUT, not the 600 of the drain
    assert f"{number.name} again: ending at once." in program.log
    gate.open()
    with Client(start_chatterd(database_url=database_url).url) as client:  # which continues the reply
        rest = client.view(path, last_event_id=1)
    text = "".join(event.json["message"]["content"] for event in [*shown, *rest] if event)
    assert text == "w0 w1 w2 w3 w4 "


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder, of which no process may be left after the test."""
    folder = Path(tempfile.mkdtemp(prefix="chatterd-test-"))
    yield folder
    left = [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or [])]
    shutil.rmtree(folder)
    assert not left


@pytest.mark.extended
def test_the_second_signal_leaves_no_embedded_part_behind(data_dir: Path) -> None:
    program = start(data_dir)
    tree = psutil.Process(program.process.pid).children(recursive=True)
    program.process.send_signal(signal.SIGINT)
    program.process.send_signal(signal.SIGINT)
    assert program.wait() in (0, 130)  # it may have ended before the second one
    _, alive = psutil.wait_procs(tree, timeout=30)
    assert not alive


def interrupted_start(data_dir: Path, delay: float | None) -> tuple[int, str]:
    """Start the program, send SIGINT after ``delay`` seconds, or once it starts PostgreSQL; return status and log."""
    command = [sys.executable, "server.py", "--port=0", f"--data-dir={data_dir}", "--ollama-host=127.0.0.1:1"]
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    with subprocess.Popen(
        [*command, "--embedded-model=no"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        if delay is None:
            log = process.stderr.readline()
            assert "starting the embedded PostgreSQL" in log
        else:
            log = ""
            time.sleep(delay)
        process.send_signal(signal.SIGINT)
        log += process.communicate(timeout=60)[1]
    return process.returncode, log


def test_a_signal_during_the_start_ends_it_quietly(data_dir: Path) -> None:
    status, log = interrupted_start(data_dir, None)
    assert status == 0
    assert "SIGINT: the start is cancelled." in log and "chatterd has stopped." in log
    assert "Traceback" not in log and "[E " not in log and "ready" not in log
    with Program(data_dir=data_dir, ollama_host="127.0.0.1:1", embedded_model=False):
        pass  # what it left can be used


def test_a_signal_during_the_imports_ends_without_a_traceback(data_dir: Path) -> None:
    status, log = interrupted_start(data_dir, delay=0.2)
    assert status in (-signal.SIGINT, 0) and "Traceback" not in log
