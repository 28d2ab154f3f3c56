"""Prompts and replies: delivery, editing, regenerating, stopping, failures, statistics."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.chat_page import (
    announcer,
    busy_status,
    button,
    expect_idle,
    ignore_failed_requests,
    is_prompt,
    messages,
    prompt_input,
    send_and_capture,
    send_prompt,
)
from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, Reset, ScriptedOllama, Words, failure, last_line, line
from tests.program import Program

REPLY = "w0 w1 w2 w3 w4"


def prompts_of(ollama: ScriptedOllama, number: int) -> list[str]:
    return [message["content"] for message in ollama.generations[number].json["messages"]]


def route_prompts(page: Page, handler: Callable[[Route], None]) -> None:
    """Route only the requests that send a prompt."""
    page.route("**/llmchat", lambda route: handler(route) if is_prompt(route.request) else route.continue_())


# Delivery.


def test_a_prompt_with_a_lost_response_is_retried_and_recorded_once(
    page: Page, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    keys: list[str | None] = []

    def lose_the_first_answer(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        if len(keys) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    route_prompts(page, lose_the_first_answer)
    send_prompt(page, "Hello")
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect_idle(page)
    assert len(keys) == 2 and keys[0] == keys[1] and len(ollama.generations) == 1
    expect(busy_status(page)).to_have_count(0)
    page.reload()
    expect(messages(page)).to_have_text(["Hello", REPLY])
    ignore_failed_requests(browser_errors)


def test_an_unsent_prompt_survives_a_reload(page: Page, ollama: ScriptedOllama, browser_errors: list[str]) -> None:
    route_prompts(page, lambda route: route.abort())
    send_prompt(page, "Precious words")
    for _ in ("before the reload", "after the reload"):
        expect(busy_status(page)).to_contain_text("Not sent yet. Cannot reach the server.")
        expect(messages(page).first).to_have_text("Precious words")
        page.reload()
    expect(busy_status(page)).to_contain_text("Not sent yet.")
    assert not ollama.requests
    page.unroute("**/llmchat")
    expect(messages(page)).to_have_text(["Precious words", REPLY])
    expect_idle(page)
    page.reload()
    expect(messages(page)).to_have_text(["Precious words", REPLY])
    expect_idle(page)
    assert len(ollama.generations) == 1
    ignore_failed_requests(browser_errors)


@pytest.mark.extended
def test_sending_can_be_cancelled(page: Page, ollama: ScriptedOllama, browser_errors: list[str]) -> None:
    route_prompts(page, lambda route: route.abort())
    send_prompt(page, "Hello")
    button(page, "Cancel sending").click()
    expect(messages(page)).to_have_count(0)
    expect(prompt_input(page)).to_have_value("Hello")
    page.unroute("**/llmchat")
    page.reload()
    expect(page.get_by_text("What can I help with?")).to_be_visible()
    expect(messages(page)).to_have_count(0)
    assert not ollama.requests
    ignore_failed_requests(browser_errors)


@pytest.mark.extended
def test_retry_after_is_respected(page: Page, ollama: ScriptedOllama, browser_errors: list[str]) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=503, headers={"Retry-After": "120"}, json={"error": "Too many replies at once."})

    route_prompts(page, refuse)
    send_prompt(page, "Hello")
    expect(page.get_by_text(re.compile(r"Too many replies at once\. Retrying in 1[12]\d s"))).to_be_visible()
    expect(announcer(page)).to_contain_text("Not sent yet.")
    page.unroute("**/llmchat")
    button(page, "Retry now").click()
    expect(messages(page)).to_have_text(["Hello", REPLY])
    ignore_failed_requests(browser_errors)


def test_a_rejected_prompt_is_restored(page: Page, ollama: ScriptedOllama, browser_errors: list[str]) -> None:
    route_prompts(page, lambda route: route.fulfill(status=413, json={"error": "The body is larger than 10 bytes."}))
    send_prompt(page, "Hello")
    expect(page.get_by_role("alert")).to_contain_text("The body is larger than 10 bytes.")
    expect(prompt_input(page)).to_have_value("Hello")
    expect(messages(page)).to_have_count(0)
    page.unroute("**/llmchat")
    prompt_input(page).press("Enter")
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect(page.get_by_role("alert")).to_have_count(0)
    ignore_failed_requests(browser_errors)


def test_a_prompt_waits_for_the_running_reply(
    page: Page, chatterd: Program, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    appid = send_and_capture(page, "One")[1]["appID"]
    expect(button(page, "Regenerate")).to_be_visible()  # the page has read the history after the reply's end
    gate = Gate("the rest")
    ollama.script(Head(), Lines(line("From ")), gate, Lines(line("elsewhere"), last_line()))
    with Client(chatterd.url, appid) as client:
        client.begin("Two")
        refusal, _ = send_and_capture(page, "Three")
        assert refusal.status == 409
        expect(page.get_by_text("Waiting for the current reply to finish.")).to_be_visible()
        expect(messages(page)).to_have_text(["One", REPLY, "Two", "From", "Three"])
        gate.open()
        expect(messages(page)).to_have_text(["One", REPLY, "Two", "From elsewhere", "Three", REPLY])
        expect_idle(page)
        assert prompts_of(ollama, 2)[2:] == ["Two", "From elsewhere", "Three"]
    ignore_failed_requests(browser_errors)


@pytest.mark.extended
def test_a_reply_that_the_history_has_before_the_stream_is_shown_once(page: Page, ollama: ScriptedOllama) -> None:
    held: list[Route] = []
    page.route("**/llmchat/*", lambda route: held.append(route))
    ollama.script(Head(), Lines(line("w0 w1 "), b'{"error":"out of memory"}'))
    send_prompt(page, "Hello")
    expect(busy_status(page)).to_contain_text("Connecting")
    ollama.arrival(0).wait().answered.wait()
    with page.expect_response(lambda response: "out of memory" in response.text()):
        page.evaluate("dispatchEvent(new Event('focus'))")
    assert held
    page.unroute("**/llmchat/*")  # continues the held requests
    expect(page.get_by_text("out of memory")).to_have_count(1)
    expect_idle(page)
    expect(button(page, "Try again")).to_be_visible()
    expect(messages(page)).to_have_text(["Hello", "w0 w1 out of memory"])


# Editing and copying.


def test_the_last_prompt_can_be_edited(page: Page, ollama: ScriptedOllama) -> None:
    send_prompt(page, "One")
    expect_idle(page)
    send_prompt(page, "Too")
    expect(messages(page)).to_have_text(["One", REPLY, "Too", REPLY])
    expect_idle(page)
    editor = page.get_by_label("Edit message", exact=True)

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
    for _ in ("live", "reloaded"):
        expect(messages(page)).to_have_text(["One", REPLY, "Two", "Better"])
        expect_idle(page)
        page.reload()
    assert prompts_of(ollama, 2) == ["One", f"{REPLY} ", "Two"]


@pytest.mark.extended
def test_an_unsent_edit_survives_reloads_and_replaces_only_its_message(
    page: Page, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    send_prompt(page, "One")
    expect_idle(page)
    cut_off = {"DELETE", "POST"}
    page.route("**/llmchat*", lambda route: route.abort() if route.request.method in cut_off else route.continue_())
    button(page, "Edit").click()
    page.get_by_label("Edit message", exact=True).fill("Uno")
    button(page, "Save and send").click()
    expect(busy_status(page)).to_contain_text("Not sent yet.")
    page.reload()
    expect(busy_status(page)).to_contain_text("Not sent yet.")
    expect(messages(page)).to_have_text(["Uno"])
    with page.expect_response(lambda response: response.request.method == "DELETE"):
        cut_off.remove("DELETE")  # the replaced messages can be deleted, but the prompt cannot be sent yet
    page.reload()
    cut_off.clear()
    expect(messages(page)).to_have_text(["Uno", REPLY])
    expect_idle(page)
    page.reload()
    expect(messages(page)).to_have_text(["Uno", REPLY])
    assert prompts_of(ollama, 1) == ["Uno"] and len(ollama.generations) == 2
    ignore_failed_requests(browser_errors)


@pytest.mark.extended
def test_an_edit_does_not_replace_newer_messages_of_another_device(
    page: Page, chatterd: Program, ollama: ScriptedOllama
) -> None:
    appid = send_and_capture(page, "One")[1]["appID"]
    expect_idle(page)
    with Client(chatterd.url, appid) as client:
        button(page, "Edit").click()
        page.get_by_label("Edit message", exact=True).fill("Uno")
        client.ask("From the phone")
        button(page, "Save and send").click()
        expect(page.get_by_role("alert")).to_contain_text("has changed on another device")
        expect(messages(page)).to_have_text(["One", REPLY, "From the phone", REPLY])
        expect(prompt_input(page)).to_have_value("Uno")
        assert len(client.messages()) == 4


def test_regenerate_replaces_the_last_reply(page: Page, ollama: ScriptedOllama) -> None:
    send_prompt(page, "Hello")
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect_idle(page)
    ollama.script(Head(), Lines(line("Hi!"), last_line()))
    button(page, "Regenerate").click()
    expect(messages(page)).to_have_text(["Hello", "Hi!"])
    expect_idle(page)
    page.reload()
    expect(messages(page)).to_have_text(["Hello", "Hi!"])
    assert prompts_of(ollama, 1) == ["Hello"]


def test_a_message_is_copied_as_source_text(page: Page, context: BrowserContext, ollama: ScriptedOllama) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    source = "**Bold** and\n\n```py\nx = 1\n```\n"
    ollama.script(Head(), Lines(line(source[:5]), line(source[5:]), last_line()))
    send_prompt(page, "# Hello")
    expect_idle(page)
    for number, text in enumerate(["# Hello", source]):
        item = messages(page).nth(number).locator("..")
        item.hover()
        item.locator(".actions").get_by_role("button", name="Copy").click()
        expect(item.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == text


@pytest.mark.extended
def test_actions_show_on_hover_and_focus(page: Page, ollama: ScriptedOllama) -> None:
    send_prompt(page, "Hello")
    expect_idle(page)
    actions = page.locator(".message-item.user .actions")
    prompt_input(page).focus()
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


# Stopping, failures, continuing.


def begin_stopped_reply(page: Page, ollama: ScriptedOllama, *words: str) -> None:
    """Send a prompt and stop its reply after these words."""
    ollama.script(Head(), Lines(*map(line, words)), Gate("the end"))
    send_prompt(page, "Hello")
    expect(messages(page).nth(1)).to_contain_text(words[-1].strip("` "))
    button(page, "Stop").click()
    expect(button(page, "Continue")).to_be_visible()


def test_a_stopped_reply_can_be_continued_after_a_reload(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("w0 "), line("w1 ")), Gate("the end"))
    send_prompt(page, "Hello")
    expect(messages(page).nth(1)).to_have_text("w0 w1")
    button(page, "Stop").click()
    for _ in ("live", "reloaded"):
        expect(page.get_by_text("Stopped.")).to_be_visible()
        expect(button(page, "Continue")).to_be_visible()
        page.reload()
    button(page, "Continue").click()
    for _ in ("live", "reloaded"):
        expect(messages(page)).to_have_text(["Hello", REPLY])
        expect_idle(page)
        expect(button(page, "Continue")).to_have_count(0)
        expect(page.get_by_text("Stopped.")).to_have_count(0)
        page.reload()


@pytest.mark.extended
def test_a_reply_that_reached_its_limit_can_be_continued(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("w0 "), line("w1 "), last_line(done_reason="length")))
    send_prompt(page, "Hello")
    expect(page.get_by_text("Maximum reply length reached.")).to_be_visible()
    expect_idle(page)
    page.reload()
    expect(page.get_by_text("Maximum reply length reached.")).to_be_visible()
    button(page, "Continue").click()
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect_idle(page)
    expect(announcer(page)).to_have_text("w2 w3 w4")  # a screen reader has read the beginning already


@pytest.mark.extended
def test_continued_words_join_the_paragraph_they_continue(page: Page, ollama: ScriptedOllama) -> None:
    begin_stopped_reply(page, ollama, "**w0 w1** ", "`w2 ")  # the code span is open
    ollama.default = (Words(),)
    button(page, "Continue").click()
    for _ in ("live", "reloaded"):
        expect(messages(page)).to_have_text(["Hello", "w0 w1 `w2 w3 w4"])
        expect(messages(page).nth(1).locator("p")).to_have_count(1)
        expect(messages(page).nth(1).locator("strong")).to_have_text("w0 w1")
        expect_idle(page)
        page.reload()


@pytest.mark.extended
def test_a_reload_while_a_reply_is_continued_shows_each_word_once(page: Page, ollama: ScriptedOllama) -> None:
    gate = Gate("the fourth word")
    begin_stopped_reply(page, ollama, "w0 ", "w1 ")
    ollama.default = (Words(hold={3: gate}),)
    button(page, "Continue").click()
    expect(messages(page)).to_have_text(["Hello", "w0 w1 w2"])
    page.reload()
    expect(messages(page)).to_have_text(["Hello", "w0 w1 w2"])
    expect(button(page, "Stop")).to_be_visible()
    gate.open()
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect_idle(page)
    expect(button(page, "Continue")).to_have_count(0)


@pytest.mark.extended
def test_a_continued_reply_can_be_stopped_and_continued_again(page: Page, ollama: ScriptedOllama) -> None:
    begin_stopped_reply(page, ollama, "w0 ")
    ollama.default = (Words(hold={3: Gate("never")}),)
    button(page, "Continue").click()
    expect(messages(page)).to_have_text(["Hello", "w0 w1 w2"])
    button(page, "Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    ollama.default = (Words(),)
    button(page, "Continue").click()
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect_idle(page)
    page.reload()
    expect(messages(page)).to_have_text(["Hello", REPLY])


@pytest.mark.extended
def test_a_refused_continue_leaves_the_words(page: Page, ollama: ScriptedOllama, browser_errors: list[str]) -> None:
    begin_stopped_reply(page, ollama, "w0 ", "w1 ")
    route_prompts(page, lambda route: route.fulfill(status=422, json={"error": "The model is gone."}))
    button(page, "Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("The model is gone.")
    expect(messages(page)).to_have_text(["Hello", "w0 w1"])
    page.unroute("**/llmchat")
    button(page, "Continue").click()
    expect(messages(page)).to_have_text(["Hello", REPLY])
    ignore_failed_requests(browser_errors)


@pytest.mark.extended
def test_a_connection_lost_while_a_reply_is_continued_costs_no_word(
    page: Page, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    begin_stopped_reply(page, ollama, "w0 ", "w1 ")
    page.route("**/llmchat/*", lambda route: route.abort())
    button(page, "Continue").click()
    expect(busy_status(page)).to_contain_text("Connection lost.")
    expect(messages(page)).to_have_text(["Hello", "w0 w1"])
    page.unroute("**/llmchat/*")
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect_idle(page)
    ignore_failed_requests(browser_errors)


def test_a_restarted_thought_replaces_the_one_before(page: Page, ollama: ScriptedOllama) -> None:
    restarted = Gate("the model thinks anew")
    ollama.script(
        Head(),
        Lines(line(message={"thinking": "An old thought"})),
        restarted,
        Lines(line(thinking_restarted=True), line(message={"thinking": "A new one"}), line("42"), last_line()),
    )
    send_prompt(page, "Hello")
    page.locator("details.thinking summary").click()
    expect(page.locator("details.thinking")).to_contain_text("An old thought")
    restarted.open()
    expect(messages(page).nth(1)).to_contain_text("42")
    page.locator("details.thinking summary").click()
    expect(page.locator("details.thinking")).to_contain_text("A new one")
    expect(page.locator("details.thinking")).to_have_count(1)
    expect(page.get_by_text("An old thought")).to_have_count(0)


@pytest.mark.extended
def test_a_thought_that_ollamas_death_interrupts_is_shown_anew(page: Page, ollama: ScriptedOllama) -> None:
    dies = Gate("Ollama dies")
    ollama.script(Head(), Lines(line(message={"thinking": "An old thought"})), dies, Reset())
    ollama.script(Head(), Lines(line(message={"thinking": "A new one"}), line("42"), last_line()))
    send_prompt(page, "Hello")
    expect(page.locator("details.thinking")).to_have_count(1)
    dies.open()
    for _ in ("live", "reloaded"):
        expect(messages(page).nth(1)).to_contain_text("42")
        expect_idle(page)
        expect(page.locator("details.thinking")).to_have_count(1)
        page.locator("details.thinking summary").click()
        expect(page.locator("details.thinking .text")).to_have_text("A new one")
        page.reload()


def test_a_failed_reply_shows_its_error_after_a_reload_and_can_be_retried(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("w0 w1 "), b'{"error":"out of memory"}'))
    send_prompt(page, "Hello")
    expect(page.get_by_role("alert")).to_contain_text("out of memory")
    expect(button(page, "Try again")).to_be_visible()
    page.reload()
    expect(messages(page).nth(1)).to_contain_text("out of memory")
    button(page, "Try again").click()
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.extended
def test_a_prompt_without_a_reply_can_be_retried_after_a_reload(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(failure(404, "model 'fake' not found"))
    send_prompt(page, "Hello")
    expect(page.get_by_role("alert")).to_contain_text("not found")
    expect(button(page, "Try again")).to_have_count(1)
    page.reload()
    expect(page.get_by_text("This message has no reply.")).to_be_visible()
    button(page, "Try again").click()
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect(page.get_by_text("has no reply")).to_have_count(0)


# Status and statistics.


def test_the_status_line_shows_waiting_time_speed_and_statistics(page: Page, ollama: ScriptedOllama) -> None:
    loaded, more, end = Gate("the model is loaded"), Gate("more words"), Gate("the end")
    times = [f"2026-01-01T00:00:{second:02}.000000001Z" for second in range(5)]
    words = [line(f"w{number} ", created_at=time) for number, time in enumerate(times)]
    ollama.script(Head(), loaded, Lines(words[0]), more, Lines(*words[1:]), end, Lines(last_line()))
    page.clock.install()
    send_prompt(page, "Hello")
    expect(page.get_by_text("Waiting for the model…")).to_be_visible()
    page.clock.fast_forward(3_000)
    expect(page.get_by_text(re.compile(r"Waiting for the model… [3-9] s"))).to_be_visible()
    page.clock.fast_forward(12_000)
    expect(page.get_by_text("Large models take a while to load.")).to_be_visible()
    loaded.open()
    expect(messages(page).nth(1)).to_have_text("w0")
    expect(page.get_by_text("Waiting for the model")).to_be_hidden()
    more.open()
    expect(messages(page).nth(1)).to_have_text(REPLY)
    page.clock.fast_forward(1_000)
    expect(page.get_by_text("1.0 tokens/s")).to_be_visible()
    end.open()
    expect_idle(page)
    stats = page.locator("details.stats")
    expect(stats.locator("summary")).to_contain_text("5 tokens ·")
    expect(stats.get_by_text("Time to first token")).to_be_hidden()
    stats.locator("summary").focus()
    page.keyboard.press("Enter")
    for name in ("Tokens", "Time to first token", "Speed", "Total time", "Prompt tokens"):
        expect(stats.get_by_text(name, exact=True)).to_be_visible()
