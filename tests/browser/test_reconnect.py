"""The network goes, the server dies and comes back: each tab ends with the whole reply, no word twice or missing."""

from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.chat_page import (
    announcer,
    button,
    expect_idle,
    forgive_failed_requests,
    messages,
    open_beside,
    say,
    status,
    watch,
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
    """Chromium, once the database is made: after that, no other event loop runs in this thread."""
    return browser


@pytest.fixture
def server(own_database_url: str, start_chatterd: Callable[..., Program]) -> Program:
    """A chatterd that may be killed."""
    return start_chatterd(database_url=own_database_url)


@pytest.fixture
def own_page(context: BrowserContext, server: Program, complaints: list[str]) -> Page:
    """The chat page of ``server``."""
    page = context.new_page()
    watch(page, server.url, complaints)
    page.goto(f"{server.url}/")
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    return page


@pytest.mark.parametrize("death", [Program.kill, Program.terminate])
def test_a_server_that_dies_and_comes_back_in_mid_reply(
    own_page: Page,
    server: Program,
    own_database_url: str,
    start_chatterd: Callable[..., Program],
    ollama: ScriptedOllama,
    complaints: list[str],
    death: Callable[[Program], object],
) -> None:
    rest, end = Gate("the rest"), Gate("the end")
    ollama.script(Words(hold={2: rest}))
    ollama.default = (Words(hold={4: end}),)
    say(own_page, "Hello")
    expect(messages(own_page)).to_have_text(["Hello", "w0 w1"])
    other = open_beside(own_page, complaints)
    tabs = (own_page, other)
    for tab in tabs:
        expect(messages(tab)).to_have_text(["Hello", "w0 w1"])
    death(server)
    for tab in tabs:
        expect(status(tab)).to_contain_text("The connection was lost. Trying again in")
        expect(messages(tab)).to_have_text(["Hello", "w0 w1"])
    start_chatterd(database_url=own_database_url, port=urlsplit(server.url).port)
    for tab in tabs:
        expect(messages(tab)).to_have_text(["Hello", "w0 w1 w2 w3"], timeout=20_000)
        expect(status(tab)).to_have_count(0)
    end.open()
    for tab in tabs:
        expect(messages(tab)).to_have_text(["Hello", REPLY])
        expect_idle(tab)
        tab.reload()
        expect(messages(tab)).to_have_text(["Hello", REPLY])
    forgive_failed_requests(complaints)


def test_a_reply_that_ends_while_the_server_is_away_for_this_tab(
    page: Page, context: BrowserContext, ollama: ScriptedOllama, complaints: list[str]
) -> None:
    more, end = Gate("more words"), Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(line("upon ")), end, Lines(line("a time"), last_line()))
    page.clock.install()
    say(page, "Tell me a story")
    expect(messages(page)).to_have_text(["Tell me a story", "Once"])
    page.route("**/llmchat**", lambda route: route.abort())
    page.clock.fast_forward(25_000)  # too long a silence: the page doubts its connection
    expect(status(page)).to_contain_text("Trying again in")
    expect(announcer(page)).to_have_text("The connection was lost. It is made again.")
    more.open()
    end.open()
    page.unroute("**/llmchat**")
    button(page, "Try now").click()
    expect(messages(page)).to_have_text(["Tell me a story", "Once upon a time"])
    expect_idle(page)
    forgive_failed_requests(complaints)


def test_offline_and_online_again_in_mid_reply(
    page: Page, context: BrowserContext, ollama: ScriptedOllama, complaints: list[str]
) -> None:
    more, end = Gate("more words"), Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(line("upon ")), end, Lines(line("a time"), last_line()))
    say(page, "Tell me a story")
    expect(messages(page)).to_have_text(["Tell me a story", "Once"])
    context.set_offline(True)
    more.open()
    context.set_offline(False)
    expect(messages(page)).to_have_text(["Tell me a story", "Once upon"])
    end.open()
    expect(messages(page)).to_have_text(["Tell me a story", "Once upon a time"])
    expect_idle(page)
    complaints[:] = [one for one in complaints if "ERR_INTERNET_DISCONNECTED" not in one]


