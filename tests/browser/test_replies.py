"""The life of a prompt and its reply on the page: never lost, stopped, asked again, edited, copied, accounted for."""

import re
from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.chat_page import (
    announcer,
    box,
    button,
    expect_idle,
    forgive_failed_requests,
    is_prompt,
    messages,
    say,
    say_and_catch,
    status,
)
from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, failure, last_line, line
from tests.program import Program

REPLY = "w0 w1 w2 w3 w4"


def prompts_of(ollama: ScriptedOllama, number: int) -> list[str]:
    return [message["content"] for message in ollama.requests[number].json["messages"]]


def on_prompt(page: Page, play: Callable[[Route], None]) -> None:
    """Answer the page's requests for a reply, and no others."""
    page.route("**/llmchat", lambda route: play(route) if is_prompt(route.request) else route.continue_())


# Sent, whatever happens.


def test_a_prompt_whose_answer_is_lost_is_sent_again_and_taken_once(
    page: Page, ollama: ScriptedOllama, complaints: list[str]
) -> None:
    keys: list[str | None] = []

    def lose_the_first_answer(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        if len(keys) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    on_prompt(page, lose_the_first_answer)
    say(page, "Hello")
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect_idle(page)
    assert len(keys) == 2 and keys[0] == keys[1] and len(ollama.requests) == 1
    expect(status(page)).to_have_count(0)
    page.reload()
    expect(messages(page)).to_have_text(["Hello", REPLY])
    forgive_failed_requests(complaints)


def test_an_unsent_prompt_outlives_a_reload(page: Page, ollama: ScriptedOllama, complaints: list[str]) -> None:
    on_prompt(page, lambda route: route.abort())
    say(page, "Precious words")
    for _ in ("before", "after"):
        expect(status(page)).to_contain_text("Not sent yet. The server does not answer.")
        expect(messages(page).first).to_have_text("Precious words")
        page.reload()
    expect(status(page)).to_contain_text("Not sent yet.")
    assert not ollama.requests
    page.unroute("**/llmchat")
    expect(messages(page)).to_have_text(["Precious words", REPLY])
    expect_idle(page)
    page.reload()
    expect(messages(page)).to_have_text(["Precious words", REPLY])
    expect_idle(page)
    assert len(ollama.requests) == 1
    forgive_failed_requests(complaints)


def test_an_unsent_prompt_can_be_taken_back(page: Page, ollama: ScriptedOllama, complaints: list[str]) -> None:
    on_prompt(page, lambda route: route.abort())
    say(page, "Hello")
    button(page, "Take back").click()
    expect(messages(page)).to_have_count(0)
    expect(box(page)).to_have_value("Hello")
    page.unroute("**/llmchat")
    page.reload()
    expect(page.get_by_text("What shall we talk about?")).to_be_visible()
    expect(messages(page)).to_have_count(0)
    assert not ollama.requests
    forgive_failed_requests(complaints)


def test_a_busy_server_is_asked_again_when_it_said(page: Page, ollama: ScriptedOllama, complaints: list[str]) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=503, headers={"Retry-After": "120"}, json={"error": "Too many replies at once."})

    on_prompt(page, refuse)
    say(page, "Hello")
    expect(page.get_by_text(re.compile(r"Too many replies at once\. Trying again in 1[12]\d s"))).to_be_visible()
    expect(announcer(page)).to_contain_text("Not sent yet.")
    page.unroute("**/llmchat")
    button(page, "Try now").click()
    expect(messages(page)).to_have_text(["Hello", REPLY])
    forgive_failed_requests(complaints)


def test_a_refused_prompt_is_given_back(page: Page, ollama: ScriptedOllama, complaints: list[str]) -> None:
    on_prompt(page, lambda route: route.fulfill(status=413, json={"error": "The body is larger than 10 bytes."}))
    say(page, "Hello")
    expect(page.get_by_role("alert")).to_contain_text("The body is larger than 10 bytes.")
    expect(box(page)).to_have_value("Hello")
    expect(messages(page)).to_have_count(0)
    page.unroute("**/llmchat")
    box(page).press("Enter")
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect(page.get_by_role("alert")).to_have_count(0)
    forgive_failed_requests(complaints)


def test_a_prompt_waits_for_the_reply_that_is_in_the_way(
    page: Page, chatterd: Program, ollama: ScriptedOllama, complaints: list[str]
) -> None:
    appid = say_and_catch(page, "One")[1]["appID"]
    expect_idle(page)
    gate = Gate("the rest")
    ollama.script(Head(), Lines(line("From ")), gate, Lines(line("elsewhere"), last_line()))
    with Client(chatterd.url, appid) as client:
        client.begin("Two")
        refusal, _ = say_and_catch(page, "Three")
        assert refusal.status == 409
        expect(page.get_by_text("It is sent after the reply that is running.")).to_be_visible()
        expect(messages(page)).to_have_text(["One", REPLY, "Two", "From", "Three"])
        gate.open()
        expect(messages(page)).to_have_text(["One", REPLY, "Two", "From elsewhere", "Three", REPLY])
        expect_idle(page)
        assert prompts_of(ollama, 2)[2:] == ["Two", "From elsewhere", "Three"]
    forgive_failed_requests(complaints)


