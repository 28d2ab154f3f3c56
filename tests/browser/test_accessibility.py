"""Accessibility of the chat page: axe-core, screen reader announcements, keyboard, reduced motion."""

from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.chat_page import (
    announcer,
    busy_status,
    button,
    expect_idle,
    ignore_failed_requests,
    is_prompt,
    messages,
    send_prompt,
)
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line

AXE = Path(__file__).parent.parent / "node_modules" / "axe-core" / "axe.min.js"

RICH = """# A heading

Some `code`, a [link](https://example.org/) and **strong words**.

```python
def answer() -> int:
    return 42  # a comment
```

| name | value |
|------|------:|
| one  |     1 |

1. first
2. second

> a quotation
"""


def findings(page: Page) -> list[str]:
    """The serious and critical issues that axe-core finds. It bypasses the page's Content-Security-Policy."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    found: list[dict[str, Any]] = page.evaluate("axe.run(document).then(({violations}) => violations)")
    return [
        f"{one['impact']}: {one['help']}: {[node['html'] for node in one['nodes']]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.needs("npm")
@pytest.mark.parametrize(("scheme", "width"), [("light", 320), pytest.param("dark", 1000, marks=pytest.mark.extended)])
def test_axe_finds_no_serious_issues(
    page: Page, ollama: ScriptedOllama, scheme: Literal["light", "dark"], width: int
) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 640})
    assert findings(page) == [], "empty"

    thought = line("", message={"thinking": "Let me see."})
    ollama.script(Head(), Lines(thought, line(RICH), last_line()))
    send_prompt(page, "Show me everything")
    expect_idle(page)
    expect(messages(page)).to_have_count(2)
    page.locator("details.stats summary").click()
    page.get_by_text("Thinking").click()
    assert findings(page) == [], "a rich reply"

    gate = Gate("the end")
    ollama.script(Head(), Lines(line("Some words")), gate, Lines(b'{"error":"out of memory"}'))
    send_prompt(page, "Fail")
    expect(messages(page).nth(3)).to_have_text("Some words")
    assert findings(page) == [], "while a reply is streamed"
    gate.open()
    expect(page.get_by_role("alert")).to_contain_text("out of memory")
    expect_idle(page)
    assert findings(page) == [], "after an error"

    button(page, "Edit").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Edit message", exact=True)).to_be_focused()
    assert findings(page) == [], "an edited prompt"
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.needs("npm")
def test_axe_finds_no_serious_issues_in_an_unsent_prompt(
    page: Page, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    def refuse(route: Route) -> None:
        if is_prompt(route.request):
            route.abort()
        else:
            route.continue_()

    page.route("**/llmchat", refuse)
    send_prompt(page, "Hello")
    expect(busy_status(page)).to_contain_text("Not sent yet.")
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert findings(page) == []
    button(page, "Cancel sending").click()  # no further attempts
    expect_idle(page)
    ignore_failed_requests(browser_errors)


def test_a_screen_reader_announces_a_reply_once_when_complete(page: Page, ollama: ScriptedOllama) -> None:
    announced = page.evaluate_handle(
        """() => {
            const announced = [];
            const announcer = document.querySelector("#announcer");
            const note = () => announced.push(announcer.textContent);
            new MutationObserver(note).observe(announcer, {childList: true, characterData: true, subtree: true});
            return announced;
        }"""
    )
    more = Gate("more words")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(line("upon "), line("a time"), last_line()))
    send_prompt(page, "Tell me a story")
    expect(messages(page).nth(1)).to_have_text("Once")
    expect(messages(page).nth(1)).to_have_attribute("aria-busy", "true")
    more.open()
    expect_idle(page)
    expect(announcer(page)).to_have_text("Once upon a time")
    assert announced.json_value() == ["Once upon a time"]
    assert page.locator("main").locator("[aria-live], [role=log], [role=alert]").count() == 0, "no other live regions"


def test_tab_moves_through_the_controls_in_page_order(page: Page, ollama: ScriptedOllama) -> None:
    send_prompt(page, "Hello")
    expect(page.locator("details.stats")).to_be_visible()
    expect_idle(page)
    expect(button(page, "Regenerate")).to_have_count(1)
    page.locator("main").focus()
    names = []
    for _ in range(5):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.localName"))
    assert names == ["Copy", "Edit", "summary", "Copy", "Regenerate"]


def test_reduced_motion_disables_animations(page: Page, ollama: ScriptedOllama) -> None:
    page.emulate_media(reduced_motion="reduce")
    ollama.script(Head(), Gate("words"))
    send_prompt(page, "Hello")
    expect(busy_status(page)).to_contain_text("Waiting for the model")
    assert page.evaluate("document.getAnimations().length") == 0
    button(page, "Stop").click()
    expect_idle(page)
