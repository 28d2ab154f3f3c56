"""The model picker and a conversation's settings: what is offered, what is refused, and what the model gets of it."""

from playwright.sync_api import Locator, Page, expect

from tests.browser.test_page import box, messages, say
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, line

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


def offer(page: Page, ollama: ScriptedOllama, *models: str | dict[str, object]) -> None:
    """Let Ollama have these models, and open the page anew."""
    ollama.models = models
    page.reload()


def picker(page: Page) -> Locator:
    """Where the model is chosen."""
    return page.get_by_label("Model", exact=True)


def open_settings(page: Page) -> Locator:
    """The dialog."""
    page.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog", name="Settings of this conversation")
    expect(dialog).to_be_visible()
    return dialog


def set_system(page: Page, text: str) -> None:
    """Change the system prompt."""
    dialog = open_settings(page)
    dialog.get_by_label("System prompt").fill(text)
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_be_hidden()


def ask(page: Page, text: str) -> None:
    """Send a prompt and hear its reply out."""
    say(page, text)
    expect(page.get_by_role("article", name="You").last).to_have_text(text)
    expect(messages(page).last).to_contain_text("w1")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def said(ollama: ScriptedOllama, number: int) -> list[tuple[str, str]]:
    """What the model was given in a request, as roles and words."""
    return [(one["role"], one["content"]) for one in ollama.requests[number].json["messages"]]


def test_models_are_offered_with_their_sizes(page: Page, ollama: ScriptedOllama) -> None:
    offer(page, ollama, EMBEDDER, LLAMA, "fake")
    expect(picker(page)).to_have_value("llama3.2:latest")  # the first that can chat
    options = picker(page).get_by_role("option")
    expect(options.nth(0)).to_have_text("nomic-embed-text:latest · 137M · 274 MB")
    expect(options.nth(1)).to_have_text("llama3.2:latest · 3.2B · 2.0 GB")


def test_without_a_model_the_page_says_what_to_do(page: Page, ollama: ScriptedOllama) -> None:
    offer(page, ollama)
    expect(picker(page)).to_be_disabled()
    expect(page.get_by_role("alert")).to_contain_text("ollama pull")
    ollama.models = ("fake",)
    page.get_by_role("button", name="Look again").click()
    expect(picker(page)).to_have_value("fake")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_each_conversation_keeps_its_model(page: Page, ollama: ScriptedOllama) -> None:
    offer(page, ollama, "fake", "other")
    ask(page, "First matter")
    page.get_by_role("button", name="New chat", exact=True).click()
    picker(page).select_option("other")
    ask(page, "Second matter")
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
    page.get_by_role("link", name="First matter").click()
    expect(picker(page)).to_have_value("fake")
    page.get_by_role("link", name="Second matter").click()
    expect(picker(page)).to_have_value("other")
    page.reload()
    expect(picker(page)).to_have_value("other")
    assert [request.json["model"] for request in ollama.requests] == ["fake", "other"]

    offer(page, ollama, "fake")
    expect(page.get_by_role("alert")).to_contain_text("other is not there any more. fake goes on")
    expect(picker(page)).to_have_value("fake")


def test_settings_reach_the_model_and_defaults_do_not(page: Page, ollama: ScriptedOllama) -> None:
    ask(page, "Hello")
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
    assert "options" not in ollama.requests[0].json
    dialog = open_settings(page)
    dialog.get_by_label("Temperature").fill("0,7")
    dialog.get_by_label("Context length").fill(" 8192 ")
    dialog.get_by_label("Longest reply").fill("2")
    dialog.get_by_label("Longest reply").press("Enter")
    expect(dialog).to_be_hidden()
    page.reload()
    expect(page.get_by_role("button", name="Settings, changed for this conversation")).to_be_visible()
    ask(page, "Hello again")
    expect(messages(page).nth(3)).to_have_text("w0 w1")
    assert ollama.requests[1].json["options"] == {"temperature": 0.7, "num_ctx": 8192, "num_predict": 2}

    page.get_by_role("button", name="New chat", exact=True).click()
    ask(page, "Another matter")
    expect(messages(page)).to_have_text(["Another matter", "w0 w1 w2 w3 w4"])
    assert "options" not in ollama.requests[2].json

    page.get_by_role("link", name="Hello").click()
    dialog = open_settings(page)
    expect(dialog.get_by_label("Temperature")).to_have_value("0,7")
    dialog.get_by_role("button", name="Clear all").click()
    dialog.get_by_role("button", name="Save").click()
    ask(page, "And again")
    expect(messages(page).nth(5)).to_have_text("w0 w1 w2 w3 w4")
    assert "options" not in ollama.requests[3].json