def test_words_that_the_history_has_before_the_stream_are_shown_once(page: Page, ollama: ScriptedOllama) -> None:
    held: list[Route] = []
    page.route("**/llmchat/*", lambda route: held.append(route))
    ollama.script(Head(), Lines(line("w0 w1 "), b'{"error":"out of memory"}'))
    say(page, "Hello")
    expect(status(page)).to_contain_text("Connecting")
    ollama.arrival(0).wait().answered.wait()
    with page.expect_response(lambda response: "out of memory" in response.text()):
        page.evaluate("dispatchEvent(new Event('focus'))")
    assert held
    page.unroute("**/llmchat/*")  # lets those go that were held
    expect(page.get_by_text("out of memory")).to_have_count(1)
    expect_idle(page)
    expect(button(page, "Try again")).to_be_visible()
    expect(messages(page)).to_have_text(["Hello", "w0 w1 out of memory"])


# Changed.


def test_the_last_prompt_can_be_edited(page: Page, ollama: ScriptedOllama) -> None:
    say(page, "One")
    expect_idle(page)
    say(page, "Too")
    expect(messages(page)).to_have_text(["One", REPLY, "Too", REPLY])
    expect_idle(page)
    editor = page.get_by_label("Your words")

    button(page, "Edit").focus()
    page.keyboard.press("Enter")
    expect(editor).to_be_focused()
    expect(editor).to_have_value("Too")
    editor.fill("never sent")
    page.keyboard.press("Escape")
    expect(button(page, "Edit")).to_be_focused()
    expect(messages(page)).to_have_text(["One", REPLY, "Too", REPLY])

    button(page, "Edit").click()
    editor.fill("Two")
    ollama.script(Head(), Lines(line("Better"), last_line()))
    editor.press("Enter")
    for _ in ("at once", "from the history"):
        expect(messages(page)).to_have_text(["One", REPLY, "Two", "Better"])
        expect_idle(page)
        page.reload()
    assert prompts_of(ollama, 2) == ["One", f"{REPLY} ", "Two"]


def test_an_edit_that_cannot_be_sent_is_not_lost_and_forgets_nothing_but_what_it_replaces(
    page: Page, ollama: ScriptedOllama, complaints: list[str]
) -> None:
    say(page, "One")
    expect_idle(page)
    cut_off = {"DELETE", "POST"}
    page.route("**/llmchat*", lambda route: route.abort() if route.request.method in cut_off else route.continue_())
    button(page, "Edit").click()
    page.get_by_label("Your words").fill("Uno")
    button(page, "Ask again").click()
    expect(status(page)).to_contain_text("Not sent yet.")
    page.reload()
    expect(status(page)).to_contain_text("Not sent yet.")
    expect(messages(page)).to_have_text(["Uno"])
    with page.expect_response(lambda response: response.request.method == "DELETE"):
        cut_off.remove("DELETE")  # what it replaces is forgotten now, and it cannot be asked yet
    page.reload()
    cut_off.clear()
    expect(messages(page)).to_have_text(["Uno", REPLY])
    expect_idle(page)
    page.reload()
    expect(messages(page)).to_have_text(["Uno", REPLY])
    assert prompts_of(ollama, 1) == ["Uno"] and len(ollama.requests) == 2
    forgive_failed_requests(complaints)


def test_an_edit_replaces_nothing_that_another_device_said_meanwhile(
    page: Page, chatterd: Program, ollama: ScriptedOllama
) -> None:
    appid = say_and_catch(page, "One")[1]["appID"]
    expect_idle(page)
    with Client(chatterd.url, appid) as client:
        button(page, "Edit").click()
        page.get_by_label("Your words").fill("Uno")
        client.ask("From the phone")
        button(page, "Ask again").click()
        expect(page.get_by_role("alert")).to_contain_text("has gone on elsewhere")
        expect(messages(page)).to_have_text(["One", REPLY, "From the phone", REPLY])
        expect(box(page)).to_have_value("Uno")
        assert len(client.messages()) == 4


def test_another_answer_takes_the_place_of_the_last(page: Page, ollama: ScriptedOllama) -> None:
    say(page, "Hello")
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect_idle(page)
    ollama.script(Head(), Lines(line("Hi!"), last_line()))
    button(page, "Another answer").click()
    expect(messages(page)).to_have_text(["Hello", "Hi!"])
    expect_idle(page)
    page.reload()
    expect(messages(page)).to_have_text(["Hello", "Hi!"])
    assert prompts_of(ollama, 1) == ["Hello"]


