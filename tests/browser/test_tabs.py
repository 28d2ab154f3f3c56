"""One conversation in two tabs, or on several devices: all show the same state without a reload."""

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.chat_page import (
    busy_status,
    button,
    expect_idle,
    ignore_failed_requests,
    is_prompt,
    messages,
    open_second_tab,
    prompt_input,
    send_and_capture,
    send_prompt,
)
from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, Words, last_line, line
from tests.program import Program

REPLY = "w0 w1 w2 w3 w4"
BEGINNING = ["Begin", REPLY]


@pytest.fixture
def tabs(page: Page, ollama: ScriptedOllama, browser_errors: list[str]) -> tuple[Page, Page]:
    send_prompt(page, "Begin")
    expect_idle(page)
    expect(messages(page)).to_have_text(BEGINNING)
    other = open_second_tab(page, browser_errors)
    return page, other


def expect_both(tabs: tuple[Page, Page], texts: list[str]) -> None:
    for tab in tabs:
        expect(messages(tab)).to_have_text([*BEGINNING, *texts])


def test_a_prompt_and_its_reply_are_streamed_to_a_second_tab(tabs: tuple[Page, Page], ollama: ScriptedOllama) -> None:
    first, second = tabs
    more, end = Gate("more words"), Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(line("upon")), end, Lines(line(" a time"), last_line()))
    send_prompt(first, "Tell me a story")
    expect_both(tabs, ["Tell me a story", "Once"])
    expect(button(second, "Stop")).to_be_visible()
    more.open()
    expect_both(tabs, ["Tell me a story", "Once upon"])
    end.open()
    expect_both(tabs, ["Tell me a story", "Once upon a time"])
    for tab in tabs:
        expect_idle(tab)
    send_prompt(second, "Another")
    expect_both(tabs, ["Tell me a story", "Once upon a time", "Another", REPLY])
    assert len(ollama.generations) == 3


@pytest.mark.extended
def test_stopping_in_one_tab_shows_in_the_other(tabs: tuple[Page, Page], ollama: ScriptedOllama) -> None:
    first, second = tabs
    ollama.script(Head(), Lines(line("On and on")), Gate("the end"))
    send_prompt(first, "Hello")
    expect_both(tabs, ["Hello", "On and on"])
    button(second, "Stop").click()
    for tab in tabs:
        expect(tab.get_by_text("Stopped.")).to_be_visible()
        expect_idle(tab)
        expect(button(tab, "Continue")).to_be_visible()


@pytest.mark.extended
def test_a_continued_reply_grows_in_both_tabs(tabs: tuple[Page, Page], ollama: ScriptedOllama) -> None:
    first, second = tabs
    ollama.script(Head(), Lines(line("w0 "), line("w1 ")), Gate("the end"))
    send_prompt(first, "Hello")
    expect_both(tabs, ["Hello", "w0 w1"])
    button(second, "Stop").click()
    expect(button(first, "Continue")).to_be_visible()
    gate = Gate("the fourth word")
    ollama.default = (Words(hold={3: gate}),)
    button(first, "Continue").click()
    expect_both(tabs, ["Hello", "w0 w1 w2"])
    expect(button(second, "Stop")).to_be_visible()
    gate.open()
    expect_both(tabs, ["Hello", REPLY])
    for tab in tabs:
        expect_idle(tab)
        expect(button(tab, "Continue")).to_have_count(0)
        expect(tab.get_by_text("Stopped.")).to_have_count(0)


def stop_after_two_words(tabs: tuple[Page, Page], ollama: ScriptedOllama) -> None:
    """Send a prompt in the first tab and stop its reply; both tabs offer to continue it."""
    ollama.script(Head(), Lines(line("w0 "), line("w1 ")), Gate("the end"))
    send_prompt(tabs[0], "Hello")
    button(tabs[0], "Stop").click()
    for tab in tabs:
        expect(button(tab, "Continue")).to_be_visible()


