"""What tests need of the machine beyond Python packages, and the report of the tests that were left out without it."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

NODE_MODULES = Path(__file__).parent / "node_modules"
"""Made by ``npm ci``: what tests/package.json names."""

ALL_MUST_RUN = os.environ.get("CI") == "true"
"""Whether a test fails, instead of being skipped, where the machine lacks what it needs."""

REASON = "this machine lacks "


LIBRARIES = {
    "golang-github-donovanhide-eventsource-dev": Path("/usr/share/gocode/src/github.com/donovanhide/eventsource"),
    "libokhttp-java": Path("/usr/share/java/okhttp.jar"),
}
"""Where Debian packages without a command put what they contain."""

COMMANDS = {"default-jdk-headless": "javac", "golang-go": "go"}
"""Commands of Debian packages that are named otherwise."""


def is_installed(package: str) -> bool:
    """Return whether a Debian package is there: its command, its library, or what npm has installed."""
    if package == "npm":
        return shutil.which("node") is not None and (NODE_MODULES / ".package-lock.json").exists()
    if package in LIBRARIES:
        return LIBRARIES[package].exists()
    return shutil.which(COMMANDS.get(package, package)) is not None


def check(item: pytest.Item) -> None:
    """Skip a test whose marker ``needs`` names a package that is not installed; fail it if all tests must run."""
    needed = {str(package) for marker in item.iter_markers("needs") for package in marker.args}
    if missing := sorted(package for package in needed if not is_installed(package)):
        reason = REASON + " ".join(missing)
        if ALL_MUST_RUN:
            pytest.fail(f"{reason}, and CI=true", pytrace=False)
        pytest.skip(reason)


def summary(reasons: Iterable[str]) -> Iterator[str]:
    """Yield lines that tell what was left out, and how to have it run.

    :param reasons: why each of the skipped tests was skipped.
    """
    missing: set[str] = set()
    for reason, count in Counter(reasons).most_common():
        yield f"{count} {'test' if count == 1 else 'tests'}: {reason}"
        if reason.startswith(REASON):
            missing.update(reason.removeprefix(REASON).split())
    if missing:
        yield f"To run them on Debian or Ubuntu: sudo apt-get install {' '.join(sorted(missing))} && make test"
