"""Text whose parsing or highlighting takes minutes: the page stops it after its limit, and accepts keys meanwhile.

The page's clock is controlled, so that the limit passes when the test says so. The worker's time is real.
"""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.chat_page import expect_rendered, messages, prompt_input, send_prompt
from tests.browser.test_hostile_replies import check, reply, stream_reply
from tests.browser.test_messages import live_and_reloaded
from tests.database import eventually
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line

__all__ = ["reply"]  # a fixture

TICK = 1_100
"""Milliseconds, a little more than a tick of the page's limit for a job of the worker, which is two ticks."""

SLOW_EMPHASIS = "*a **a" * 3_300
"""marked searches for the end of each emphasis: 9 s on a fast machine."""

SLOW_CODE = f"```ini\n{'a' * 29_000}\n```\n\n**After.**"
"""highlight.js's grammar of INI files searches for `=` from each letter: 20 s on a fast machine."""

WATCH_WORKERS = """
    window.Worker = class extends Worker {
        constructor(...settings) {
            super(...settings);
            this.addEventListener("message", ({ data }) => {
                if (data.isHighlighting) document.documentElement.dataset.highlighting = "";
            });
        }
    };
"""

PATHOLOGICAL = {
    # After cmark's test/pathological_tests.py, within the page's limits.
    "nested strong emphasis": "*a **a " * 1_400 + "b" + " a** a*" * 1_400,
    "closers": "a_ " * 6_500,
    "openers": "_a " * 6_500,
    "link closers": "a]" * 9_900,
    "link openers": "[a" * 9_900,
    "mismatched openers and closers": "*a_ " * 4_900,
    "openers and closers multiple of 3": "a**b" + "c* " * 6_500,
    "link openers and emphasis closers": "[ a_" * 4_900,
    "links without end": "[a](<b" * 3_300,
    "brackets and parentheses": "[ (](" * 3_900,
    "images and links": "![[]()" * 3_300,
    "hard links": "**x [a*b**c*](d)" * 1_200,
    "nested brackets": "[" * 9_900 + "a" + "]" * 9_900,
    "nested quotes": "> " * 9_900 + "a",
    "nested lists": "".join("  " * depth + "* a\n" for depth in range(220)),
    "backticks": "".join("e" + "`" * length for length in range(1, 195)),
    "unclosed comments": "</" + "<!--" * 4_900,
    "unclosed CDATA": "a <![CDATA[" * 1_800,
    "unclosed instructions": "a <?" * 4_900,
    "unclosed declarations": "a <!A " * 3_300,
    "unclosed tags": "<a " * 6_600,
    "blank lines in lists": "- " * 3_000 + "x" + "\n" * 20_000,
    "many definitions": "".join(f"[{number}]: u\n" for number in range(3_000)) + "\n" + "[0] " * 4_000,
    # Of GFM and of the page's extensions.
    "wide tables": f"|{'a|' * 8_000}\n|{'-|' * 8_000}\n|{'b|' * 8_000}",
    "long tables": "|a|\n|-|\n" + "|b|\n" * 11_000,
    "links of words": "http://a.b/ " * 1_600 + "a@b.c " * 100,
    "addresses": "a.b@" * 4_900,
    "strikethrough": "~a~~" * 4_900,
    "math": "\\[" * 9_900,
    "lines of math": "$$\n" * 6_600,
    "lines": "a\n" * 9_900,
    "flat lists": "- a\n" * 12_000,
    "bold lists": "- **a** [b](http://a.example)\n" * 1_600,
    "bold words": "**a** " * 3_300,
    "nested tags": "<b>" * 6_600,
    # Of the grammars of highlight.js.
    "template strings": "```js\n" + "`${" * 9_900,
    "numbers": "```js\n" + "1 " * 14_900,
    "rules": "```css\n" + "a{" * 14_900,
    "elements": "```xml\n" + "<a " * 9_900,
    "here documents": "```bash\n" + "<<A " * 7_400,
    "interpolations": "```swift\n" + '"\\(' * 9_900,
}


@pytest.fixture
def workers(page: Page) -> list[str]:
    """The URLs of the workers that the page started after its first."""
    started: list[str] = []
    page.on("worker", lambda worker: started.append(worker.url))
    return started


def begin_slow_reply(page: Page, ollama: ScriptedOllama, text: str) -> Gate:
    """Stream a reply up to its end, and let the worker begin with its text."""
    begin, end = Gate("the text"), Gate("the end")
    ollama.script(Head(), begin, Lines(line(text)), end, Lines(last_line("\n\nThe end.")))
    page.clock.install()
    send_prompt(page, "Continue")
    expect(page.get_by_text("Waiting")).to_be_visible()
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 1)
    begin.open()
    expect(page.locator(".markdown")).to_have_attribute("aria-busy", "true")
    page.clock.run_for(50)  # a frame, in which the text is sent to the worker
    return end


def text_of(element: Locator) -> str:
    """The text of an element; a failed comparison of ``expect`` would print it dozens of times."""
    return str(element.evaluate("element => element.textContent"))


def wait_for_workers(page: Page, workers: list[str], count: int) -> None:
    """Wait until the page has started so many workers; Playwright hears of them while it waits for the page."""
    eventually(f"{count} workers", lambda: page.evaluate("0") == 0 and len(workers) == count)


