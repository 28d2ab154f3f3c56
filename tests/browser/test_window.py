"""The model's window on the chat page: the gauge, where the model's memory begins, and what happens at its end."""

import base64
import re
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from tests.browser.chat_page import (
    button,
    expect_idle,
    is_prompt,
    messages,
    prompt_input,
    send_and_capture,
    send_prompt,
)
from tests.browser.test_accessibility import findings
from tests.browser.test_settings import open_settings
from tests.client import Client
from tests.fakes.ollama import Gate, Model, ScriptedOllama, Text
from tests.program import Program

WINDOW = 400
"""Words that the scripted model holds."""

REPLY = "one two three four five"
MEMORY_START = "The model no longer sees the messages above."
LEFT_OUT = "Too long for the model's window; it is not sent."


@pytest.fixture(autouse=True)
def _small_window(chatterd: Program, ollama: ScriptedOllama) -> Iterator[None]:
    """Have a model with a small window, and chatterd know it. After the test it knows the usual one: other tests use
    the same model."""
    ollama.model = Model(num_ctx=WINDOW, context_length=8_192, file_bytes=100_000_000, token_bytes=25_000)
    ollama.default = (Text(REPLY),)
    with Client(chatterd.url) as client:
        client.ask("Hello")  # loads the model
        assert client.http.get("/window", params={"model": "fake"}).json()["window"] == WINDOW
        yield
        ollama.forget()
        client.ask("Hello again")  # loads the usual model
        assert client.http.get("/window", params={"model": "fake"}).json()["window"] == Model().num_ctx


def words(count: int, name: str) -> str:
    """Return a text of so many words, which has about as many tokens in English."""
    return " ".join([name, *["and"] * (count - 1)])


def gauge(page: Page) -> Locator:
    """The gauge below the message box."""
    return page.locator("#context-gauge")


def open_conversation(page: Page, chatterd: Program, turns: int) -> str:
    """Have a conversation with another client, and open it on the page; return its appID."""
    with Client(chatterd.url) as client:
        for turn in range(turns):
            client.ask(words(30, f"turn {turn}"))
        page.goto(f"/#c/{client.appid}")
    expect(messages(page)).to_have_count(2 * turns)
    return client.appid


def stop_and_ask(page: Page) -> None:
    """Choose what happens when the window is full."""
    dialog = open_settings(page)
    dialog.get_by_label("When the window is full").select_option("Stop and ask")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_be_hidden()


def fill_until_asked(page: Page) -> str:
    """Send prompts until the window is full and the page asks; return the last one."""
    for turn in range(20):
        prompt = words(40, f"more {turn}")
        send_prompt(page, prompt)
        expect(messages(page).last).not_to_have_text(prompt)
        expect_idle(page)
        if page.get_by_role("alert").count():
            return prompt
        expect(messages(page).last).to_have_text(REPLY)
    raise AssertionError("The window was never full.")


# The gauge.


def test_the_gauge_shows_the_tokens_of_the_window(page: Page, ollama: ScriptedOllama) -> None:
    expect(gauge(page)).to_be_hidden()
    gate = Gate("the third word")
    ollama.default = (Text(REPLY, hold={2: gate}),)
    send_prompt(page, words(30, "word"))
    expect(messages(page).nth(1)).to_have_text("one two")
    expect(gauge(page).locator("summary")).to_contain_text("about ")
    gate.open()
    expect(gauge(page).locator("summary")).to_have_accessible_name("The model's window: 35 of 400 tokens")
    expect_idle(page)
    send_prompt(page, words(30, "more"))
    expect(gauge(page).locator("summary")).to_contain_text("70 of 400 tokens")
    page.reload()
    expect(gauge(page).locator("summary")).to_contain_text("70 of 400 tokens")
    expect(page.get_by_text(MEMORY_START)).to_have_count(0)

    gauge(page).locator("summary").press("Enter")
    expect(gauge(page).get_by_role("listitem").first).to_have_text("fake was sent 3 messages for its last reply.")
    button(page, "New chat").first.click()
    expect(gauge(page)).to_be_hidden()


