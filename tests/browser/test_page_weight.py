"""What the chat page makes a browser fetch: little, compressed, and only once."""

from playwright.sync_api import Page, Response, expect

from tests.browser.test_page import messages, say
from tests.fakes.ollama import Head, Lines, ScriptedOllama, last_line, line
from tests.program import ROOT

LIMIT = 200_000
"""Bytes of all JavaScript and CSS, compressed, with the highlighter and every language it has."""


def test_scripts_and_styles_weigh_little(page: Page, ollama: ScriptedOllama) -> None:
    expect(page.locator("#welcome")).to_be_visible()
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer))
    page.reload(wait_until="networkidle")
    languages = sorted({path.stem for path in (ROOT / "static/vendor/highlight").glob("*.js")} - {"core"})
    code = "\n\n".join(f"```{language}\n1\n```" for language in languages)
    ollama.script(Head(), Lines(line(f"{code}\n\nThe end."), last_line()))
    say(page, "In every language")
    expect(messages(page).last).to_contain_text("The end.")
    page.wait_for_load_state("networkidle")

    files = [one for one in answers if one.url.endswith((".js", ".css"))]
    names = {one.url.rpartition("/")[2] for one in files}
    assert {"chat.js", "chat.css", "marked.js", "core.js", *[f"{language}.js" for language in languages]} <= names
    weights = {one.url: len(one.body()) for one in files}
    assert all(one.headers["content-encoding"] == "gzip" for one in files)
    sent = {one.url: int(one.headers["content-length"]) for one in files}
    assert sum(weights.values()) > sum(sent.values()) > 30_000
    assert sum(sent.values()) < LIMIT


def test_no_language_is_fetched_before_code_needs_it(page: Page, ollama: ScriptedOllama) -> None:
    expect(page.locator("#welcome")).to_be_visible()
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url.rpartition("/static/")[2]))
    page.reload(wait_until="networkidle")
    assert "vendor/marked.js" in fetched and not any("highlight/" in name for name in fetched)
    ollama.script(Head(), Lines(line("```js\nlet x\n```\n\n```unknown\n1\n```\n"), last_line()))
    say(page, "Code")
    expect(page.locator(".hljs-keyword")).to_have_text("let")
    assert sorted(name for name in fetched if "highlight/" in name) == [
        "vendor/highlight/core.js",
        "vendor/highlight/javascript.js",
    ]
