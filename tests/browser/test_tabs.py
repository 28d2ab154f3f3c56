"""Two tabs, and other devices, on one conversation: they agree without a reload."""

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.chat_page import (
    box,
    button,
    expect_idle,
    forgive_failed_requests,
    is_prompt,
    messages,
    open_beside,
    say,
    say_and_catch,
    status,
)
from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program

REPLY = "w0 w1 w2 w3 w4"
BEGINNING = ["Begin", REPLY]


@pytest.fixture
def tabs(page: Page, ollama: ScriptedOllama, complaints: list[str]) -> tuple[Page, Page]:
    say(page, "Begin")
    expect_idle(page)
    expect(messages(page)).to_have_text(BEGINNING)
    other = open_beside(page, complaints)
    return page, other


def expect_both(tabs: tuple[Page, Page], texts: list[str]) -> None:
    for tab in tabs:
        expect(messages(tab)).to_have_text([*BEGINNING, *texts])


def test_a_prompt_and_its_reply_show_in_the_other_tab_while_they_come(
    tabs: tuple[Page, Page], ollama: ScriptedOllama
) -> None:
    here, there = tabs
    more, end = Gate("more words"), Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(line("upon")), end, Lines(line(" a time"), last_line()))
    say(here, "Tell me a story")
    expect_both(tabs, ["Tell me a story", "Once"])
    expect(button(there, "Stop")).to_be_visible()
    more.open()
    expect_both(tabs, ["Tell me a story", "Once upon"])
    end.open()
    expect_both(tabs, ["Tell me a story", "Once upon a time"])
    for tab in tabs:
        expect_idle(tab)
    say(there, "Another")
    expect_both(tabs, ["Tell me a story", "Once upon a time", "Another", REPLY])
    assert len(ollama.requests) == 3


def test_a_stop_in_one_tab_is_seen_in_the_other(tabs: tuple[Page, Page], ollama: ScriptedOllama) -> None:
    here, there = tabs
    ollama.script(Head(), Lines(line("On and on")), Gate("the end"))
    say(here, "Hello")
    expect_both(tabs, ["Hello", "On and on"])
    button(there, "Stop").click()
    for tab in tabs:
        expect(tab.get_by_text("Stopped.")).to_be_visible()
        expect_idle(tab)
        expect(button(tab, "Go on")).to_be_visible()
    button(here, "Go on").click()
    for tab in tabs:
        expect(messages(tab)).to_have_count(5)
        expect_idle(tab)
        expect(button(tab, "Go on")).to_have_count(0)


def test_an_edit_and_another_answer_are_seen_in_the_other_tab(tabs: tuple[Page, Page], ollama: ScriptedOllama) -> None:
    here, there = tabs
    say(here, "Too")
    expect_both(tabs, ["Too", REPLY])
    expect_idle(there)
    button(there, "Edit").click()
    there.get_by_label("Your words").fill("Two")
    button(there, "Ask again").click()
    expect_both(tabs, ["Two", REPLY])
    expect_idle(here)
    ollama.script(Head(), Lines(line("Better"), last_line()))
    button(here, "Another answer").click()
    expect_both(tabs, ["Two", "Better"])
    assert len(ollama.requests) == 4


def test_an_unsent_prompt_is_seen_in_a_second_tab_and_taken_once(
    page: Page, ollama: ScriptedOllama, complaints: list[str]
) -> None:
    def refuse(route: Route) -> None:
        if is_prompt(route.request):
            route.abort()
        else:
            route.continue_()

    page.context.route("**/llmchat", refuse)
    say(page, "Hello")
    expect(status(page)).to_contain_text("Not sent yet.")
    other = open_beside(page, complaints)
    expect(status(other)).to_contain_text("Not sent yet.")
    page.context.unroute("**/llmchat")
    for tab in (page, other):
        expect(messages(tab)).to_have_text(["Hello", REPLY])
        expect_idle(tab)
    assert len(ollama.requests) == 1
    forgive_failed_requests(complaints)


def test_what_another_device_did_is_seen_when_one_looks_again(
    page: Page, chatterd: Program, ollama: ScriptedOllama
) -> None:
    appid = say_and_catch(page, "One")[1]["appID"]
    expect_idle(page)
    end = Gate("the end")
    ollama.script(Head(), Lines(line("From the ")), end, Lines(line("phone"), last_line()))
    with Client(chatterd.url, appid) as client:
        path = client.begin("Two")
        box(page).press_sequentially("half a thought")
        page.evaluate("dispatchEvent(new Event('focus'))")
        expect(messages(page)).to_have_text(["One", REPLY, "Two", "From the"])
        expect(box(page)).to_be_focused()
        expect(box(page)).to_have_value("half a thought")
        end.open()
        expect(messages(page)).to_have_text(["One", REPLY, "Two", "From the phone"])
        client.view(path)
        assert client.http.delete("/llmchat", params={"appID": appid}).status_code == 204
        page.evaluate("dispatchEvent(new Event('focus'))")
        expect(messages(page)).to_have_count(0)


def test_a_look_at_the_server_moves_nothing(page: Page, ollama: ScriptedOllama) -> None:
    say(page, "Hello")
    expect_idle(page)
    button(page, "Copy").first.focus()
    first = messages(page).first.element_handle()
    with page.expect_response("**/llmchat?*"):
        page.evaluate("dispatchEvent(new Event('focus'))")
    with page.expect_response("**/llmchat?*"):
        page.evaluate("dispatchEvent(new Event('focus'))")
    expect(button(page, "Copy").first).to_be_focused()
    assert first.evaluate("element => element.isConnected")