def test_a_prompt_written_offline_is_sent_when_the_network_is_back(
    page: Page, context: BrowserContext, ollama: ScriptedOllama, complaints: list[str]
) -> None:
    context.set_offline(True)
    say(page, "Hello")
    expect(status(page)).to_contain_text("Not sent yet. You are offline.")
    assert not ollama.requests
    context.set_offline(False)
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect_idle(page)
    assert len(ollama.requests) == 1
    forgive_failed_requests(complaints)


def test_a_long_silence_is_ended_by_asking_on_from_the_last_line(page: Page, ollama: ScriptedOllama) -> None:
    more = Gate("more words")
    ollama.script(Head(), Lines(line("w0 "), line("w1 ")), more, Lines(line("w2"), last_line()))
    page.clock.install()
    say(page, "Hello")
    expect(messages(page)).to_have_text(["Hello", "w0 w1"])
    with page.expect_request("**/llmchat/*?lastEventId=1"):
        page.clock.fast_forward(25_000)
    more.open()
    expect(messages(page)).to_have_text(["Hello", "w0 w1 w2"])
    expect_idle(page)
    assert len(ollama.requests) == 1


def test_a_connection_that_died_without_a_sign_is_noticed(
    context: BrowserContext, chatterd: Program, ollama: ScriptedOllama, complaints: list[str]
) -> None:
    more, end = Gate("more words"), Gate("the end")
    ollama.script(
        Head(), Lines(line("w0 "), line("w1 ")), more, Lines(line("w2 ")), end, Lines(line("w3"), last_line())
    )
    with Network(chatterd.url) as network:
        page = context.new_page()
        watch(page, network.url, complaints)
        page.goto(f"{network.url}/")
        expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
        page.clock.install()
        say(page, "Hello")
        expect(messages(page)).to_have_text(["Hello", "w0 w1"])
        stranded = network.strand()
        assert stranded
        more.open()
        end.reached.wait()
        page.clock.fast_forward(25_000)
        for _ in range(stranded):  # the browser asks in vain over each connection that it takes for a good one
            with suppress(AssertionError):
                expect(messages(page)).to_have_text(["Hello", "w0 w1 w2"], timeout=1_000)
                break
            page.clock.fast_forward(10_000)
        expect(messages(page)).to_have_text(["Hello", "w0 w1 w2"])
        end.open()
        expect(messages(page)).to_have_text(["Hello", "w0 w1 w2 w3"])
        expect_idle(page)
        page.close()


def test_a_prompt_of_another_conversation_is_sent_too(
    page: Page, context: BrowserContext, ollama: ScriptedOllama, complaints: list[str]
) -> None:
    context.set_offline(True)
    say(page, "Left alone")
    expect(status(page)).to_contain_text("Not sent yet.")
    page.get_by_role("button", name="New chat").click()
    expect(messages(page)).to_have_count(0)
    context.set_offline(False)
    request = ollama.arrival(0).wait()
    assert [message["content"] for message in request.json["messages"]] == ["Left alone"]
    expect(messages(page)).to_have_count(0)
    forgive_failed_requests(complaints)


def test_a_tab_that_nobody_sees_leaves_its_connection_to_others_and_catches_up(
    page: Page, ollama: ScriptedOllama
) -> None:
    more = Gate("more words")
    ollama.script(Head(), Lines(line("w0 "), line("w1 ")), more, Lines(line("w2 "), last_line()))
    page.clock.install()
    page.evaluate("Object.defineProperty(document, 'visibilityState', {get: () => window.seen ?? 'visible'})")
    say(page, "Hello")
    expect(messages(page)).to_have_text(["Hello", "w0 w1"])
    page.evaluate("window.seen = 'hidden'")
    page.clock.fast_forward(2_000)
    with page.expect_event("requestfailed", lambda request: "/llmchat/" in request.url):  # the page closes it
        page.clock.fast_forward(61_000)
        page.clock.fast_forward(2_000)
    more.open()
    with page.expect_request("**/llmchat/*?lastEventId=1"):
        page.evaluate("window.seen = 'visible'; document.dispatchEvent(new Event('visibilitychange'))")
    expect(messages(page)).to_have_text(["Hello", "w0 w1 w2"])
    expect_idle(page)
