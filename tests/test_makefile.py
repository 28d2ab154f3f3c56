"""`make` in a checkout of its own: the real Makefile, .ci/set-up and set_up.py, with a tiny package as requirement.

The checkout's path holds blanks, quotes and what a shell would run.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.program import ROOT

PATH = 'my folder $(touch executed) `touch executed`; "it\'s" & #1 é'

HOSTILE = {
    "PIP_USER": "1",
    "PIP_TARGET": "/nowhere/target",
    "PIP_PREFIX": "/nowhere/prefix",
    "PIP_ROOT": "/nowhere/root",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONPATH": "/nowhere/path",
    "PYTHONHOME": "/nowhere/home",
    "PYTHONSTARTUP": "/nowhere/startup",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "VIRTUAL_ENV": "/nowhere/venv",
    "CONDA_PREFIX": "/nowhere/conda",
}
"""Variables of other tools that must not matter."""

SHOW = """
import os, sys
names = sorted(name for name in os.environ if name.startswith("PYTHON") and name != "PYTHON3")
print(names, sys.flags.optimize, sys.argv[1:])
"""
"""Stands in for server.py."""


def write_wheel(folder: Path, version: str) -> None:
    """Write a wheel with the module ``tiny``, whose only content is its version."""
    info = f"tiny-{version}.dist-info"
    files = {
        "tiny.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in (files | {f"{info}/RECORD": record}).items():
            wheel.writestr(name, text)


class Checkout:
    """A folder with the Makefile and what it calls.

    :param wheels: folder in which pip finds packages.
    """

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder = folder
        self._wheels = wheels

    @property
    def state(self) -> dict[str, str]:
        return dict(json.loads((self.folder / ".venv/set-up.json").read_text()))

    def environment(self, **variables: str) -> dict[str, str]:
        kept = ("PATH", "HOME", "LANG", "TMPDIR")
        base = {name: os.environ[name] for name in kept if name in os.environ}
        return (
            base | {"PIP_FIND_LINKS": str(self._wheels), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull} | variables
        )

    def make(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["make", "run", *arguments],
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
        )

    def installed(self) -> str:
        """Return the version of the tiny package in .venv."""
        command = [".venv/bin/python", "-I", "-c", "import tiny; print(tiny.VERSION)"]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    write_wheel(folder, "1.0")
    write_wheel(folder, "2.0")
    return folder


@pytest.fixture(scope="module")
def first(
    tmp_path_factory: pytest.TempPathFactory, wheels: Path
) -> tuple[Checkout, "subprocess.CompletedProcess[str]"]:
    """A checkout in which `make run` has run once, and what that wrote."""
    folder = tmp_path_factory.mktemp("checkout") / PATH
    folder.mkdir()
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    for name in ("Makefile", "set_up.py"):
        shutil.copy(ROOT / name, folder)
    (folder / "embedded").mkdir()
    (folder / "embedded/install.py").write_text('print("installs")\n')
    (folder / "server.py").write_text(SHOW)
    (folder / "requirements.txt").write_text("tiny>=1,<2\n")
    checkout = Checkout(folder, wheels)
    return checkout, checkout.make("ARGS=--port=0 --data-dir='a b'", **HOSTILE)


@pytest.fixture
def checkout(first: tuple[Checkout, object], wheels: Path, tmp_path: Path) -> Checkout:
    """A copy of that checkout for one test."""
    shutil.copytree(first[0].folder, tmp_path / PATH, symlinks=True)
    return Checkout(tmp_path / PATH, wheels)


def test_a_first_run_installs_and_starts_whatever_the_path_and_the_environment(
    first: tuple[Checkout, "subprocess.CompletedProcess[str]"],
) -> None:
    checkout, done = first
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Setting up the packages of requirements.txt in .venv (once) ...",
        "installs",
        "[] 0 ['--port=0', '--data-dir=a b']",
    ]
    assert checkout.installed() == "1.0"
    assert not [*checkout.folder.rglob("executed"), *Path.cwd().glob("executed")]
    assert not Path("/nowhere").exists()


def test_a_second_run_asks_no_index(checkout: Checkout) -> None:
    done = checkout.make(PIP_FIND_LINKS="/nowhere", PATH=os.environ["PATH"])
    assert (done.returncode, done.stdout.splitlines()) == (0, ["installs", "[] 0 []"])


@pytest.mark.extended
def test_a_raised_version_is_installed(checkout: Checkout) -> None:
    requirements = checkout.folder / "requirements.txt"
    times = requirements.stat()
    requirements.write_text("tiny>=2,<3\n")
    os.utime(requirements, (times.st_atime, times.st_mtime))  # as an archive does that keeps old times
    assert checkout.make().stdout.startswith("Setting up the packages of requirements.txt")
    assert checkout.installed() == "2.0"


@pytest.mark.extended
def test_an_environment_of_a_python_that_was_replaced_is_made_again(checkout: Checkout) -> None:
    [library] = (checkout.folder / ".venv/lib").glob("python3.*")
    library.rename(library.with_name("python3.0"))  # as it looks to a newer Python in the place of the old one
    done = checkout.make()
    assert done.returncode == 0
    assert "Setting up .venv again: its Python was replaced" in done.stdout
    assert checkout.installed() == "1.0" and not library.with_name("python3.0").exists()


@pytest.mark.extended
def test_an_environment_whose_python_is_gone_is_made_again(checkout: Checkout) -> None:
    for name in ("python", "python3"):
        (checkout.folder / ".venv/bin" / name).unlink()
    assert checkout.make().returncode == 0
    assert checkout.installed() == "1.0"


def test_a_package_that_was_damaged_is_installed_again(checkout: Checkout) -> None:
    [module] = checkout.folder.glob(".venv/lib/python3.*/site-packages/tiny.py")
    module.write_text("")
    command = ["sh", ".ci/set-up", "--again", "requirements.txt"]
    subprocess.run(command, cwd=checkout.folder, env=checkout.environment(), check=True)
    assert checkout.installed() == "1.0"


@pytest.mark.extended
def test_an_environment_whose_creation_was_interrupted_is_made_again(checkout: Checkout) -> None:
    (checkout.folder / ".venv/set-up.json").unlink()
    [pip] = checkout.folder.glob(".venv/lib/python3.*/site-packages/pip")
    shutil.rmtree(pip / "_vendor")
    assert checkout.make().returncode == 0
    assert checkout.installed() == "1.0"


class Index(ThreadingHTTPServer):
    """A package index that holds its responses until ``go`` is set, and tells by ``asked`` that it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hold)
        self.asked = threading.Event()
        self.go = threading.Event()

    @property
    def variables(self) -> dict[str, str]:
        return {"PIP_NO_INDEX": "", "PIP_INDEX_URL": f"http://127.0.0.1:{self.server_port}/simple", "PIP_RETRIES": "0"}