@pytest.mark.extended
def test_the_gauge_is_not_shown_on_narrow_windows_until_it_matters(page: Page, chatterd: Program) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    open_conversation(page, chatterd, 1)
    expect(gauge(page).locator("summary")).to_contain_text("36 of 400 tokens")
    expect(gauge(page)).to_be_hidden()
    open_conversation(page, chatterd, 9)
    expect(gauge(page)).to_be_visible()


def test_the_transcript_shows_where_the_models_memory_begins(page: Page, chatterd: Program) -> None:
    appid = open_conversation(page, chatterd, 14)
    line = page.get_by_text(MEMORY_START)
    expect(line).to_have_count(1)
    with Client(chatterd.url, appid) as client:
        history = client.history()
    seqs = [message["seq"] for message in history["messages"]]
    first = seqs.index(history["context"]["from"])
    assert first == history["context"]["left_out"] > 0
    assert page.locator("#messages > *").nth(first).text_content() == MEMORY_START
    expect(gauge(page).locator("summary")).to_contain_text("of 400 tokens · not everything is sent")
    gauge(page).locator("summary").click()
    expect(gauge(page).get_by_text(f"{first} earlier messages were left out.")).to_be_visible()

    while history["context"]["from"] == seqs[first]:  # the next block
        send_prompt(page, words(40, "more"))
        expect(messages(page).last).to_have_text(REPLY)
        expect_idle(page)
        with Client(chatterd.url, appid) as client:
            history = client.history()
    expect(gauge(page).get_by_text(f"{history['context']['left_out']} earlier messages were left out.")).to_be_visible()
    expect(line).to_have_count(1)
    assert history["context"]["left_out"] > first
    assert page.locator("#messages > *").nth(history["context"]["left_out"]).text_content() == MEMORY_START


@pytest.mark.extended
def test_the_memory_begins_above_what_is_loaded(page: Page, chatterd: Program) -> None:
    with Client(chatterd.url) as client:
        for turn in range(32):
            client.ask(words(3, f"turn {turn}"))
        history = client.history(limit=500)
        seqs = [message["seq"] for message in history["messages"]]

        def set_context(route: Route) -> None:
            response = route.fetch()
            context = {**response.json()["context"], "from": seqs[4], "left_out": 4}
            route.fulfill(json={**response.json(), "context": context})

        page.route("**/llmchat?*", set_context)
        page.goto(f"/#c/{client.appid}")
    expect(messages(page)).to_have_count(50)
    expect(page.get_by_text(MEMORY_START)).to_have_count(0)
    button(page, "Load earlier messages").click()
    expect(messages(page)).to_have_count(64)
    assert page.locator("#messages > *").nth(4).text_content() == MEMORY_START


def test_what_was_left_out_is_said_in_sentences(page: Page) -> None:
    described = page.evaluate(
        """async () => {
            const { describeContext, describeTokens } = await import("/static/chat/context/context_text.js");
            const context = { model: "m", from: 9, messages: 1, left_out: 1, images_left_out: 2, system_left_out: 1,
                              tokens: 1234, estimated: true, window: null };
            return [describeTokens(context), ...describeContext(context)];
        }"""
    )
    assert described == [
        "about 1,234 tokens",
        "m was sent 1 message for its last reply.",
        "1 earlier message was left out.",
        "2 messages were sent without images.",
        "1 system message was left out.",
        "The window of m is not known yet.",
    ]


@pytest.mark.extended
def test_system_messages_that_are_not_sent_are_said(page: Page, chatterd: Program) -> None:
    with Client(chatterd.url) as client:
        for number in range(5):
            rule = {"role": "system", "content": words(90, f"rule {number}")}
            client.ask(messages=[rule, {"role": "user", "content": "Hello"}])
        page.goto(f"/#c/{client.appid}")
    expect(gauge(page).locator("summary")).to_contain_text("not everything is sent")
    gauge(page).locator("summary").click()
    expect(gauge(page).get_by_text(re.compile(r"^\d system messages? (was|were) left out\.$"))).to_be_visible()