@pytest.mark.extended
def test_keys_arrive_while_a_reply_is_parsed_which_ends_as_plain_text(
    page: Page, reply: Locator, ollama: ScriptedOllama, workers: list[str]
) -> None:
    end = begin_slow_reply(page, ollama, SLOW_EMPHASIS)
    prompt_input(page).press_sequentially("And now?")
    expect(prompt_input(page)).to_have_value("And now?")
    expect(page.locator(".markdown")).to_be_empty()

    page.clock.run_for(TICK)
    expect(reply.locator(".plain")).not_to_have_count(0)  # for now: the worker may still bring it to an end
    assert text_of(reply) == SLOW_EMPHASIS
    expect(reply).to_have_attribute("aria-busy", "true")
    assert not workers

    page.clock.run_for(TICK)
    expect(reply).not_to_have_attribute("aria-busy", "true")
    wait_for_workers(page, workers, 1)
    end.open()
    page.clock.resume()
    expect(page.locator(".streaming")).to_have_count(0)
    assert text_of(reply) == f"{SLOW_EMPHASIS}\n\nThe end."
    expect(reply.locator("em")).to_have_count(0)
    check(page, reply)

    ollama.script(Head(), Lines(line("Some **bold** words."), last_line()))
    prompt_input(page).press("Enter")
    expect(messages(page).last.locator("strong")).to_have_text("bold")
    assert len(workers) == 1


@pytest.mark.extended
def test_code_that_is_slow_to_highlight_stays_without_colours(
    page: Page, reply: Locator, ollama: ScriptedOllama, workers: list[str]
) -> None:
    page.add_init_script(WATCH_WORKERS)
    page.reload()
    end = begin_slow_reply(page, ollama, SLOW_CODE)
    expect(page.locator("html[data-highlighting]")).to_have_count(1)
    prompt_input(page).press_sequentially("And now?")
    expect(prompt_input(page)).to_have_value("And now?")
    expect(reply.locator("code")).to_have_count(0)
    page.clock.run_for(2 * TICK)
    page.clock.resume()
    expect(reply.locator("code")).to_have_count(1)
    assert text_of(reply.locator("code")) == "a" * 29_000
    expect(reply.locator("strong")).to_have_text("After.")
    wait_for_workers(page, workers, 2)  # of the reloaded page, and in place of the stopped one
    end.open()
    expect(page.locator(".streaming")).to_have_count(0)
    expect(reply.locator("p").last).to_have_text("The end.")
    assert len(workers) == 2
    check(page, reply)


@pytest.mark.extended
def test_other_messages_of_a_conversation_are_rendered_although_one_is_slow(
    page: Page, reply: Locator, ollama: ScriptedOllama
) -> None:
    stream_reply(page, ollama, "Some **bold** words.", pieces=1)
    stream_reply(page, ollama, SLOW_EMPHASIS, pieces=1, number=2)
    stream_reply(page, ollama, "Some *soft* words.", pieces=1, number=3)
    page.reload()
    expect(messages(page).nth(5).locator("em")).to_have_text("soft")
    expect(messages(page).nth(1).locator("strong")).to_have_text("bold")
    expect_rendered(page)
    assert text_of(messages(page).nth(3).locator(".markdown")) == SLOW_EMPHASIS


@pytest.mark.extended
@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_the_page_keeps_working_after_pathological_text(
    page: Page, reply: Locator, ollama: ScriptedOllama, name: str
) -> None:
    stream_reply(page, ollama, PATHOLOGICAL[name], pieces=10)
    for _ in live_and_reloaded(page):
        expect(reply).not_to_be_empty()
        check(page, reply)
        # The work of one frame: a block is shown at once, a list in parts.
        elements = "blocks => blocks.map(block => block.querySelectorAll('*:not(li, li *)').length)"
        assert max(reply.locator(".block").evaluate_all(elements)) <= 3_000
    send_prompt(page, "And now?")
    expect(messages(page).last).to_have_text("w0 w1 w2 w3 w4")


@pytest.mark.extended
def test_text_is_shown_as_plain_text_until_the_worker_can_be_loaded(page: Page, ollama: ScriptedOllama) -> None:
    page.route("**/worker.js", lambda route: route.abort())
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    end = Gate("the end")
    ollama.script(Head(), Lines(line("Some **bold** ")), end, Lines(last_line("words.")))
    send_prompt(page, "Continue")
    expect(messages(page).nth(1).locator(".plain")).to_have_text("Some **bold** ")
    end.open()
    expect(page.locator(".streaming")).to_have_count(0)
    expect(messages(page).nth(1).locator(".plain")).to_have_text("Some **bold** words.")
    page.unroute("**/worker.js")
    expect(messages(page).nth(1).locator("strong")).to_have_text("bold")
    expect(page.locator(".plain")).to_have_count(0)


@pytest.mark.extended
def test_languages_of_the_highlighter_that_do_not_arrive_leave_code_without_colours(
    page: Page, reply: Locator, ollama: ScriptedOllama, workers: list[str]
) -> None:
    """The worker waits for all of them for a time that is shorter than its limit, or all text would stay plain."""
    page.context.route("**/vendor/highlight/*.js", lambda route: None)
    stream_reply(page, ollama, "```js\nlet x\n```\n\nSome **bold** words.\n\n```python\nx = 1\n```", pieces=1)
    page.reload()
    expect(reply.locator("strong")).to_have_text("bold")
    expect_rendered(page)
    expect(reply.locator("code")).to_have_count(2)
    assert len(workers) == 1, "of the reloaded page"
    page.context.unroute_all(behavior="ignoreErrors")
