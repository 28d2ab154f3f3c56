"""The model picker and the conversation settings: options, validation, and what is sent to the model."""

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.chat_page import button, messages, prompt_input, send_and_capture, send_prompt
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, failure, line

LLAMA = {
    "name": "llama3.2:latest",
    "size": 2_019_393_189,
    "details": {"parameter_size": "3.2B", "context_length": 8192},
}
EMBEDDER = {
    "name": "nomic-embed-text:latest",
    "size": 274_302_450,
    "details": {"parameter_size": "137M"},
    "capabilities": ["embedding"],
}


def set_models(page: Page, ollama: ScriptedOllama, *models: str | dict[str, object]) -> None:
    """Set Ollama's models, and reload the page."""
    ollama.models = models
    page.reload()


def picker(page: Page) -> Locator:
    """The model selector."""
    return page.get_by_label("Model", exact=True)


def open_settings(page: Page) -> Locator:
    """Open the settings dialog."""
    page.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog", name="Conversation settings")
    expect(dialog).to_be_visible()
    return dialog


def set_system(page: Page, text: str) -> None:
    """Change the system prompt."""
    dialog = open_settings(page)
    dialog.get_by_label("System prompt").fill(text)
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_be_hidden()


def ask(page: Page, text: str) -> dict[str, Any]:
    """Send a prompt and wait for the end of its reply; return the request's body."""
    _, body = send_and_capture(page, text)
    expect(page.get_by_role("article", name="You").last).to_have_text(text)
    expect(messages(page).last).to_contain_text("w1")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return body


def messages_sent(ollama: ScriptedOllama, number: int) -> list[tuple[str, str]]:
    """Role and content of the messages in a request to the model."""
    return [(one["role"], one["content"]) for one in ollama.generations[number].json["messages"]]


@pytest.mark.extended
def test_models_are_listed_with_their_sizes(page: Page, ollama: ScriptedOllama) -> None:
    set_models(page, ollama, EMBEDDER, LLAMA, "fake")
    expect(picker(page)).to_have_value("llama3.2:latest")  # the first one that supports chat
    options = picker(page).get_by_role("option")
    expect(options.nth(0)).to_have_text("nomic-embed-text:latest · 137M · 274 MB")
    expect(options.nth(1)).to_have_text("llama3.2:latest · 3.2B · 2.0 GB")


@pytest.mark.extended
def test_missing_models_show_an_error(page: Page, ollama: ScriptedOllama) -> None:
    set_models(page, ollama)
    expect(picker(page)).to_be_disabled()
    expect(page.get_by_role("alert")).to_contain_text("ollama pull")
    ollama.models = ("fake",)
    page.get_by_role("button", name="Refresh").click()
    expect(picker(page)).to_have_value("fake")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_each_conversation_keeps_its_model(page: Page, ollama: ScriptedOllama) -> None:
    set_models(page, ollama, "fake", "other")
    ask(page, "First topic")
    page.get_by_role("button", name="New chat", exact=True).click()
    picker(page).select_option("other")
    ask(page, "Second topic")
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
    page.get_by_role("link", name="First topic").click()
    expect(picker(page)).to_have_value("fake")
    page.get_by_role("link", name="Second topic").click()
    expect(picker(page)).to_have_value("other")
    page.reload()
    expect(picker(page)).to_have_value("other")
    assert [request.json["model"] for request in ollama.generations] == ["fake", "other"]

    set_models(page, ollama, "fake")
    expect(page.get_by_role("alert")).to_contain_text("other is no longer available. Choose another model")
    expect(picker(page)).to_have_value("")
    send_prompt(page, "Which model?")
    expect(picker(page)).to_be_focused()
    expect(prompt_input(page)).to_have_value("Which model?")
    assert len(ollama.generations) == 2
    page.get_by_role("alert").get_by_role("button", name="fake").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(picker(page)).to_have_value("fake")
    prompt_input(page).press("Enter")
    expect(messages(page)).to_have_count(4)
    expect(messages(page).nth(3)).to_have_text("w0 w1 w2 w3 w4")
    page.reload()
    expect(picker(page)).to_have_value("fake")
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.extended
def test_a_reply_that_fails_because_its_model_is_gone_offers_the_others(page: Page, ollama: ScriptedOllama) -> None:
    ask(page, "Hello")
    ollama.models = (LLAMA,)
    ollama.script(failure(404, "model 'fake' not found"))
    send_prompt(page, "Are you there?")
    expect(messages(page).last).to_contain_text("Choose another model, or install it: `ollama pull fake`.")
    expect(page.get_by_role("alert").last).to_contain_text("fake is no longer available. Choose another model")
    button(page, "llama3.2:latest").click()
    button(page, "Try again").click()
    expect(messages(page).last).to_have_text("w0 w1 w2 w3 w4")
    assert ollama.generations[-1].json["model"] == "llama3.2:latest"


