"""Lost connections and server restarts: every tab ends with the complete reply, without duplicates."""

from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.chat_page import (
    announcer,
    busy_status,
    button,
    expect_idle,
    ignore_failed_requests,
    messages,
    open_second_tab,
    record_errors,
    send_prompt,
)
from tests.fakes.network import Network
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, Words, last_line, line
from tests.program import Program

REPLY = "w0 w1 w2 w3 w4"


@pytest.fixture(scope="module")
def own_database_url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture(scope="module")
def browser(own_database_url: str, browser: Browser) -> Browser:
    """Chromium, started after the database is created: no other event loop can run in this thread at the same time."""
    return browser


@pytest.fixture
def server(own_database_url: str, start_chatterd: Callable[..., Program]) -> Program:
    """A server that the test can kill."""
    return start_chatterd(database_url=own_database_url)


@pytest.fixture
def own_page(context: BrowserContext, server: Program, browser_errors: list[str]) -> Page:
    """The chat page of ``server``."""
    page = context.new_page()
    record_errors(page, server.url, browser_errors)
    page.goto(f"{server.url}/")
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    return page


@pytest.mark.parametrize("shutdown", [Program.kill, pytest.param(Program.terminate, marks=pytest.mark.extended)])
def test_a_reply_survives_a_server_restart(
    own_page: Page,
    server: Program,
    own_database_url: str,
    start_chatterd: Callable[..., Program],
    ollama: ScriptedOllama,
    browser_errors: list[str],
    shutdown: Callable[[Program], object],
) -> None:
    rest, end = Gate("the rest"), Gate("the end")
    ollama.script(Words(hold={2: rest}))
    ollama.default = (Words(hold={4: end}),)
    send_prompt(own_page, "Hello")
    expect(messages(own_page)).to_have_text(["Hello", "w0 w1"])
    other = open_second_tab(own_page, browser_errors)
    tabs = (own_page, other)
    for tab in tabs:
        expect(messages(tab)).to_have_text(["Hello", "w0 w1"])
    shutdown(server)
    for tab in tabs:
        expect(busy_status(tab)).to_contain_text("Connection lost. Retrying in")
        expect(messages(tab)).to_have_text(["Hello", "w0 w1"])
    start_chatterd(database_url=own_database_url, port=urlsplit(server.url).port)
    for tab in tabs:
        expect(messages(tab)).to_have_text(["Hello", "w0 w1 w2 w3"], timeout=20_000)
        expect(busy_status(tab)).to_have_count(0)
    end.open()
    for tab in tabs:
        expect(messages(tab)).to_have_text(["Hello", REPLY])
        expect_idle(tab)
        tab.reload()
        expect(messages(tab)).to_have_text(["Hello", REPLY])
    ignore_failed_requests(browser_errors)


@pytest.mark.extended
def test_a_reply_that_ended_while_disconnected_is_shown_complete(
    page: Page, context: BrowserContext, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    more, end = Gate("more words"), Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(line("upon ")), end, Lines(line("a time"), last_line()))
    page.clock.install()
    send_prompt(page, "Tell me a story")
    expect(messages(page)).to_have_text(["Tell me a story", "Once"])
    page.route("**/llmchat**", lambda route: route.abort())
    page.clock.fast_forward(25_000)  # exceeds the idle timeout
    expect(busy_status(page)).to_contain_text("Retrying in")
    expect(announcer(page)).to_have_text("Connection lost. Reconnecting…")
    more.open()
    end.open()
    page.unroute("**/llmchat**")
    button(page, "Retry now").click()
    expect(messages(page)).to_have_text(["Tell me a story", "Once upon a time"])
    expect_idle(page)
    ignore_failed_requests(browser_errors)


def test_a_reply_survives_going_offline(
    page: Page, context: BrowserContext, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    more, end = Gate("more words"), Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(line("upon ")), end, Lines(line("a time"), last_line()))
    send_prompt(page, "Tell me a story")
    expect(messages(page)).to_have_text(["Tell me a story", "Once"])
    context.set_offline(True)
    more.open()
    context.set_offline(False)
    expect(messages(page)).to_have_text(["Tell me a story", "Once upon"])
    end.open()
    expect(messages(page)).to_have_text(["Tell me a story", "Once upon a time"])
    expect_idle(page)
    browser_errors[:] = [one for one in browser_errors if "ERR_INTERNET_DISCONNECTED" not in one]