@pytest.mark.extended
def test_images_that_are_not_sent_are_said(context: BrowserContext, start_chatterd: Callable[..., Program]) -> None:
    program = start_chatterd(context_image_bytes=0)
    page = context.new_page()
    options = {"num_ctx": 8_000}
    image = base64.b64encode(bytes(1_200)).decode()
    with Client(program.url) as client:
        client.ask(messages=[{"role": "user", "content": "Look", "images": [image]}], options=options)
        client.ask("What was it?", options=options)
        page.goto(f"{program.url}/#c/{client.appid}")
    expect(gauge(page).locator("summary")).to_contain_text("of 8,000 tokens · not everything is sent")
    gauge(page).locator("summary").click()
    expect(gauge(page).get_by_text("1 message was sent without images.")).to_be_visible()
    expect(page.get_by_text(MEMORY_START)).to_have_count(0)


# The end of the window.


def test_a_prompt_that_exceeds_the_window_is_marked_and_the_next_one_works(page: Page, ollama: ScriptedOllama) -> None:
    send_prompt(page, "Hello")
    expect(messages(page).last).to_have_text(REPLY)
    expect_idle(page)
    send_prompt(page, words(2 * WINDOW, "long"))
    expect(page.get_by_role("alert")).to_contain_text("the window of fake holds 400")
    expect(page.get_by_text(LEFT_OUT)).to_have_count(1)
    expect(page.get_by_text(LEFT_OUT)).to_be_visible()
    expect_idle(page)
    expect(button(page, "Try again")).to_have_count(0)
    page.reload()
    expect(messages(page)).to_have_count(3)
    expect(page.get_by_text(LEFT_OUT)).to_be_visible()
    expect(page.get_by_text("This message has no reply.")).to_have_count(0)
    send_prompt(page, "Shorter")
    expect(messages(page).nth(4)).to_have_text(REPLY)
    assert [one["content"] for one in ollama.generations[-1].json["messages"]] == ["Hello", REPLY, "Shorter"]
    expect(page.get_by_text(LEFT_OUT)).to_have_count(1)


