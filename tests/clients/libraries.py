"""The client libraries and programs that are run against chatterd: what each needs, can do, and how it is started."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.program import ROOT

DRIVERS = Path(__file__).parent / "drivers"

JARS = ("/usr/share/java/okhttp.jar", "/usr/share/java/okio.jar")
"""Where Debian's libokhttp-java puts them."""

GO_PATH = "/usr/share/gocode"
"""Where Debian puts the sources of Go libraries."""

BUILD_TIMEOUT = 300.0
"""Seconds for a compiler."""

Command = Callable[[Mapping[str, Any], Path], Sequence[str]]
"""Returns the command that reads a reply, by the driver's options and a folder for what is compiled."""


def python(options: Mapping[str, Any], _: Path) -> Sequence[str]:
    return [sys.executable, str(DRIVERS / "read.py"), json.dumps(options)]


def node(options: Mapping[str, Any], _: Path) -> Sequence[str]:
    return ["node", str(DRIVERS / "read.mjs"), json.dumps(options)]


def chromium(options: Mapping[str, Any], _: Path) -> Sequence[str]:
    return [sys.executable, "-m", "tests.clients.drivers.browser", json.dumps(options)]


def java(options: Mapping[str, Any], folder: Path) -> Sequence[str]:
    path = ":".join([str(_classes(folder)), *JARS])
    body = "" if options["body"] is None else json.dumps(options["body"])
    return ["java", "-cp", path, "Read", options["library"], options["method"], options["url"], body]


def go(options: Mapping[str, Any], folder: Path) -> Sequence[str]:
    return [str(_go_program(folder)), json.dumps(options)]


@cache
def _classes(folder: Path) -> Path:
    build(["javac", "-d", str(folder), "-cp", ":".join(JARS), str(DRIVERS / "Read.java")])
    return folder


@cache
def _go_program(folder: Path) -> Path:
    build(["go", "build", "-o", str(folder / "read"), str(DRIVERS / "go" / "main.go")])
    return folder / "read"


def build(command: Sequence[str]) -> None:
    """Run a compiler.

    :raises AssertionError: it fails.
    """
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": GO_PATH, "GOFLAGS": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Library:
    """A library or program.

    :param name: as its users know it; the driver's name of it.
    :param command: how it is started.
    :param needs: Debian packages, or ``npm``.
    :param posts: whether it can send a POST. If not, it follows replies that were begun with ``Prefer: respond-async``.
    :param repeats: whether it reconnects by itself, and then repeats a POST. The others are called again by the driver.
    """

    name: str
    command: Command
    needs: Sequence[str] = ()
    posts: bool = True
    repeats: bool = False


LIBRARIES = (
    Library("httpx-sse", python),
    Library("sseclient-py", python),
    Library("requests", python),
    Library("aiohttp", python),
    Library("requests-sse", python, repeats=True),
    Library("aiohttp-sse-client", python),
    Library("curl", python, ["curl"]),
    Library("eventsource", node, ["npm"], posts=False),
    Library("undici", node, ["npm"], posts=False),
    Library("eventsource-parser", node, ["npm"]),
    Library("eventsource-client", node, ["npm"], repeats=True),
    Library("fetch-event-source", node, ["npm"], repeats=True),
    Library("Chromium, EventSource", chromium, ["npm", "chromium-headless-shell"], posts=False),
    Library("Chromium, fetch", chromium, ["npm", "chromium-headless-shell"]),
    Library("Chromium, fetch-event-source", chromium, ["npm", "chromium-headless-shell"], repeats=True),
    Library("java.net.http", java, ["default-jdk-headless", "libokhttp-java"]),
    Library("OkHttp", java, ["default-jdk-headless", "libokhttp-java"]),
    Library("net/http", go, ["golang-go", "golang-github-donovanhide-eventsource-dev"]),
    Library("donovanhide/eventsource", go, ["golang-go", "golang-github-donovanhide-eventsource-dev"], posts=False),
)