@pytest.mark.extended
def test_a_reply_continued_while_a_tab_was_away_is_shown_whole(
    tabs: tuple[Page, Page], ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    first, second = tabs
    stop_after_two_words(tabs, ollama)
    second.route("**/llmchat?*", lambda route: route.abort())
    button(first, "Continue").click()
    expect(messages(first)).to_have_text([*BEGINNING, "Hello", REPLY])
    expect_idle(first)
    second.unroute("**/llmchat?*")
    second.evaluate("dispatchEvent(new Event('focus'))")
    expect_both(tabs, ["Hello", REPLY])
    expect(second.get_by_text("Stopped.")).to_have_count(0)
    ignore_failed_requests(browser_errors)


@pytest.mark.extended
def test_continue_in_two_tabs_at_once_continues_once(
    tabs: tuple[Page, Page], ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    first, second = tabs
    stop_after_two_words(tabs, ollama)
    gate = Gate("the fourth word")
    ollama.default = (Words(hold={3: gate}),)
    second.route("**/llmchat?*", lambda route: route.abort())  # it does not see that the first tab was faster
    button(first, "Continue").click()
    expect(messages(first)).to_have_text([*BEGINNING, "Hello", "w0 w1 w2"])
    button(second, "Continue").click()
    second.unroute("**/llmchat?*")
    second.evaluate("dispatchEvent(new Event('focus'))")
    expect_both(tabs, ["Hello", "w0 w1 w2"])
    count = len(ollama.generations)
    gate.open()
    expect_both(tabs, ["Hello", REPLY])
    for tab in tabs:
        expect_idle(tab)
    assert len(ollama.generations) == count
    ignore_failed_requests(browser_errors)


@pytest.mark.extended
def test_edit_and_regenerate_show_in_the_other_tab(tabs: tuple[Page, Page], ollama: ScriptedOllama) -> None:
    first, second = tabs
    send_prompt(first, "Too")
    expect_both(tabs, ["Too", REPLY])
    expect_idle(second)
    button(second, "Edit").click()
    second.get_by_label("Edit message", exact=True).fill("Two")
    button(second, "Save and send").click()
    expect_both(tabs, ["Two", REPLY])
    expect_idle(first)
    ollama.script(Head(), Lines(line("Better"), last_line()))
    button(first, "Regenerate").click()
    expect_both(tabs, ["Two", "Better"])
    assert len(ollama.generations) == 4


def test_an_unsent_prompt_shows_in_a_second_tab_and_is_recorded_once(
    page: Page, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    def refuse(route: Route) -> None:
        if is_prompt(route.request):
            route.abort()
        else:
            route.continue_()

    page.context.route("**/llmchat", refuse)
    send_prompt(page, "Hello")
    expect(busy_status(page)).to_contain_text("Not sent yet.")
    other = open_second_tab(page, browser_errors)
    expect(busy_status(other)).to_contain_text("Not sent yet.")
    page.context.unroute("**/llmchat")
    for tab in (page, other):
        expect(messages(tab)).to_have_text(["Hello", REPLY])
        expect_idle(tab)
    assert len(ollama.generations) == 1
    ignore_failed_requests(browser_errors)


@pytest.mark.extended
def test_changes_by_another_device_show_on_focus(page: Page, chatterd: Program, ollama: ScriptedOllama) -> None:
    appid = send_and_capture(page, "One")[1]["appID"]
    expect_idle(page)
    end = Gate("the end")
    ollama.script(Head(), Lines(line("From the ")), end, Lines(line("phone"), last_line()))
    with Client(chatterd.url, appid) as client:
        path = client.begin("Two")
        prompt_input(page).press_sequentially("a draft")
        page.evaluate("dispatchEvent(new Event('focus'))")
        expect(messages(page)).to_have_text(["One", REPLY, "Two", "From the"])
        expect(prompt_input(page)).to_be_focused()
        expect(prompt_input(page)).to_have_value("a draft")
        end.open()
        expect(messages(page)).to_have_text(["One", REPLY, "Two", "From the phone"])
        client.view(path)
        assert client.http.delete("/llmchat", params={"appID": appid}).status_code == 204
        page.evaluate("dispatchEvent(new Event('focus'))")
        expect(messages(page)).to_have_count(0)


@pytest.mark.extended
def test_a_refresh_without_changes_keeps_elements_and_focus(page: Page, ollama: ScriptedOllama) -> None:
    send_prompt(page, "Hello")
    expect_idle(page)
    button(page, "Copy").first.focus()
    first = messages(page).first.element_handle()
    with page.expect_response("**/llmchat?*"):
        page.evaluate("dispatchEvent(new Event('focus'))")
    with page.expect_response("**/llmchat?*"):
        page.evaluate("dispatchEvent(new Event('focus'))")
    expect(button(page, "Copy").first).to_be_focused()
    assert first.evaluate("element => element.isConnected")
