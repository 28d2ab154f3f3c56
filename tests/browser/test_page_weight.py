"""Requests of the chat page: size, compression, lazy loading, caching."""

import pytest
from playwright.sync_api import BrowserContext, Page, Response, expect

from tests.browser.chat_page import messages, send_prompt
from tests.fakes.ollama import Head, Lines, ScriptedOllama, last_line, line
from tests.program import ROOT

LIMIT = 200_000
"""Bytes of all JavaScript and CSS, compressed, including the highlighter and all its languages."""


@pytest.fixture
def responses() -> list[Response]:
    """The responses to the page's requests."""
    return []


@pytest.fixture
def fresh_page(context: BrowserContext, responses: list[Response]) -> Page:
    """The page in a browser with an empty cache."""
    page = context.new_page()
    page.on("response", lambda response: responses.append(response))
    page.goto("/", wait_until="networkidle")
    expect(page.locator("#welcome")).to_be_visible()
    return page


def names(responses: list[Response]) -> set[str]:
    """The paths of the responses, below ``/static/``."""
    return {one.url.rpartition("/static/")[2] for one in responses}


def test_scripts_and_styles_stay_below_the_size_limit(
    fresh_page: Page, responses: list[Response], ollama: ScriptedOllama
) -> None:
    languages = sorted(path.name for path in (ROOT / "static/vendor/highlight").glob("*.js"))
    code = "\n\n".join(f"```{name.removesuffix('.js')}\n1\n```" for name in languages)
    ollama.script(Head(), Lines(line(f"{code}\n\nThe end."), last_line()))
    send_prompt(fresh_page, "In every language")
    expect(messages(fresh_page).last).to_contain_text("The end.")
    while {f"vendor/highlight/{name}" for name in languages} - names(responses):
        fresh_page.wait_for_event("response")

    files = [one for one in responses if one.url.endswith((".js", ".css"))]
    assert {"chat/chat.js", "chat/chat.css", "chat/markdown/markdown.css", "vendor/marked.js"} <= names(files)
    assert len(files) == len(names(files)) + 1, "only allowed_tags.js is loaded twice: by the page and by its worker"
    assert all(one.status == 200 and one.headers["content-encoding"] == "gzip" for one in files)
    weight = sum(int(one.headers["content-length"]) for one in files)
    assert 30_000 < weight < LIMIT


def test_a_highlighter_language_is_loaded_on_demand(
    fresh_page: Page, responses: list[Response], ollama: ScriptedOllama
) -> None:
    assert not any("highlight/" in name for name in names(responses))
    ollama.script(Head(), Lines(line("```js\nlet x\n```\n\n```unknown\n1\n```\n"), last_line()))
    send_prompt(fresh_page, "Code")
    expect(fresh_page.locator(".hljs-keyword")).to_have_text("let")
    fetched = {name for name in names(responses) if "highlight/" in name}
    assert fetched == {"vendor/highlight/core.js", "vendor/highlight/javascript.js"}


@pytest.mark.extended
def test_a_second_visit_only_revalidates_files(fresh_page: Page, responses: list[Response]) -> None:
    responses.clear()
    fresh_page.reload(wait_until="networkidle")
    files = [one for one in responses if "/static/" in one.url]
    assert len(files) > 20
    assert {one.status for one in files} <= {200, 304}
    assert fresh_page.evaluate(
        """performance.getEntriesByType("resource").filter(({ name }) => name.includes("/static/"))
            .every(({ transferSize }) => transferSize < 1000)"""
    ), "more than headers was transferred"
