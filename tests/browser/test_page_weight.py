"""What the chat page makes a browser fetch: little, compressed, the rest only when it is needed, nothing twice."""

import pytest
from playwright.sync_api import BrowserContext, Page, Response, expect

from tests.browser.test_page import messages, say
from tests.fakes.ollama import Head, Lines, ScriptedOllama, last_line, line
from tests.program import ROOT

LIMIT = 200_000
"""Bytes of all JavaScript and CSS, compressed, with the highlighter and every language it has."""


@pytest.fixture
def answers() -> list[Response]:
    """What the page was answered, in the order of arrival."""
    return []


@pytest.fixture
def newcomer(context: BrowserContext, answers: list[Response]) -> Page:
    """The page in a browser that has nothing of it yet."""
    page = context.new_page()
    page.on("response", lambda answer: answers.append(answer))
    page.goto("/", wait_until="networkidle")
    expect(page.locator("#welcome")).to_be_visible()
    return page


def names(answers: list[Response]) -> set[str]:
    """The answered files, by their paths below ``/static/``."""
    return {one.url.rpartition("/static/")[2] for one in answers}


def test_scripts_and_styles_weigh_little(newcomer: Page, answers: list[Response], ollama: ScriptedOllama) -> None:
    languages = sorted(path.name for path in (ROOT / "static/vendor/highlight").glob("*.js"))
    code = "\n\n".join(f"```{name.removesuffix('.js')}\n1\n```" for name in languages)
    ollama.script(Head(), Lines(line(f"{code}\n\nThe end."), last_line()))
    say(newcomer, "In every language")
    expect(messages(newcomer).last).to_contain_text("The end.")
    while {f"vendor/highlight/{name}" for name in languages} - names(answers):
        newcomer.wait_for_event("response")

    files = [one for one in answers if one.url.endswith((".js", ".css"))]
    assert {"chat/chat.js", "chat/chat.css", "chat/markdown/markdown.css", "vendor/marked.js"} <= names(files)
    assert len(files) == len(names(files))
    assert all(one.status == 200 and one.headers["content-encoding"] == "gzip" for one in files)
    weight = sum(int(one.headers["content-length"]) for one in files)
    assert 30_000 < weight < LIMIT


def test_a_language_is_fetched_when_code_needs_it(
    newcomer: Page, answers: list[Response], ollama: ScriptedOllama
) -> None:
    assert not any("highlight/" in name for name in names(answers))
    ollama.script(Head(), Lines(line("```js\nlet x\n```\n\n```unknown\n1\n```\n"), last_line()))
    say(newcomer, "Code")
    expect(newcomer.locator(".hljs-keyword")).to_have_text("let")
    fetched = {name for name in names(answers) if "highlight/" in name}
    assert fetched == {"vendor/highlight/core.js", "vendor/highlight/javascript.js"}


def test_a_second_visit_fetches_nothing_again(newcomer: Page, answers: list[Response]) -> None:
    answers.clear()
    newcomer.reload(wait_until="networkidle")
    files = [one for one in answers if "/static/" in one.url]
    assert len(files) > 20
    assert {one.status for one in files} <= {200, 304}
    assert newcomer.evaluate(
        """performance.getEntriesByType("resource").filter(({ name }) => name.includes("/static/"))
            .every(({ transferSize }) => transferSize < 1000)"""
    ), "more than headers came"