def test_stop_and_ask_leaves_out_the_oldest_messages_when_told_so(page: Page, ollama: ScriptedOllama) -> None:
    stop_and_ask(page)
    _, body = send_and_capture(page, "Hello")
    assert body["context_full"] == "stop"
    expect(messages(page)).to_have_text(["Hello", REPLY])
    expect_idle(page)
    prompt = fill_until_asked(page)
    count = len(ollama.generations)
    expect(page.get_by_role("alert")).to_contain_text("Let the oldest messages be left out")
    expect(button(page, "Try again")).to_have_count(0)
    expect(page.get_by_text("This message has no reply.")).to_have_count(0)

    with page.expect_request(is_prompt) as request:
        button(page, "Leave out the oldest messages and go on").press("Enter")
    sent = request.value.post_data_json
    assert sent and "context_full" not in sent
    expect(page.get_by_text(MEMORY_START)).to_be_attached()
    expect(messages(page).last).to_have_text(REPLY)
    expect_idle(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(messages(page).get_by_text(prompt, exact=True)).to_have_count(1)
    assert len(ollama.generations) == count + 1
    _, body = send_and_capture(page, "Next")
    assert body["context_full"] == "stop"
    expect(messages(page).last).to_have_text(REPLY)


def test_stop_and_ask_offers_a_new_chat(page: Page, ollama: ScriptedOllama) -> None:
    stop_and_ask(page)
    prompt = fill_until_asked(page)
    button(page, "Start a new chat").click()
    expect(messages(page)).to_have_count(0)
    expect(prompt_input(page)).to_have_value(prompt)
    prompt_input(page).press("Enter")
    expect(messages(page)).to_have_text([prompt, REPLY])
    assert len(ollama.generations[-1].json["messages"]) == 1


@pytest.mark.extended
def test_the_question_is_asked_again_after_a_reload(page: Page) -> None:
    stop_and_ask(page)
    fill_until_asked(page)
    page.reload()
    button(page, "Try again").click()
    expect(button(page, "Leave out the oldest messages and go on")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(1)


def test_a_reply_that_fills_the_window_says_so_and_can_be_continued(page: Page, ollama: ScriptedOllama) -> None:
    send_prompt(page, words(150, "prompt"))
    expect(messages(page).last).to_have_text(REPLY)
    expect_idle(page)
    whole = f"{words(299, 'so')} on"
    ollama.default = (Text(whole),)
    send_prompt(page, "Go on")
    for _ in ("live", "reloaded"):
        expect(page.get_by_text("The reply ends here because the model's window is full.")).to_be_visible()
        expect(page.get_by_text("Maximum reply length reached.")).to_have_count(0)
        page.reload()
    button(page, "Continue").click()
    expect(messages(page).last).to_contain_text(" on")
    expect_idle(page)
    expect(messages(page).last).to_have_text(whole)
    expect(page.get_by_text("the model's window is full")).to_have_count(0)


# Settings.


def test_the_window_can_be_chosen_with_its_memory(page: Page, ollama: ScriptedOllama) -> None:
    dialog = open_settings(page)
    choice = dialog.get_by_label("Context length", exact=True)
    expect(choice.get_by_role("option")).to_have_text(
        [
            "Model default (400 tokens, about 110 MB)",
            "2,048 tokens, about 151 MB",
            "4,096 tokens, about 202 MB",
            "8,192 tokens, about 305 MB",
            "Other…",
        ]
    )
    expect(dialog.get_by_label("Context length in tokens")).to_be_hidden()
    choice.select_option("4096")
    dialog.get_by_role("button", name="Save").click()
    _, body = send_and_capture(page, "More")
    assert body["options"] == {"num_ctx": 4096}
    expect(gauge(page).locator("summary")).to_contain_text("of 4,096 tokens")
    expect(open_settings(page).get_by_label("Context length", exact=True)).to_have_value("4096")


def test_any_other_window_can_be_entered(page: Page) -> None:
    dialog = open_settings(page)
    dialog.get_by_label("Context length", exact=True).select_option("Other…")
    entry = dialog.get_by_label("Context length in tokens")
    expect(entry).to_be_focused()
    page.keyboard.type("3000")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    _, body = send_and_capture(page, "Hello")
    assert body["options"] == {"num_ctx": 3000}
    expect(messages(page).last).to_have_text(REPLY)
    expect_idle(page)
    dialog = open_settings(page)
    expect(dialog.get_by_text("This model holds at most 8,192 tokens.")).to_be_visible()
    expect(entry).to_have_value("3000")
    dialog.get_by_role("button", name="Clear all").click()
    expect(entry).to_be_hidden()
    expect(dialog.get_by_label("Context length", exact=True)).to_have_value("")


# Accessibility.


@pytest.mark.needs("npm")
@pytest.mark.extended
@pytest.mark.parametrize("width", [320, 1000])
def test_axe_finds_no_serious_issues(page: Page, chatterd: Program, width: int) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 640})
    open_conversation(page, chatterd, 14)
    expect(page.get_by_text(MEMORY_START)).to_be_attached()
    gauge(page).locator("summary").click()
    send_prompt(page, words(2 * WINDOW, "long"))
    expect(page.get_by_text(LEFT_OUT)).to_be_visible()
    stop_and_ask(page)
    fill_until_asked(page)
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        assert findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    dialog = open_settings(page)
    dialog.get_by_label("Context length", exact=True).select_option("Other…")
    assert findings(page) == [], "the settings"
    assert not dialog.locator(".settings-body").evaluate("(body) => body.scrollWidth > body.clientWidth")
