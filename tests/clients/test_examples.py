"""The examples of docs/clients.md print a reply."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.clients.conftest import Runner
from tests.clients.libraries import GO_PATH, JARS
from tests.program import ROOT
from tests.system_packages import NODE_MODULES

TEXT = ROOT / "docs" / "clients.md"

LANGUAGES = ("sh", "python", "js", "mjs", "java", "go")

EXAMPLES = dict(re.findall(r"```(\w+)\n(.*?)```", TEXT.read_text(), re.DOTALL))
"""The code by its language."""

REPLY = "w0 w1 w2 w3 w4 "

TIMEOUT = 120.0
"""Seconds for an example, compilation included."""

COMMANDS: dict[str, Callable[[Path], Sequence[str]]] = {
    "sh": lambda file: ["sh", str(file)],
    "python": lambda file: [sys.executable, str(file)],
    "mjs": lambda file: ["node", str(file)],
    "java": lambda file: ["java", "-cp", ":".join(JARS), str(file)],
    "go": lambda file: ["go", "run", str(file)],
}
"""What runs the file of an example."""


def test_there_is_an_example_for_each_language() -> None:
    assert tuple(EXAMPLES) == LANGUAGES


def adapted(language: str, url: str) -> str:
    """Return an example with the address of a test's server, and a conversation of its own."""
    example = EXAMPLES[language]
    assert example.count("http://127.0.0.1:8000") == 1
    return str(example.replace("http://127.0.0.1:8000", url).replace("demo", f"example {uuid4()}"))


def said(output: str) -> str:
    """Return the text of a reply, as printed or in the lines that are printed."""
    lines = re.findall(r'"content":"([^"]*)"', output)
    return "".join(lines) if lines else output


@pytest.mark.parametrize(
    "language",
    [
        pytest.param("sh", marks=pytest.mark.needs("curl")),
        "python",
        pytest.param("mjs", marks=pytest.mark.needs("npm")),
        pytest.param("java", marks=[pytest.mark.extended, pytest.mark.needs("default-jdk-headless", "libokhttp-java")]),
        pytest.param("go", marks=[pytest.mark.extended, pytest.mark.needs("golang-go")]),
    ],
)
def test_an_example_prints_a_reply(runner: Runner, tmp_path: Path, language: str) -> None:
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    file = tmp_path / f"Example.{language}"
    file.write_text(adapted(language, runner.url))
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": GO_PATH}
    done = subprocess.run(
        COMMANDS[language](file), env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert said(done.stdout) == REPLY


@pytest.mark.extended
@pytest.mark.needs("chromium-headless-shell")
def test_the_example_for_browsers_shows_a_reply_on_a_page_of_another_origin(runner: Runner, pages: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        page.goto(pages)
        page.add_script_tag(content=adapted("js", runner.url), type="module")
        expect(page.locator("body")).to_have_text(REPLY.strip())
        browser.close()
