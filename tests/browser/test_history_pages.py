"""A conversation whose messages are large: the server's pages have fewer messages, the page shows as many as before."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chat_page import button, expect_idle, messages, send_prompt
from tests.client import Client
from tests.program import Program

COUNT = 70
"""Messages of 100 kB each: a page of the server has 20 of them."""

SHOWN = 50
"""Messages that the page loads at once."""


def open_large_conversation(page: Page, chatterd: Program, client: Client) -> None:
    """Record a conversation, and open it."""
    large = {"role": "user", "note": "x" * 100_000}
    body = client.body() | {"messages": [large | {"content": f"message {n}"} for n in range(COUNT)], "stream": False}
    assert client.http.post("/llmprep", json=body).status_code == 200
    assert len(client.history()["messages"]) == 20
    page.goto(f"{chatterd.url}/#c/{client.appid}")


@pytest.mark.extended
def test_the_page_loads_as_many_messages_as_if_they_were_small(page: Page, chatterd: Program) -> None:
    with Client(chatterd.url) as client:
        open_large_conversation(page, chatterd, client)
        expect(messages(page)).to_have_count(SHOWN)
        expect(messages(page).first).to_contain_text(f"message {COUNT - SHOWN}")
        button(page, "Load earlier messages").click()
        expect(messages(page)).to_have_count(COUNT)
        expect(messages(page).first).to_contain_text("message 0")
        expect(button(page, "Load earlier messages")).to_be_hidden()


@pytest.mark.extended
def test_messages_stay_on_the_page_after_a_prompt(page: Page, chatterd: Program) -> None:
    with Client(chatterd.url) as client:
        open_large_conversation(page, chatterd, client)
        expect(messages(page)).to_have_count(SHOWN)
        send_prompt(page, "short")
        expect_idle(page)
        expect(messages(page).first).to_contain_text(f"message {COUNT - SHOWN}")
        expect(messages(page)).to_have_count(SHOWN + 2)