def test_a_message_is_copied_as_it_was_written(page: Page, context: BrowserContext, ollama: ScriptedOllama) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    source = "**Bold** and\n\n```py\nx = 1\n```\n"
    ollama.script(Head(), Lines(line(source[:5]), line(source[5:]), last_line()))
    say(page, "# Hello")
    expect_idle(page)
    for number, text in enumerate(["# Hello", source]):
        turn = messages(page).nth(number).locator("..")
        turn.hover()
        turn.locator(".actions").get_by_role("button", name="Copy").click()
        expect(turn.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == text


def test_actions_are_seen_on_hover_and_focus_and_reached_by_keyboard(page: Page, ollama: ScriptedOllama) -> None:
    say(page, "Hello")
    expect_idle(page)
    actions = page.locator(".turn.user .actions")
    box(page).focus()
    page.mouse.move(1, 1)
    expect(actions).to_have_css("opacity", "0")
    messages(page).first.hover()
    expect(actions).to_have_css("opacity", "1")
    page.mouse.move(1, 1)
    expect(actions).to_have_css("opacity", "0")
    page.locator("main").focus()
    page.keyboard.press("Tab")
    expect(button(page, "Copy").first).to_be_focused()
    expect(actions).to_have_css("opacity", "1")
    page.keyboard.press("Tab")
    expect(button(page, "Edit")).to_be_focused()


# Stopped, failed, gone on.


def test_a_stopped_reply_says_so_after_a_reload_and_goes_on(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("w0 "), line("w1 ")), Gate("the end"))
    say(page, "Hello")
    expect(messages(page).nth(1)).to_have_text("w0 w1")
    button(page, "Stop").click()
    for _ in ("at once", "from the history"):
        expect(page.get_by_text("Stopped.")).to_be_visible()
        expect(button(page, "Go on")).to_be_visible()
        page.reload()
    button(page, "Go on").click()
    expect(messages(page)).to_have_text(["Hello", "w0 w1", "w2 w3 w4"])
    expect(button(page, "Go on")).to_have_count(0)


def test_a_reply_that_reached_its_limit_says_so_and_goes_on(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("w0 "), line("w1 "), last_line(done_reason="length")))
    say(page, "Hello")
    expect(page.get_by_text("The reply reached its length limit.")).to_be_visible()
    button(page, "Go on").click()
    expect(messages(page)).to_have_text(["Hello", "w0 w1", "w2 w3 w4"])


def test_a_failed_reply_says_why_after_a_reload_and_is_tried_again(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("w0 w1 "), b'{"error":"out of memory"}'))
    say(page, "Hello")
    expect(page.get_by_role("alert")).to_contain_text("out of memory")
    expect(button(page, "Try again")).to_be_visible()
    page.reload()
    expect(messages(page).nth(1)).to_contain_text("out of memory")
    button(page, "Try again").click()
    expect(messages(page)).to_have_text(["Hello", "w0 w1", "w2 w3 w4"])


def test_a_prompt_without_a_reply_can_be_asked_again_after_a_reload(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(failure(404, "model 'fake' not found"))
    say(page, "Hello")
    expect(page.get_by_role("alert")).to_contain_text("not found")
    expect(button(page, "Try again")).to_have_count(1)
    page.reload()
    expect(page.get_by_text("There is no reply to this message.")).to_be_visible()
    button(page, "Try again").click()
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect(page.get_by_text("There is no reply")).to_have_count(0)


# Accounted for.


def test_it_says_what_is_waited_for_how_fast_it_comes_and_what_it_took(page: Page, ollama: ScriptedOllama) -> None:
    loaded, more, end = Gate("the model is loaded"), Gate("more words"), Gate("the end")
    times = [f"2026-01-01T00:00:{second:02}.000000001Z" for second in range(5)]
    words = [line(f"w{number} ", created_at=time) for number, time in enumerate(times)]
    ollama.script(Head(), loaded, Lines(words[0]), more, Lines(*words[1:]), end, Lines(last_line()))
    page.clock.install()
    say(page, "Hello")
    expect(page.get_by_text("Waiting for the model …")).to_be_visible()
    page.clock.fast_forward(3_000)
    expect(page.get_by_text(re.compile(r"Waiting for the model … [3-9] s"))).to_be_visible()
    page.clock.fast_forward(12_000)
    expect(page.get_by_text("A large model takes a while to load.")).to_be_visible()
    loaded.open()
    expect(messages(page).nth(1)).to_have_text("w0")
    expect(page.get_by_text("Waiting for the model")).to_be_hidden()
    more.open()
    expect(messages(page).nth(1)).to_have_text(REPLY)
    page.clock.fast_forward(1_000)
    expect(page.get_by_text("1.0 tokens/s")).to_be_visible()
    end.open()
    expect_idle(page)
    figures = page.locator("details.figures")
    expect(figures.locator("summary")).to_contain_text("5 tokens ·")
    expect(figures.get_by_text("First token after")).to_be_hidden()
    figures.locator("summary").focus()
    page.keyboard.press("Enter")
    for name in ("Tokens", "First token after", "Speed", "In all", "Prompt tokens"):
        expect(figures.get_by_text(name, exact=True)).to_be_visible()
