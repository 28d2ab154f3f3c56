"""The command lines of the peers."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.paths import BUILD

HERE = Path(__file__).parent


def uvicorn(module: str) -> Callable[[int, str], Sequence[str]]:
    """Return the command line of an ASGI application in bench/peers/python."""

    def command(port: int, ollama: str) -> Sequence[str]:
        return [
            *(sys.executable, "-m", "uvicorn", f"{module}:app", "--app-dir", str(HERE / "python")),
            *("--host", "127.0.0.1", "--port", str(port), "--backlog", "4096"),
            *("--loop", "uvloop", "--http", "httptools", "--ws", "none", "--timeout-keep-alive", "75"),
            *("--no-access-log", "--log-level", "warning"),
        ]

    return command


def rust(port: int, ollama: str) -> Sequence[str]:
    """Return the command line of the Rust peer."""
    return [str(BUILD / "rust/release/chatterd-peer")]


def node(port: int, ollama: str) -> Sequence[str]:
    """Return the command line of the Node.js peer."""
    return ["node", str(HERE / "node/server.js")]


def nginx(port: int, ollama: str) -> Sequence[str]:
    """Return nginx's command line; its configuration is written to bench/build."""
    folder = BUILD / f"nginx-{port}"
    folder.mkdir(parents=True, exist_ok=True)
    text = (HERE / "nginx.conf.in").read_text().replace("@PORT@", str(port)).replace("@OLLAMA@", ollama)
    (folder / "nginx.conf").write_text(text)
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx"
    return [program, "-p", str(folder), "-e", "stderr", "-c", "nginx.conf", "-g", "daemon off;"]
