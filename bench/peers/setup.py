"""Installing and building the peers. Each function blocks, for minutes the first time, and is quick afterwards."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.paths import ROOT

HERE = Path(__file__).parent


class PeerUnavailable(Exception):
    """A peer cannot be measured on this machine; the text is the reason."""


def reporting_unavailable(set_up: Callable[[], None]) -> Callable[[], str | None]:
    """Return a function that calls ``set_up`` and returns the reason if the peer is unavailable."""

    def call() -> str | None:
        try:
            set_up()
        except PeerUnavailable as reason:
            return str(reason)
        return None

    return call


def python() -> None:
    """Install the packages of the Python peers in the benchmark's own environment."""
    requirements, stamp = HERE / "python/requirements.txt", Path(sys.prefix) / "peers-are-set-up"
    if not _newer(stamp, requirements):
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _run("packages of the Python peers", *pip, "-r", requirements)
        stamp.touch()


def rust() -> None:
    """Build the Rust peer."""
    _run("not built", HERE / "rust/build")


def node() -> None:
    """Install Node.js and the packages of its peer."""
    _install_from_debian("npm")
    installed = HERE / "node/node_modules/.package-lock.json"
    if not _newer(installed, HERE / "node/package-lock.json"):
        _run("packages of the Node.js peer", "npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=HERE / "node")
        installed.touch()


def nginx() -> None:
    """Install nginx."""
    _install_from_debian("nginx")


def _newer(stamp: Path, source: Path) -> bool:
    return stamp.exists() and stamp.stat().st_mtime >= source.stat().st_mtime


def _install_from_debian(*commands: str) -> None:
    _run("not installed", "sh", ROOT / ".ci/debian-packages", *commands)


def _run(step: str, *command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command.

    :raises PeerUnavailable: it fails; the text ends with the last line of its output.
    """
    try:
        done = subprocess.run(  # noqa: S603 - all commands are in this file
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        raise PeerUnavailable(f"{step}: {error}") from error
    if done.returncode != 0:
        output = [line for line in done.stdout.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise PeerUnavailable(f"{step}: {output[-1].strip()}")
