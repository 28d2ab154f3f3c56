"""Rendering of messages, streamed and from the history: Markdown, code, links, math, thinking, text direction."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser.chat_page import expect_rendered, messages, send_prompt
from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program

TEXT = r"""# Title

Some **bold** and *soft* words, `a_b_c`, ~~gone~~.
The next line.

1. one
2. two
   - inner

> quoted
> words

| Left | Right |
|------|------:|
| a    |     1 |

```python
def twice(x):
    return x * 2
```

Between.

3. three
"""


@pytest.fixture(autouse=True)
def _ready(page: Page) -> None:
    expect(page.locator("#welcome")).to_be_visible()


@pytest.fixture
def reply(page: Page) -> Locator:
    """The newest message."""
    return messages(page).last.locator(".markdown")


def answer(page: Page, ollama: ScriptedOllama, text: str, *, size: int = 7, number: int = 1) -> None:
    """Stream the conversation's reply of this number in lines of ``size`` characters, and wait for its end."""
    pieces = [line(text[at : at + size]) for at in range(0, len(text), size)]
    ollama.script(Head(), Lines(*pieces, last_line()))
    send_prompt(page, "Show me")
    expect(messages(page)).to_have_count(2 * number)
    expect(page.locator(".streaming")).to_have_count(0)


def live_and_reloaded(page: Page) -> Iterator[str]:
    """Run a check after streaming, and again after a reload."""
    yield "live"
    page.reload()
    expect(messages(page)).not_to_have_count(0, timeout=30_000)
    expect_rendered(page)
    yield "reloaded"


def markup(reply: Locator) -> str:
    """The HTML of a reply."""
    return str(reply.evaluate("(element) => element.innerHTML"))


def test_markdown_is_rendered(page: Page, reply: Locator, ollama: ScriptedOllama) -> None:
    answer(page, ollama, TEXT)
    seen = []
    for _ in live_and_reloaded(page):
        expect(reply.get_by_role("heading", level=1)).to_have_text("Title")
        expect(reply.locator("strong")).to_have_text("bold")
        expect(reply.locator("em")).to_have_text("soft")
        expect(reply.locator("p > code")).to_have_text("a_b_c")
        expect(reply.locator("del")).to_have_text("gone")
        assert "gone.\nThe next line." in reply.inner_text()
        expect(reply.locator("ol").first.locator("> li")).to_have_count(2)
        expect(reply.locator("ol li ul li")).to_have_text("inner")
        expect(reply.locator("ol").last).to_have_attribute("start", "3")
        expect(reply.locator("blockquote")).to_contain_text("quoted")
        expect(reply.get_by_role("columnheader")).to_have_text(["Left", "Right"])
        expect(reply.get_by_role("cell")).to_have_text(["a", "1"])
        assert reply.get_by_role("cell").last.evaluate("cell => getComputedStyle(cell).textAlign") in ("right", "end")
        expect(reply.locator(".hljs-keyword").first).to_have_text("def")
        seen.append(markup(reply))
    assert seen[0] == seen[1]


def test_a_prompt_is_shown_as_plain_text(page: Page, ollama: ScriptedOllama) -> None:
    prompt = "# no *title*\n  <b>two</b> spaces\n\n- $x_1$"
    send_prompt(page, prompt)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    for _ in live_and_reloaded(page):
        assert messages(page).first.inner_text() == prompt
        expect(messages(page).first.locator("b, h1, li")).to_have_count(0)


