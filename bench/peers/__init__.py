"""The servers that chatterd is compared with: how each is set up and started."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = HERE.parent / "build"
VENV = ROOT / ".venv" / "bench"


class NotHere(Exception):
    """A peer cannot be measured on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that relays Ollama as the tutorial's does.

    Each takes ``PORT``, ``OLLAMA_HOST`` and ``DATABASE_URL`` from its environment, listens on 127.0.0.1 and is ready
    when the port accepts; SIGTERM ends it. It needs two file descriptors for each stream, so whoever starts it raises
    ``RLIMIT_NOFILE`` first, which it inherits.

    :ivar name: what the table calls it.
    :ivar setting_up: makes it ready to start, quickly the second time.
    :ivar starting: makes the command line for a port and Ollama's address.
    :ivar floor: whether it only hands bytes on: answers in Ollama's NDJSON, not in events, and records nothing.
    """

    name: str
    setting_up: Callable[[], None]
    starting: Callable[[int, str], Sequence[str]]
    floor: bool = False

    def set_up(self) -> str | None:
        """Install and build what it needs. Blocks, for minutes the first time.

        :returns: a sentence that says why it is not available here; None if it is.
        """
        try:
            self.setting_up()
        except NotHere as reason:
            return str(reason)
        return None

    def command(self, port: int, ollama: str) -> list[str]:
        """The command line; a configuration that it names is written to bench/build.

        :param port: where it shall listen.
        :param ollama: Ollama's address, ``host:port``.
        """
        return [str(part) for part in self.starting(port, ollama)]

    def environment(self, port: int, ollama: str, database_url: str) -> dict[str, str]:
        """The environment: this process's, and what the peer is told."""
        return {**os.environ, **_told(port, ollama, database_url)}


def _told(port: int, ollama: str, database_url: str) -> Mapping[str, str]:
    return {"PORT": str(port), "OLLAMA_HOST": ollama, "DATABASE_URL": database_url, "NODE_ENV": "production"}


def _run(what: str, *command: str | Path, cwd: Path = ROOT) -> None:
    """Run a step of the setting up.

    :raises NotHere: it fails; the text ends with the last thing it said.
    """
    try:
        done = subprocess.run(  # noqa: S603  # all commands are in this file
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        raise NotHere(f"{what}: {error}") from error
    if done.returncode != 0:
        said = [line for line in done.stdout.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise NotHere(f"{what}: {said[-1].strip()}")


def _install_from_debian(*commands: str) -> None:
    _run("not installed", "sh", ROOT / ".ci" / "debian-packages", *commands)


def _set_up_python() -> None:
    requirements, stamp = HERE / "requirements.txt", VENV / "is-set-up"
    if stamp.exists() and stamp.stat().st_mtime >= requirements.stat().st_mtime:
        return
    _run("no venv for the Python peers", sys.executable, "-m", "venv", VENV)
    pip = (VENV / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run("packages of the Python peers", *pip, "-r", requirements)
    stamp.touch()


def _uvicorn(module: str) -> Callable[[int, str], Sequence[str]]:
    def start(port: int, ollama: str) -> Sequence[str]:
        return [
            *(str(VENV / "bin" / "python"), "-m", "uvicorn", f"{module}:app", "--app-dir", str(HERE)),
            *("--host", "127.0.0.1", "--port", str(port), "--backlog", "4096"),
            *("--loop", "uvloop", "--http", "httptools", "--ws", "none", "--timeout-keep-alive", "75"),
            *("--no-access-log", "--log-level", "warning"),
        ]

    return start


def _set_up_rust() -> None:
    _run("not built", HERE / "rust" / "build")


def _start_rust(port: int, ollama: str) -> Sequence[str]:
    return [str(BUILD / "rust" / "release" / "chatterd-peer")]


def _set_up_node() -> None:
    _install_from_debian("npm")
    installed, lock = HERE / "node" / "node_modules" / ".package-lock.json", HERE / "node" / "package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    _run("packages of the Node.js peer", "npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=HERE / "node")
    installed.touch()


def _start_node(port: int, ollama: str) -> Sequence[str]:
    return ["node", str(HERE / "node" / "server.js")]


def _set_up_nginx() -> None:
    _install_from_debian("nginx")


def _start_nginx(port: int, ollama: str) -> Sequence[str]:
    folder = BUILD / f"nginx-{port}"
    folder.mkdir(parents=True, exist_ok=True)
    text = (HERE / "nginx.conf.in").read_text().replace("@PORT@", str(port)).replace("@OLLAMA@", ollama)
    (folder / "nginx.conf").write_text(text)
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx"
    return [nginx, "-p", str(folder), "-e", "stderr", "-c", "nginx.conf", "-g", "daemon off;"]


PEERS = (
    Peer("hyper + reqwest + tokio-postgres (Rust)", _set_up_rust, _start_rust),
    Peer("FastAPI + aiohttp + asyncpg (Python)", _set_up_python, _uvicorn("fastapi_aiohttp")),
    Peer("Starlette + httpx + psycopg (Python)", _set_up_python, _uvicorn("starlette_httpx")),
    Peer("node:http + pg (Node.js)", _set_up_node, _start_node),
    Peer("nginx, proxying only", _set_up_nginx, _start_nginx, floor=True),
)