def test_a_prompt_written_offline_is_sent_when_online(
    page: Page, context: BrowserContext, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    context.set_offline(True)
    send_prompt(page, "Hello")
    expect(busy_status(page)).to_contain_text("Not sent yet. You are offline.")
    assert not ollama.requests
    context.set_offline(False)
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect_idle(page)
    assert len(ollama.generations) == 1
    ignore_failed_requests(browser_errors)


@pytest.mark.extended
def test_an_idle_stream_is_resumed_after_the_last_line(page: Page, ollama: ScriptedOllama) -> None:
    more = Gate("more words")
    ollama.script(Head(), Lines(line("w0 "), line("w1 ")), more, Lines(line("w2"), last_line()))
    page.clock.install()
    send_prompt(page, "Hello")
    expect(messages(page)).to_have_text(["Hello", "w0 w1"])
    with page.expect_request("**/llmchat/*?lastEventId=1"):
        page.clock.fast_forward(25_000)
    more.open()
    expect(messages(page)).to_have_text(["Hello", "w0 w1 w2"])
    expect_idle(page)
    assert len(ollama.generations) == 1


def test_a_dead_connection_is_detected(
    context: BrowserContext, chatterd: Program, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    more, end = Gate("more words"), Gate("the end")
    ollama.script(
        Head(), Lines(line("w0 "), line("w1 ")), more, Lines(line("w2 ")), end, Lines(line("w3"), last_line())
    )
    with Network(chatterd.url) as network:
        page = context.new_page()
        record_errors(page, network.url, browser_errors)
        page.goto(f"{network.url}/")
        expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
        page.clock.install()
        send_prompt(page, "Hello")
        expect(messages(page)).to_have_text(["Hello", "w0 w1"])
        stranded = network.strand()
        assert stranded
        more.open()
        end.reached.wait()
        page.clock.fast_forward(25_000)
        for _ in range(stranded):  # the browser tries each dead connection of its pool
            with suppress(AssertionError):
                expect(messages(page)).to_have_text(["Hello", "w0 w1 w2"], timeout=1_000)
                break
            page.clock.fast_forward(10_000)
        expect(messages(page)).to_have_text(["Hello", "w0 w1 w2"])
        end.open()
        expect(messages(page)).to_have_text(["Hello", "w0 w1 w2 w3"])
        expect_idle(page)
        page.close()


@pytest.mark.extended
def test_an_unsent_prompt_is_delivered_while_another_conversation_is_shown(
    page: Page, context: BrowserContext, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    context.set_offline(True)
    send_prompt(page, "Left alone")
    expect(busy_status(page)).to_contain_text("Not sent yet.")
    page.get_by_role("button", name="New chat").click()
    expect(messages(page)).to_have_count(0)
    context.set_offline(False)
    request = ollama.arrival(0).wait()
    assert [message["content"] for message in request.json["messages"]] == ["Left alone"]
    expect(messages(page)).to_have_count(0)
    ignore_failed_requests(browser_errors)


@pytest.mark.extended
def test_a_hidden_tab_closes_its_stream_and_resumes_when_shown(page: Page, ollama: ScriptedOllama) -> None:
    more = Gate("more words")
    ollama.script(Head(), Lines(line("w0 "), line("w1 ")), more, Lines(line("w2 "), last_line()))
    page.clock.install()
    page.evaluate("Object.defineProperty(document, 'visibilityState', {get: () => window.testVisibility ?? 'visible'})")
    send_prompt(page, "Hello")
    expect(messages(page)).to_have_text(["Hello", "w0 w1"])
    page.evaluate("window.testVisibility = 'hidden'")
    page.clock.fast_forward(2_000)
    with page.expect_event("requestfailed", lambda request: "/llmchat/" in request.url):  # closed by the page
        page.clock.fast_forward(61_000)
        page.clock.fast_forward(2_000)
    more.open()
    with page.expect_request("**/llmchat/*?lastEventId=1"):
        page.evaluate("window.testVisibility = 'visible'; document.dispatchEvent(new Event('visibilitychange'))")
    expect(messages(page)).to_have_text(["Hello", "w0 w1 w2"])
    expect_idle(page)