def test_code_has_a_language_label_highlighting_and_a_copy_button(
    page: Page, reply: Locator, ollama: ScriptedOllama, context: BrowserContext
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    code = "if (a < b && c) {\n\treturn '<b>';\n}"
    answer(page, ollama, f"- Item:\n\n  ```js\n  let x = 1\n  ```\n\n```js title=\n{code}\n```\n\n```\nplain\n```\n")
    for _ in live_and_reloaded(page):
        expect(reply.locator(".code-language")).to_have_text(["js", "js", ""])
        expect(reply.locator("li .hljs-keyword")).to_have_text("let")
        expect(reply.locator(".hljs-keyword").last).to_have_text("return")
        block = reply.locator(".code-block").nth(1)
        block.get_by_role("button", name="Copy").click()
        expect(block.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == code
        expect(block.get_by_role("button", name="Copy", exact=True)).to_be_visible()


@pytest.mark.extended
def test_selection_focus_and_scroll_position_are_kept_while_streaming(
    page: Page, reply: Locator, ollama: ScriptedOllama
) -> None:
    more, never = Gate("more words"), Gate("the end")
    wide = "x = '" + "long " * 80 + "'\n"
    ollama.script(Head(), Lines(line("Words.\n\n```py\n" + wide)), more, Lines(line("y = 2\nz")), never)
    send_prompt(page, "Show me")
    expect(reply.locator("code .hljs-string")).to_be_visible()
    page.evaluate(
        """() => {
            document.querySelector("pre").scrollLeft = 50;
            getSelection().selectAllChildren(document.querySelector(".hljs-string"));
            document.querySelector(".copy-code").focus();
        }"""
    )
    more.open()
    expect(reply.locator("code")).to_contain_text("y = 2")
    assert page.evaluate("document.querySelector('pre').scrollLeft") == 50
    assert page.evaluate("getSelection().toString().length") > 300
    expect(reply.get_by_role("button", name="Copy")).to_be_focused()


PARTIAL_MARKDOWN = [
    ("Some **bold wor", "Some bold wor", "strong", "bold wor"),
    ("Some **bold*", "Some bold", "strong", "bold"),
    ("Some **", "Some", "strong", None),
    ("Run `make te", "Run make te", "code", "make te"),
    ("See [the page](https://example.org/lo", "See the page", "a", None),
    ("A *soft", "A soft", "em", "soft"),
    ("5 * 3 = ", "5 * 3 =", "em", None),
    ("Words\n-", "Words", "h2, li", None),
    ("Words\n\n``", "Words", "code", None),
    ("Words\n\n```pyth", "Words", "code", None),
    ("Words\n\n| a | b |\n|--", "Words", "table", None),
    ("- one\n- **tw", "one\ntw", "li strong", "tw"),
    ("Maths \\(a_1 * b", "Maths \\(a_1 * b", ".math", "\\(a_1 * b"),
    ("Words <b", "Words", "b", None),
]


def test_incomplete_markdown_is_rendered_without_flicker(page: Page, reply: Locator, ollama: ScriptedOllama) -> None:
    for number, (text, shown, selector, content) in enumerate(PARTIAL_MARKDOWN, 1):
        never = Gate("the end")
        ollama.script(Head(), Lines(line("Begin.\n\n"), line(text)), never)
        send_prompt(page, "Show me")
        expect(messages(page), text).to_have_count(2 * number)
        expect(reply.locator(".block"), text).to_have_count(2)
        expect(reply.locator(".block").last, text).to_contain_text(shown.split("\n")[-1])
        assert reply.locator(".block").last.inner_text().strip() == shown
        if content is None:
            expect(reply.locator(selector), text).to_have_count(0)
        else:
            expect(reply.locator(selector), text).to_have_text(content)
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("button", name="Send")).to_be_visible()


@pytest.mark.extended
def test_a_stopped_reply_shows_all_its_text(page: Page, reply: Locator, ollama: ScriptedOllama) -> None:
    never = Gate("the end")
    ollama.script(Head(), Lines(line("Words\n\n| a | b |\n|--")), never)
    send_prompt(page, "Show me")
    expect(reply).to_have_text("Words")
    page.get_by_role("button", name="Stop").click()
    for _ in live_and_reloaded(page):
        expect(reply).to_contain_text("| a | b |")
        expect(reply).to_contain_text("|--")


MATH = [
    "$a_1 * b_2 * c_3$",
    r"\(x_1^2 * \alpha * y_2\)",
    r"$$\sum_{i=1}^n x_i * y_i * z_i$$",
    "\\[\n- a_1 \\\\\n+ b_2 * c_3 * <d>\n\\]",
]


def test_math_is_kept_as_source_text(page: Page, ollama: ScriptedOllama) -> None:
    for number, math in enumerate(MATH, 1):
        text = f"Let **us** see {math} in words.\n\n{math}\n\nIt costs $5 and **really** $10_000_000."
        answer(page, ollama, text, size=3, number=number)
    for _ in live_and_reloaded(page):
        expect(messages(page)).to_have_count(2 * len(MATH))
        for number, math in enumerate(MATH):
            reply = messages(page).nth(2 * number + 1).locator(".markdown")
            expect(reply.locator(".math"), math).to_have_count(2)
            assert [one.strip() for one in reply.locator(".math").all_inner_texts()] == [math, math]
            expect(reply.locator("strong"), math).to_have_text(["us", "really"])
            expect(reply, math).to_contain_text("It costs $5 and really $10_000_000.")
            expect(reply.locator("em, li"), math).to_have_count(0)


def test_links_open_in_a_new_tab_and_images_become_links(page: Page, reply: Locator, ollama: ScriptedOllama) -> None:
    answer(
        page,
        ollama,
        "[one](https://one.example) <https://two.example> ![a cat](https://cats.example/cat.png) "
        "[mail](mailto:a@b.example) [six][6] ![](https://cats.example/b.png) <img src=https://cats.example/c.png>\n\n"
        "[6]: https://six.example\n",
    )
    for _ in live_and_reloaded(page):
        links = reply.get_by_role("link")
        expect(links).to_have_text(["one", "https://two.example", "a cat", "mail", "six", "Image"])
        expect(links.nth(2)).to_have_attribute("href", "https://cats.example/cat.png")
        expect(links.nth(4)).to_have_attribute("href", "https://six.example")
        for link in links.all():
            expect(link).to_have_attribute("target", "_blank")
            expect(link).to_have_attribute("rel", "noopener noreferrer")
        expect(reply.locator("img")).to_have_count(0)


@pytest.mark.extended
def test_thinking_shows_its_duration(page: Page, ollama: ScriptedOllama) -> None:
    speak, end = Gate("the words"), Gate("the end")
    thought = line("", message={"thinking": "A greeting.\n*Hm.*"})
    ollama.script(Head(), Lines(thought), speak, Lines(line("Hello")), end, Lines(last_line("!")))
    page.clock.install()
    send_prompt(page, "Hi")
    summary = messages(page).nth(1).locator("summary")
    expect(summary).to_have_text("Thinking…")
    page.clock.run_for(4000)
    speak.open()
    expect(summary).to_have_text(re.compile(r"Thought for ([4-9]|\d\d) s"))
    summary.click()
    expect(page.get_by_text("*Hm.*")).to_be_visible()
    end.open()
    page.clock.run_for(1000)
    expect(messages(page).nth(1)).to_contain_text("Hello!")
    page.reload()
    expect(messages(page).nth(1).locator("summary")).to_have_text("Thinking")


def test_text_direction_is_detected_per_block(page: Page, reply: Locator, ollama: ScriptedOllama) -> None:
    answer(page, ollama, "English.\n\nهذه فقرة مع `code`.\n\n- عنصر\n\n```\nكود\n```\n")
    direction = "element => getComputedStyle(element).direction"
    for _ in live_and_reloaded(page):
        assert [one.evaluate(direction) for one in reply.locator("p").all()] == ["ltr", "rtl"]
        assert reply.locator("ul").evaluate(direction) == "rtl"
        assert reply.locator("pre").evaluate(direction) == "ltr"


@pytest.mark.extended
def test_wide_tables_and_code_scroll_horizontally(page: Page, reply: Locator, ollama: ScriptedOllama) -> None:
    page.set_viewport_size({"width": 320, "height": 568})
    row = "|" + " some words |" * 8
    answer(page, ollama, f"{row}\n|{'---|' * 8}\n{row}\n\n```\n{'code ' * 60}\n```\n\n`{'y' * 300}` {'z' * 300}\n")
    for _ in live_and_reloaded(page):
        widths = "[document.documentElement.scrollWidth, document.querySelector('main').scrollWidth]"
        assert page.evaluate(widths) == [320, 320]
        for name in ("Table", "Code"):
            frame = reply.get_by_role("group", name=name)
            assert frame.evaluate("frame => frame.scrollWidth > frame.clientWidth")
            frame.focus()
            page.keyboard.press("ArrowRight")
            expect(frame).not_to_have_js_property("scrollLeft", 0)


@pytest.mark.extended
def test_the_position_is_kept_while_earlier_messages_are_rendered(page: Page, chatterd: Program) -> None:
    texts = [f"## Reply {number}\n\n- **one**\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |" for number in range(60)]
    conversation = [{"role": role, "content": text} for text in texts for role in ("assistant", "user")]
    with Client(chatterd.url) as client:
        client.ask(messages=conversation)
    page.goto(f"/#c/{client.appid}")
    page.reload()
    expect(messages(page)).to_have_count(50)
    expect_rendered(page)
    page.locator("main").evaluate("main => main.scrollTo(0, 0)")
    first = messages(page).first
    expect(first).to_be_in_viewport()
    handle = first.element_handle()
    assert handle
    before = handle.bounding_box()
    page.get_by_role("button", name="Load earlier messages").click()
    expect(messages(page)).to_have_count(100)
    expect_rendered(page)
    after = handle.bounding_box()
    assert before and after and abs(before["y"] - after["y"]) < 60, "the button above it may have gone"
