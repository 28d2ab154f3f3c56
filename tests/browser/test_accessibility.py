"""axe-core finds nothing serious on the page, whatever it shows; who listens hears what matters, and no more."""

from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.chat_page import (
    announcer,
    button,
    expect_idle,
    forgive_failed_requests,
    is_prompt,
    messages,
    say,
    status,
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

> said by somebody
"""


def findings(page: Page) -> list[str]:
    """What axe-core finds serious or critical. It runs past the page's Content-Security-Policy, as a debugger does."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    found: list[dict[str, Any]] = page.evaluate("axe.run(document).then(({violations}) => violations)")
    return [
        f"{one['impact']}: {one['help']}: {[node['html'] for node in one['nodes']]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.needs("npm")
@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 1000)])
def test_axe_finds_nothing_serious(
    page: Page, ollama: ScriptedOllama, scheme: Literal["light", "dark"], width: int
) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 640})
    assert findings(page) == [], "empty"

    thought = line("", message={"thinking": "Let me see."})
    ollama.script(Head(), Lines(thought, line(RICH), last_line()))
    say(page, "Show me everything")
    expect_idle(page)
    expect(messages(page)).to_have_count(2)
    page.locator("details.figures summary").click()
    page.get_by_text("Thinking").click()
    assert findings(page) == [], "a rich reply"

    gate = Gate("the end")
    ollama.script(Head(), Lines(line("Some words")), gate, Lines(b'{"error":"out of memory"}'))
    say(page, "Fail")
    expect(messages(page).nth(3)).to_have_text("Some words")
    assert findings(page) == [], "while a reply comes"
    gate.open()
    expect(page.get_by_role("alert")).to_contain_text("out of memory")
    expect_idle(page)
    assert findings(page) == [], "after an error"

    button(page, "Edit").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your words")).to_be_focused()
    assert findings(page) == [], "an edited prompt"
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.needs("npm")
def test_axe_finds_nothing_serious_in_an_unsent_prompt(
    page: Page, ollama: ScriptedOllama, complaints: list[str]
) -> None:
    def refuse(route: Route) -> None:
        if is_prompt(route.request):
            route.abort()
        else:
            route.continue_()

    page.route("**/llmchat", refuse)
    say(page, "Hello")
    expect(status(page)).to_contain_text("Not sent yet.")
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert findings(page) == []
    button(page, "Take back").click()  # no attempt fails any more
    expect_idle(page)
    forgive_failed_requests(complaints)


def test_who_listens_hears_a_reply_once_and_whole(page: Page, ollama: ScriptedOllama) -> None:
    heard = page.evaluate_handle(
        """() => {
            const heard = [];
            const announcer = document.querySelector("#announcer");
            const note = () => heard.push(announcer.textContent);
            new MutationObserver(note).observe(announcer, {childList: true, characterData: true, subtree: true});
            return heard;
        }"""
    )
    more = Gate("more words")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(line("upon "), line("a time"), last_line()))
    say(page, "Tell me a story")
    expect(messages(page).nth(1)).to_have_text("Once")
    expect(messages(page).nth(1)).to_have_attribute("aria-busy", "true")
    more.open()
    expect_idle(page)
    expect(announcer(page)).to_have_text("Once upon a time")
    assert heard.json_value() == ["Once upon a time"]
    assert page.locator("main").locator("[aria-live], [role=log], [role=alert]").count() == 0, "nothing else speaks"


def test_everything_is_reached_with_the_keyboard_in_the_order_of_the_page(page: Page, ollama: ScriptedOllama) -> None:
    say(page, "Hello")
    expect(page.locator("details.figures")).to_be_visible()
    expect_idle(page)
    expect(button(page, "Another answer")).to_have_count(1)
    page.locator("main").focus()
    names = []
    for _ in range(5):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.localName"))
    assert names == ["Copy", "Edit", "summary", "Copy", "Another answer"]


def test_who_prefers_stillness_sees_nothing_move(page: Page, ollama: ScriptedOllama) -> None:
    page.emulate_media(reduced_motion="reduce")
    ollama.script(Head(), Gate("words"))
    say(page, "Hello")
    expect(status(page)).to_contain_text("Waiting for the model")
    assert page.evaluate("document.getAnimations().length") == 0
    button(page, "Stop").click()
    expect_idle(page)