@pytest.mark.extended
def test_a_stand_in_is_called_a_toy_until_ollama_lists_its_models(page: Page, ollama: ScriptedOllama) -> None:
    toy = {"name": "smollm2:135m", "size": 1, "stand_in": True, "details": {"parameter_size": "135M"}}
    set_models(page, ollama, toy)
    expect(picker(page)).to_have_value("smollm2:135m")
    expect(picker(page).get_by_role("option")).to_have_text("smollm2:135m · toy · 135M · 1 B")
    notice = page.locator("#model-error").get_by_role("status")
    expect(notice).to_contain_text("Until one does, a toy replies")
    ask(page, "Hello")
    ollama.models = ("fake",)  # without a reload
    expect(notice).to_contain_text("Ollama answers now")
    expect(page.get_by_role("alert")).to_contain_text("smollm2:135m is no longer available. Choose another model")
    button(page, "fake").click()
    expect(page.locator("#model-error")).to_be_empty()
    ask(page, "Hello again")
    assert [request.json["model"] for request in ollama.generations] == ["smollm2:135m", "fake"]
    page.get_by_role("button", name="New chat", exact=True).click()
    expect(picker(page)).to_have_value("fake")
    expect(page.locator("#model-error")).to_be_empty()


@pytest.mark.extended
def test_a_new_chat_takes_a_model_of_the_ollama_that_was_found(page: Page, ollama: ScriptedOllama) -> None:
    set_models(page, ollama, {"name": "smollm2:135m", "stand_in": True})
    expect(picker(page)).to_have_value("smollm2:135m")
    ollama.models = ("fake",)
    expect(picker(page)).to_have_value("fake")
    expect(page.get_by_role("alert")).to_have_count(0)
    notice = page.locator("#model-error").get_by_role("status")
    expect(notice).to_contain_text("Ollama answers now")
    notice.get_by_role("button", name="Dismiss").click()
    expect(page.locator("#model-error")).to_be_empty()


def test_only_changed_settings_are_sent(page: Page) -> None:
    assert "options" not in ask(page, "Hello")
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
    dialog = open_settings(page)
    dialog.get_by_label("Temperature").fill("0,7")
    dialog.get_by_label("Context length", exact=True).select_option("8192")
    dialog.get_by_label("Maximum reply length").fill("2")
    dialog.get_by_label("Maximum reply length").press("Enter")
    expect(dialog).to_be_hidden()
    page.reload()
    expect(page.get_by_role("button", name="Settings (customized)")).to_be_visible()
    body = ask(page, "Hello again")
    expect(messages(page).nth(3)).to_have_text("w0 w1")
    assert body["options"] == {"temperature": 0.7, "num_ctx": 8192, "num_predict": 2}

    page.get_by_role("button", name="New chat", exact=True).click()
    assert "options" not in ask(page, "Another topic")
    expect(messages(page)).to_have_text(["Another topic", "w0 w1 w2 w3 w4"])

    page.get_by_role("link", name="Hello").click()
    dialog = open_settings(page)
    expect(dialog.get_by_label("Temperature")).to_have_value("0,7")
    dialog.get_by_role("button", name="Clear all").click()
    dialog.get_by_role("button", name="Save").click()
    assert "options" not in ask(page, "And again")
    expect(messages(page).nth(5)).to_have_text("w0 w1 w2 w3 w4")


def test_invalid_settings_show_errors(page: Page, ollama: ScriptedOllama) -> None:
    set_models(page, ollama, LLAMA)
    expect(picker(page)).to_have_value("llama3.2:latest")
    dialog = open_settings(page)
    dialog.get_by_label("Context length", exact=True).select_option("Other…")
    context = dialog.get_by_label("Context length in tokens")
    dialog.get_by_label("Temperature").fill("5")
    context.fill("lots")
    dialog.get_by_label("Top k").fill("1.5")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_text("Temperature must be at most 2.")).to_be_visible()
    expect(dialog.get_by_text("Context length must be a whole number of 16 or more.")).to_be_visible()
    expect(dialog.get_by_text("Top k must be a whole number of 0 or more.")).to_be_visible()
    expect(dialog.get_by_label("Temperature")).to_be_focused()
    expect(dialog.get_by_label("Temperature")).to_have_attribute("aria-invalid", "true")
    dialog.get_by_label("Temperature").fill("1")
    expect(dialog.get_by_text("Temperature must be at most 2.")).to_have_count(0)
    dialog.get_by_role("button", name="Cancel").click()
    assert "options" not in ask(page, "Hello")
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")


