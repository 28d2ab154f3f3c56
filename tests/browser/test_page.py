"""The chat page: sending prompts and showing replies."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chat_page import messages, prompt_input, send_prompt
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, failure, last_line, line

PIXELS_BELOW = """(({scrollHeight, scrollTop, clientHeight}) => scrollHeight - scrollTop - clientHeight)(
    document.querySelector("main"))"""
"""JavaScript: the pixels between the visible part and the end of the conversation."""


def test_send_stream_stop_and_reload(page: Page, ollama: ScriptedOllama) -> None:
    more, never = Gate("more words"), Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(line("upon a\n  time")), never)
    send_prompt(page, "Tell me a story")
    expect(messages(page)).to_have_text(["Tell me a story", "Once"])
    more.open()
    expect(messages(page).nth(1)).to_have_text("Once upon a time")

    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    ollama.arrival(0).wait().closed.wait()
    expect(page.get_by_role("button", name="Send")).to_be_visible()

    page.reload()
    expect(messages(page)).to_have_text(["Tell me a story", "Once upon a time"])
    assert messages(page).nth(1).inner_text() == "Once upon a\ntime"


def test_a_reload_during_a_reply_resumes_it_without_duplicates(page: Page, ollama: ScriptedOllama) -> None:
    more = Gate("more words")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(line("upon a time"), last_line()))
    send_prompt(page, "Tell me a story")
    expect(messages(page).nth(1)).to_have_text("Once")
    page.reload()
    expect(messages(page)).to_have_text(["Tell me a story", "Once"])
    more.open()
    expect(messages(page)).to_have_text(["Tell me a story", "Once upon a time"])
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.reload()
    expect(messages(page)).to_have_text(["Tell me a story", "Once upon a time"])
    assert len(ollama.generations) == 1


def test_an_error_is_shown_and_can_be_retried(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(failure(404, "model 'fake' not found"))
    send_prompt(page, "Hello")
    expect(page.get_by_role("alert")).to_contain_text("model 'fake' not found")
    page.get_by_role("button", name="Try again").click()
    expect(messages(page)).to_have_text(["Hello", "w0 w1 w2 w3 w4"])
    expect(page.get_by_role("alert")).to_have_count(0)
    assert [one["content"] for one in ollama.generations[1].json["messages"]] == ["Hello"]


@pytest.mark.extended
def test_an_error_keeps_the_text_so_far(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("w0 w1 "), b'{"error":"out of memory"}'))
    send_prompt(page, "Hello")
    expect(messages(page).nth(1)).to_contain_text("w0 w1")
    expect(page.get_by_role("alert")).to_contain_text("out of memory")
    page.get_by_role("button", name="Try again").click()
    expect(messages(page)).to_have_text(["Hello", "w0 w1 w2 w3 w4"])


def test_enter_sends_and_shift_enter_inserts_a_new_line(page: Page, ollama: ScriptedOllama) -> None:
    prompt_input(page).press_sequentially("one")
    prompt_input(page).press("Shift+Enter")
    prompt_input(page).press_sequentially("two")
    prompt_input(page).dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    expect(prompt_input(page)).to_have_value("one\ntwo")
    prompt_input(page).press("Enter")
    expect(messages(page)).to_have_text(["one two", "w0 w1 w2 w3 w4"])
    expect(prompt_input(page)).to_have_value("")
    assert ollama.generations[0].json["messages"][0]["content"] == "one\ntwo"


def test_thinking_is_collapsed(page: Page, ollama: ScriptedOllama) -> None:
    thought = line("", message={"thinking": "A greeting. I greet back."})
    ollama.script(Head(), Lines(thought, line("Hello!"), last_line()))
    send_prompt(page, "Hi")
    for _ in ("live", "reloaded"):
        expect(messages(page).nth(1)).to_contain_text("Hello!")
        expect(page.get_by_text("A greeting.")).to_be_hidden()
        page.get_by_text("Thinking").click()
        expect(page.get_by_text("A greeting.")).to_be_visible()
        page.reload()


def test_escape_stops_a_reply_and_a_new_chat_is_empty(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("On and on")), Gate("the end"))
    send_prompt(page, "Hello")
    expect(messages(page).nth(1)).to_have_text("On and on")
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()
    page.get_by_role("button", name="New chat").click()
    expect(messages(page)).to_have_count(0)
    send_prompt(page, "Another topic")
    expect(messages(page)).to_have_text(["Another topic", "w0 w1 w2 w3 w4"])
    assert len(ollama.generations[1].json["messages"]) == 1


@pytest.mark.extended
def test_the_page_fits_a_narrow_window(page: Page, ollama: ScriptedOllama) -> None:
    page.set_viewport_size({"width": 320, "height": 568})
    ollama.script(Head(), Lines(line("x" * 500), last_line()))
    send_prompt(page, "y" * 200)
    expect(messages(page).nth(1)).to_have_text("x" * 500)
    widths = "[document.documentElement.scrollWidth, document.querySelector('main').scrollWidth]"
    assert page.evaluate(widths) == [320, 320]


def test_the_page_follows_the_end_until_scrolled_up(page: Page, ollama: ScriptedOllama) -> None:
    more = Gate("more words")
    much = line("".join([f"Paragraph {number}\n\n" for number in range(40)]))
    ollama.script(Head(), Lines(much, much), more, Lines(much, last_line("The end")))
    to_end = page.get_by_label("Scroll to the end")
    send_prompt(page, "Much")
    more.reached.wait()
    expect(messages(page).nth(1)).to_contain_text("Paragraph 39")
    page.wait_for_function(f"{PIXELS_BELOW} < 2")
    expect(to_end).to_be_hidden()

    page.locator("main").hover()
    page.mouse.wheel(0, -300)
    expect(to_end).to_be_visible()
    before = page.evaluate("document.querySelector('main').scrollTop")
    more.open()
    expect(messages(page).nth(1)).to_contain_text("The end")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert page.evaluate("document.querySelector('main').scrollTop") == before
    to_end.click()
    page.wait_for_function(f"{PIXELS_BELOW} < 2")
