"""The chat page in Chromium: what a person does there, and what a person sees."""

from playwright.sync_api import Locator, Page, expect

from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, failure, last_line, line

PIXELS_BELOW = """(({scrollHeight, scrollTop, clientHeight}) => scrollHeight - scrollTop - clientHeight)(
    document.querySelector("main"))"""
"""How much of the conversation is below what is in sight, in JavaScript."""


def box(page: Page) -> Locator:
    """Where a prompt is written."""
    return page.get_by_label("Message")


def say(page: Page, text: str) -> None:
    """Send a prompt."""
    box(page).fill(text)
    box(page).press("Enter")


def messages(page: Page) -> Locator:
    """All messages on the page, oldest first."""
    return page.get_by_role("article")


def test_type_watch_stop_reload(page: Page, ollama: ScriptedOllama) -> None:
    more, never = Gate("more words"), Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(line("upon a\n  time")), never)
    say(page, "Tell me a story")
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


def test_reload_during_a_reply_shows_it_whole_and_once(page: Page, ollama: ScriptedOllama) -> None:
    more = Gate("more words")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(line("upon a time"), last_line()))
    say(page, "Tell me a story")
    expect(messages(page).nth(1)).to_have_text("Once")
    page.reload()
    expect(messages(page)).to_have_text(["Tell me a story", "Once"])
    more.open()
    expect(messages(page)).to_have_text(["Tell me a story", "Once upon a time"])
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.reload()
    expect(messages(page)).to_have_text(["Tell me a story", "Once upon a time"])
    assert len(ollama.requests) == 1


def test_an_error_is_said_in_words_and_can_be_tried_again(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(failure(404, "model 'fake' not found"))
    say(page, "Hello")
    expect(page.get_by_role("alert")).to_contain_text("model 'fake' not found")
    page.get_by_role("button", name="Try again").click()
    expect(messages(page)).to_have_text(["Hello", "w0 w1 w2 w3 w4"])
    expect(page.get_by_role("alert")).to_have_count(0)
    assert [one["content"] for one in ollama.requests[1].json["messages"]] == ["Hello"]


def test_an_error_in_the_middle_keeps_what_was_said(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("w0 w1 "), b'{"error":"out of memory"}'))
    say(page, "Hello")
    expect(messages(page).nth(1)).to_contain_text("w0 w1")
    expect(page.get_by_role("alert")).to_contain_text("out of memory")
    page.get_by_role("button", name="Try again").click()
    expect(messages(page)).to_have_text(["Hello", "w0 w1", "w2 w3 w4"])


def test_enter_sends_and_shift_enter_breaks_the_line(page: Page, ollama: ScriptedOllama) -> None:
    box(page).press_sequentially("one")
    box(page).press("Shift+Enter")
    box(page).press_sequentially("two")
    box(page).dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    expect(box(page)).to_have_value("one\ntwo")
    box(page).press("Enter")
    expect(messages(page)).to_have_text(["one two", "w0 w1 w2 w3 w4"])
    expect(box(page)).to_have_value("")
    assert ollama.requests[0].json["messages"][0]["content"] == "one\ntwo"


def test_thinking_is_folded_away(page: Page, ollama: ScriptedOllama) -> None:
    thought = line("", message={"thinking": "A greeting. I greet back."})
    ollama.script(Head(), Lines(thought, line("Hello!"), last_line()))
    say(page, "Hi")
    for _ in ("while it comes", "from the history"):
        expect(messages(page).nth(1)).to_contain_text("Hello!")
        expect(page.get_by_text("A greeting.")).to_be_hidden()
        page.get_by_text("Thinking").click()
        expect(page.get_by_text("A greeting.")).to_be_visible()
        page.reload()


def test_escape_stops_and_a_new_chat_begins_empty(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("On and on")), Gate("the end"))
    say(page, "Hello")
    expect(messages(page).nth(1)).to_have_text("On and on")
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()
    page.get_by_role("button", name="New chat").click()
    expect(messages(page)).to_have_count(0)
    say(page, "Another matter")
    expect(messages(page)).to_have_text(["Another matter", "w0 w1 w2 w3 w4"])
    assert len(ollama.requests[1].json["messages"]) == 1


def test_nothing_sticks_out_of_a_narrow_window(page: Page, ollama: ScriptedOllama) -> None:
    page.set_viewport_size({"width": 320, "height": 568})
    ollama.script(Head(), Lines(line("x" * 500), last_line()))
    say(page, "y" * 200)
    expect(messages(page).nth(1)).to_have_text("x" * 500)
    widths = "[document.documentElement.scrollWidth, document.querySelector('main').scrollWidth]"
    assert page.evaluate(widths) == [320, 320]


def test_the_newest_words_stay_in_sight_until_one_scrolls_up(page: Page, ollama: ScriptedOllama) -> None:
    more = Gate("more words")
    much = line("".join([f"Paragraph {number}\n\n" for number in range(40)]))
    ollama.script(Head(), Lines(much, much), more, Lines(much, last_line("The end")))
    to_end = page.get_by_label("Go to the newest words")
    say(page, "Much")
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
