"""The summary of what the model is not sent any more: shown where its memory begins, and edited there."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.chat_page import button, ignore_failed_requests, messages, record_errors
from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import Model, ScriptedOllama, Text
from tests.program import Program

SUMMARY = "one two three four five"
"""What the scripted model says, of whatever it is asked."""


@pytest.fixture
def summarizing(session_database_url: str, start_chatterd: Callable[..., Program], ollama: ScriptedOllama) -> Program:
    ollama.model = Model(num_ctx=400)
    ollama.default = (Text(SUMMARY),)
    return start_chatterd(database_url=session_database_url, summarize=True)


@pytest.fixture
def summarised(summarizing: Program) -> str:
    """A conversation with a summary; its appID."""
    with Client(summarizing.url) as client:

        def has_summary() -> bool:
            client.ask(" ".join(["words", *["and"] * 40]))
            return client.history()["summary"] is not None

        eventually("there is a summary", has_summary)
        return client.appid


@pytest.fixture
def own_page(context: BrowserContext, summarizing: Program, summarised: str, browser_errors: list[str]) -> Page:
    """The chat page with that conversation."""
    page = context.new_page()
    record_errors(page, summarizing.url, browser_errors)
    page.goto(f"{summarizing.url}/#c/{summarised}")
    expect(messages(page).last).to_be_visible()
    return page


def test_a_summary_is_shown_and_edited_where_the_models_memory_begins(
    own_page: Page, summarizing: Program, summarised: str
) -> None:
    start = own_page.locator(".memory-start")
    text = start.locator(".summary-text")
    expect(start).to_contain_text("The model sees a summary of the messages above.")
    expect(text).to_be_hidden()
    start.locator("summary").click()
    expect(text).to_have_text(SUMMARY)
    button(own_page, "Edit summary").click()
    own_page.keyboard.press("Escape")
    expect(button(own_page, "Edit summary")).to_be_focused()
    button(own_page, "Edit summary").click()
    editor = own_page.get_by_label("Summary of the messages above")
    editor.fill("<b>They</b> counted.")
    button(own_page, "Save").click()
    expect(text).to_have_text("<b>They</b> counted.")
    with Client(summarizing.url, summarised) as client:
        assert client.history()["summary"]["text"] == "<b>They</b> counted."
        assert client.history()["summary"]["edited"]
    button(own_page, "Edit summary").click()
    editor.fill("")
    button(own_page, "Save").click()
    expect(start).to_have_text("The model no longer sees the messages above.")


def test_a_summary_that_was_replaced_meanwhile_is_not_overwritten(
    own_page: Page, summarizing: Program, summarised: str, browser_errors: list[str]
) -> None:
    start = own_page.locator(".memory-start")
    start.locator("summary").click()
    button(own_page, "Edit summary").click()
    own_page.get_by_label("Summary of the messages above").fill("too late")
    with Client(summarizing.url, summarised) as client:
        assert client.http.delete("/llmchat", params={"appID": summarised}).status_code == 204
        client.ask("Hello")
    button(own_page, "Save").click()
    expect(own_page.get_by_role("alert")).to_contain_text("The summary is not saved.")
    expect(messages(own_page)).to_have_text(["Hello", SUMMARY])
    ignore_failed_requests(browser_errors)