def test_a_system_prompt_is_recorded_once_per_change(page: Page, ollama: ScriptedOllama) -> None:
    set_system(page, "Talk like a pirate.")
    send_prompt(page, "Hello")
    system = page.get_by_role("article", name="System")
    expect(messages(page).nth(2)).to_have_text("w0 w1 w2 w3 w4")
    expect(system.get_by_text("Talk like a pirate.")).to_be_hidden()
    system.get_by_text("System prompt").click()
    expect(system.get_by_text("Talk like a pirate.")).to_be_visible()
    assert messages_sent(ollama, 0) == [("system", "Talk like a pirate."), ("user", "Hello")]

    page.reload()
    expect(messages(page)).to_have_count(3)
    expect(system.get_by_text("Talk like a pirate.")).to_be_hidden()
    ask(page, "More")
    expect(messages(page)).to_have_count(5)
    expect(messages(page).nth(4)).to_have_text("w0 w1 w2 w3 w4")
    assert [role for role, _ in messages_sent(ollama, 1)] == ["system", "user", "assistant", "user"]

    set_system(page, "Talk like a poet.")
    ask(page, "Still more")
    expect(messages(page)).to_have_count(8)
    expect(messages(page).nth(7)).to_have_text("w0 w1 w2 w3 w4")
    assert messages_sent(ollama, 2)[-2:] == [("system", "Talk like a poet."), ("user", "Still more")]

    set_system(page, "")
    ask(page, "As yourself")
    expect(messages(page).nth(10)).to_have_text("w0 w1 w2 w3 w4")
    assert messages_sent(ollama, 3)[-2:] == [
        ("system", "The instructions above no longer apply."),
        ("user", "As yourself"),
    ]
    ask(page, "Good")
    expect(messages(page).nth(12)).to_have_text("w0 w1 w2 w3 w4")
    assert [role for role, _ in messages_sent(ollama, 4)][-3:] == ["user", "assistant", "user"]


@pytest.mark.extended
def test_a_system_prompt_is_not_recorded_twice_after_clearing_storage(page: Page, ollama: ScriptedOllama) -> None:
    set_system(page, "Talk like a pirate.")
    ask(page, "Hello")
    expect(messages(page).nth(2)).to_have_text("w0 w1 w2 w3 w4")
    page.evaluate("localStorage.clear()")
    page.reload()
    expect(messages(page)).to_have_count(3)
    set_system(page, "Talk like a pirate.")
    ask(page, "More")
    expect(messages(page)).to_have_count(5)
    expect(messages(page).nth(4)).to_have_text("w0 w1 w2 w3 w4")
    assert [role for role, _ in messages_sent(ollama, 1)] == ["system", "user", "assistant", "user"]


@pytest.mark.extended
def test_settings_of_an_empty_conversation_survive_a_reload(page: Page, ollama: ScriptedOllama) -> None:
    set_system(page, "Talk like a pirate.")
    page.reload()
    expect(picker(page)).to_have_value("fake")
    ask(page, "Hello")
    expect(messages(page).nth(2)).to_have_text("w0 w1 w2 w3 w4")
    assert messages_sent(ollama, 0)[0] == ("system", "Talk like a pirate.")


@pytest.mark.extended
def test_the_dialog_works_with_the_keyboard_and_escape_does_not_stop_a_reply(
    page: Page, ollama: ScriptedOllama
) -> None:
    ollama.script(Head(), Lines(line("On and on")), Gate("the end"))
    send_prompt(page, "Hello")
    expect(messages(page).nth(1)).to_have_text("On and on")
    page.get_by_role("button", name="Settings").press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("System prompt")).to_be_focused()
    page.keyboard.type("Not to be saved")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Settings")).to_be_focused()
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    expect(open_settings(page).get_by_label("System prompt")).to_have_value("")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()


@pytest.mark.extended
def test_the_dialog_fits_a_narrow_window(page: Page) -> None:
    page.set_viewport_size({"width": 320, "height": 568})
    dialog = open_settings(page)
    bounds = dialog.bounding_box()
    assert bounds and bounds["x"] >= 0 and bounds["x"] + bounds["width"] <= 320
    assert bounds["y"] >= 0 and bounds["y"] + bounds["height"] <= 568
    assert not dialog.locator(".settings-body").evaluate("(body) => body.scrollWidth > body.clientWidth")
    dialog.get_by_label("Repeat penalty").fill("1.2")
    expect(dialog.get_by_role("button", name="Save")).to_be_in_viewport()
    expect(prompt_input(page)).to_be_visible()