def test_wrong_settings_are_explained_in_words(page: Page, ollama: ScriptedOllama) -> None:
    offer(page, ollama, LLAMA)
    expect(picker(page)).to_have_value("llama3.2:latest")
    dialog = open_settings(page)
    context = dialog.get_by_label("Context length")
    expect(context).to_have_attribute("placeholder", "the model’s own; 8192 at most")
    dialog.get_by_label("Temperature").fill("5")
    context.fill("lots")
    dialog.get_by_label("Top k").fill("1.5")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_text("Temperature may be 2 at most.")).to_be_visible()
    expect(dialog.get_by_text("Context length must be a whole number of 16 or more.")).to_be_visible()
    expect(dialog.get_by_text("Top k must be a whole number of 0 or more.")).to_be_visible()
    expect(dialog.get_by_label("Temperature")).to_be_focused()
    expect(dialog.get_by_label("Temperature")).to_have_attribute("aria-invalid", "true")
    dialog.get_by_label("Temperature").fill("1")
    expect(dialog.get_by_text("Temperature may be 2 at most.")).to_have_count(0)
    dialog.get_by_role("button", name="Cancel").click()
    ask(page, "Hello")
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
    assert "options" not in ollama.requests[0].json


def test_a_system_prompt_is_recorded_once_and_again_when_it_changes(page: Page, ollama: ScriptedOllama) -> None:
    set_system(page, "Talk like a pirate.")
    say(page, "Hello")
    system = page.get_by_role("article", name="System")
    expect(messages(page).nth(2)).to_have_text("w0 w1 w2 w3 w4")
    expect(system.get_by_text("Talk like a pirate.")).to_be_hidden()
    system.get_by_text("System prompt").click()
    expect(system.get_by_text("Talk like a pirate.")).to_be_visible()
    assert said(ollama, 0) == [("system", "Talk like a pirate."), ("user", "Hello")]

    page.reload()
    expect(messages(page)).to_have_count(3)
    expect(system.get_by_text("Talk like a pirate.")).to_be_hidden()
    ask(page, "More")
    expect(messages(page)).to_have_count(5)
    expect(messages(page).nth(4)).to_have_text("w0 w1 w2 w3 w4")
    assert [role for role, _ in said(ollama, 1)] == ["system", "user", "assistant", "user"]

    set_system(page, "Talk like a poet.")
    ask(page, "Still more")
    expect(messages(page)).to_have_count(8)
    expect(messages(page).nth(7)).to_have_text("w0 w1 w2 w3 w4")
    assert said(ollama, 2)[-2:] == [("system", "Talk like a poet."), ("user", "Still more")]

    set_system(page, "")
    ask(page, "As yourself")
    expect(messages(page).nth(10)).to_have_text("w0 w1 w2 w3 w4")
    assert said(ollama, 3)[-2:] == [("system", "The instructions above no longer apply."), ("user", "As yourself")]
    ask(page, "Good")
    expect(messages(page).nth(12)).to_have_text("w0 w1 w2 w3 w4")
    assert [role for role, _ in said(ollama, 4)][-3:] == ["user", "assistant", "user"]


def test_a_browser_that_lost_its_list_does_not_record_the_system_prompt_twice(
    page: Page, ollama: ScriptedOllama
) -> None:
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
    assert [role for role, _ in said(ollama, 1)] == ["system", "user", "assistant", "user"]


def test_settings_made_before_the_first_word_survive_a_reload(page: Page, ollama: ScriptedOllama) -> None:
    set_system(page, "Talk like a pirate.")
    page.reload()
    expect(picker(page)).to_have_value("fake")
    ask(page, "Hello")
    expect(messages(page).nth(2)).to_have_text("w0 w1 w2 w3 w4")
    assert said(ollama, 0)[0] == ("system", "Talk like a pirate.")


def test_the_dialog_works_by_keyboard_and_its_escape_stops_no_reply(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("On and on")), Gate("the end"))
    say(page, "Hello")
    expect(messages(page).nth(1)).to_have_text("On and on")
    page.get_by_role("button", name="Settings").press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("System prompt")).to_be_focused()
    page.keyboard.type("Not to be kept")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Settings")).to_be_focused()
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    expect(open_settings(page).get_by_label("System prompt")).to_have_value("")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()


def test_the_dialog_fits_a_narrow_window(page: Page) -> None:
    page.set_viewport_size({"width": 320, "height": 568})
    dialog = open_settings(page)
    bounds = dialog.bounding_box()
    assert bounds and bounds["x"] >= 0 and bounds["x"] + bounds["width"] <= 320
    assert bounds["y"] >= 0 and bounds["y"] + bounds["height"] <= 568
    assert not dialog.locator(".settings-body").evaluate("(body) => body.scrollWidth > body.clientWidth")
    dialog.get_by_label("Repeat penalty").fill("1.2")
    expect(dialog.get_by_role("button", name="Save")).to_be_in_viewport()
    expect(box(page)).to_be_visible()
