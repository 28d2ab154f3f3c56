"""More clients than a process may have open files: the rest waits, and replies go on."""

import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from tests.client import Client
from tests.fakes.ollama import ScriptedOllama
from tests.program import Program
from tests.raw import head, raw

FILES, CROWD = 150, 200


@pytest.fixture
def few_files(start_chatterd: Callable[..., Program], database_url: str, monkeypatch: pytest.MonkeyPatch) -> Program:
    """A chatterd that may open few files."""
    real = subprocess.Popen

    def start(command: list[str], **options: object) -> object:
        limit = f"import os, resource as r, sys; r.setrlimit(r.RLIMIT_NOFILE, ({FILES}, {FILES}));"
        return real([sys.executable, "-c", limit + "os.execv(sys.argv[1], sys.argv[1:])", *command], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", start)
    return start_chatterd(database_url=database_url, idle_connection_timeout=3)


@pytest.mark.expects_log("too few open files")
def test_a_crowd_waits_and_leaves_files_for_replies(few_files: Program, ollama: ScriptedOllama) -> None:
    host = urlsplit(few_files.url)
    with Client(few_files.url) as client, ExitStack() as crowd:
        client.messages()  # it is connected
        for _ in range(CROWD):
            crowd.enter_context(socket.create_connection((str(host.hostname), int(host.port or 0))))
        few_files.wait_log("too few open files")
        assert client.ask("hi")[-1].json["done"]
        with raw(few_files.url) as late:
            late.send(head("/healthz", "Connection: close", method="GET"))
            assert late.answer().status == 200  # when those who say nothing have been closed
    assert few_files.log.count("too few open files") == 1
    assert len(few_files.log) < 100_000