class _Hold(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        self.server.asked.set()
        self.server.go.wait(60)
        self.send_error(404)  # the package is in the folder of wheels

    def log_message(self, *_: Any) -> None:
        """Write no log."""


@contextmanager
def index() -> Iterator[Index]:
    with Index() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.go.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def stale(checkout: Checkout) -> Checkout:
    """A checkout whose packages must be installed."""
    (checkout.folder / "requirements.txt").write_text("tiny>=2,<3\n")
    return checkout


def start(checkout: Checkout, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["make", "run"],
        cwd=checkout.folder,
        env=checkout.environment(**variables),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.extended
def test_an_installation_that_was_killed_is_made_again(stale: Checkout) -> None:
    with index() as held:
        process = start(stale, **held.variables)
        assert held.asked.wait(60)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert (stale.folder / ".venv/set-up-unfinished").exists()
    done = stale.make()
    assert done.returncode == 0
    assert "or an installation interrupted" in done.stdout
    assert stale.installed() == "2.0" and not (stale.folder / ".venv/set-up-unfinished").exists()


@pytest.mark.extended
def test_two_at_once_install_one_after_the_other(stale: Checkout) -> None:
    with index() as held:
        one = start(stale, **held.variables)
        assert held.asked.wait(60)
        other = start(stale)
        assert other.stdout
        assert other.stdout.readline() == "Waiting for another process that installs packages here ...\n"
        held.go.set()
        assert "Setting up" in one.communicate()[0] and one.returncode == 0
        assert other.communicate()[0].splitlines() == ["installs", "[] 0 []"] and other.returncode == 0
    assert stale.installed() == "2.0"


# What is missing is told in one sentence; the last line is make's own.


@pytest.mark.extended
def test_no_network_is_told(stale: Checkout) -> None:
    variables = {
        "PIP_NO_INDEX": "",
        "PIP_INDEX_URL": "http://127.0.0.1:1/simple",
        "PIP_RETRIES": "0",
        "PIP_FIND_LINKS": "",
    }
    done = stale.make(**variables)
    assert done.returncode == 2
    sentence, makes_own = done.stderr.splitlines()
    assert sentence.startswith(
        "The packages of requirements.txt cannot be downloaded: pip reaches no index that has them."
    )
    assert makes_own.startswith("make: ***")
    assert stale.installed() == "1.0" and not (stale.folder / ".venv/set-up-unfinished").exists()
    assert stale.make().returncode == 0


def wrapper(folder: Path, hidden: str) -> str:
    """Return a Python that lacks a module, as Debian's without python3-venv."""
    program = (
        f"import runpy, sys; sys.modules[{hidden!r}] = None; sys.argv.pop(0); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    file = folder / "python"
    python = shlex.quote(sys.executable)
    file.write_text(f'#!/bin/sh\n[ "$1" = -I ] || exec {python} "$@"\nshift\nexec {python} -I -c "{program}" "$@"\n')
    file.chmod(0o755)
    return str(file)


def test_a_missing_venv_module_is_told(checkout: Checkout, tmp_path: Path) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    done = checkout.make(PYTHON3=wrapper(tmp_path, "ensurepip"))
    assert done.stderr.splitlines()[0] == (
        "Python's module venv is missing. On Debian or Ubuntu: sudo apt-get install python3-venv"
    )


@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        ("python9.9", "chatterd needs Python 3.11 or newer, and there is no python9.9."),
        ("/bin/false", "chatterd needs Python 3.11 or newer, and /bin/false is older."),
    ],
)
def test_a_missing_or_old_python_is_told(checkout: Checkout, python: str, sentence: str) -> None:
    assert checkout.make(f"PYTHON3={python}").stderr.startswith(sentence)


def test_a_folder_that_cannot_be_written_is_told(checkout: Checkout) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    shutil.rmtree(checkout.folder / ".venv")
    checkout.folder.chmod(0o555)
    try:
        done = checkout.make()
    finally:
        checkout.folder.chmod(0o755)
    assert "Permission denied" in done.stderr and "Traceback" not in done.stderr
