"""The sidebar: listing, searching, renaming and deleting conversations, across tabs and reloads."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from tests.browser.chat_page import messages, prompt_input, send_prompt
from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program

UNDO_TIMEOUT = 10_000
"""Milliseconds in which a deletion can be undone."""

BLOCK_STORAGE = """for (const name of ["localStorage", "sessionStorage"]) {
    Object.defineProperty(window, name, {get() { throw new DOMException("Access is denied.", "SecurityError"); }});
}"""

WATCH_SHIFTS = """window.shifts = [];
new PerformanceObserver((list) => window.shifts.push(...list.getEntries().map(({value}) => value)))
    .observe({type: "layout-shift", buffered: true});"""
"""Record layout shifts, as fractions of the window."""

FILL_STORAGE = """for (let size = 2 ** 22, text = ""; size >= 1; ) {
    try {
        localStorage.setItem("other", text + "x".repeat(size));
        text += "x".repeat(size);
    } catch {
        size /= 2;
    }
}"""


def start_conversation(page: Page, text: str) -> str:
    """Start a conversation and wait for the end of its reply; return its appID."""
    page.get_by_role("button", name="New chat", exact=True).click()
    expect(messages(page)).to_have_count(0)
    send_prompt(page, text)
    expect(messages(page)).to_have_text([text, "w0 w1 w2 w3 w4"])
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return page.url.partition("#c/")[2]


def titles(page: Page) -> Locator:
    """The links in the conversation list."""
    return page.get_by_role("navigation", name="Conversations").get_by_role("link")


def undo(page: Page) -> Locator:
    """The button that undoes a deletion."""
    return page.get_by_role("button", name="Undo")


def delete(page: Page, title: str) -> None:
    """Delete a conversation; it can still be undone."""
    titles(page).filter(has_text=title).hover()
    page.get_by_role("button", name=f"Delete “{title}”").click()
    expect(undo(page)).to_be_visible()


@pytest.fixture
def has_messages(chatterd: Program) -> Callable[[str], bool]:
    """Return whether the server has messages of a conversation."""

    def ask(appid: str) -> bool:
        with Client(chatterd.url, appid) as client:
            return bool(client.messages())

    return ask


def test_conversations_are_listed_newest_first_and_can_be_opened(page: Page) -> None:
    expect(page.get_by_text("Your conversations appear here.")).to_be_visible()
    start_conversation(page, "First topic")
    start_conversation(page, "Second topic")
    expect(titles(page)).to_have_text(["Second topic", "First topic"])
    titles(page).nth(1).click()
    expect(messages(page).first).to_have_text("First topic")
    expect(titles(page).nth(1)).to_have_attribute("aria-current", "page")
    expect(page).to_have_title("First topic · chatterd")
    expect(prompt_input(page)).to_be_focused()
    send_prompt(page, "More of it")
    expect(titles(page)).to_have_text(["First topic", "Second topic"])
    page.reload()
    expect(titles(page)).to_have_text(["First topic", "Second topic"])
    expect(messages(page).first).to_have_text("First topic")


@pytest.mark.extended
def test_a_long_prompt_is_shortened_to_a_title(page: Page) -> None:
    start_conversation(
        page, "A recipe for lentil soup with much lemon and something to eat beside it on a cold evening"
    )
    expect(titles(page)).to_have_text(["A recipe for lentil soup with much lemon and something to…"])


@pytest.mark.extended
def test_a_title_can_be_renamed_in_place(page: Page) -> None:
    start_conversation(page, "First topic")
    titles(page).first.press("F2")
    title = page.get_by_label("Title")
    expect(title).to_be_focused()
    title.fill("Gardening")
    title.press("Enter")
    expect(titles(page)).to_have_text(["Gardening"])
    expect(titles(page).first).to_be_focused()
    page.get_by_role("button", name="Rename “Gardening”").click()
    title.fill("Something else")
    title.press("Escape")
    expect(titles(page)).to_have_text(["Gardening"])
    page.get_by_role("button", name="Rename “Gardening”").click()
    title.fill("Trees")
    prompt_input(page).click()
    expect(titles(page)).to_have_text(["Trees"])
    expect(prompt_input(page)).to_be_focused()
    page.reload()
    expect(titles(page)).to_have_text(["Trees"])


@pytest.mark.extended
def test_undoing_a_deletion_keeps_the_conversation(page: Page, has_messages: Callable[[str], bool]) -> None:
    appid = start_conversation(page, "First topic")
    page.clock.install()
    titles(page).first.press("Delete")
    expect(messages(page)).to_have_count(0)
    expect(undo(page)).to_be_focused()
    undo(page).press("Enter")
    expect(titles(page)).to_have_text(["First topic"])
    expect(titles(page).first).to_be_focused()
    page.clock.fast_forward(3 * UNDO_TIMEOUT)
    page.reload()
    titles(page).first.click()
    expect(messages(page)).to_have_text(["First topic", "w0 w1 w2 w3 w4"])
    assert has_messages(appid)


def test_a_deletion_is_sent_after_the_undo_timeout(page: Page, has_messages: Callable[[str], bool]) -> None:
    kept, appid = start_conversation(page, "First topic"), start_conversation(page, "Second topic")
    page.clock.install()
    delete(page, "Second topic")
    page.clock.fast_forward(UNDO_TIMEOUT // 2)  # real time passes, too
    expect(undo(page)).to_be_visible()
    assert has_messages(appid)
    with page.expect_response(lambda response: response.request.method == "DELETE") as answer:
        page.clock.fast_forward(UNDO_TIMEOUT // 2 + 1)
    assert answer.value.status == 204
    expect(undo(page)).to_have_count(0)
    expect(titles(page)).to_have_text(["First topic"])
    assert not has_messages(appid) and has_messages(kept)
    eventually(
        "the browser has deleted its data", lambda: page.evaluate(f"!JSON.stringify(localStorage).includes('{appid}')")
    )


@pytest.mark.extended
def test_a_deletion_is_sent_when_the_page_is_unloaded(page: Page, has_messages: Callable[[str], bool]) -> None:
    appid = start_conversation(page, "First topic")
    delete(page, "First topic")
    page.goto("about:blank")
    eventually("the server has deleted it", lambda: not has_messages(appid))
    page.goto("/")
    expect(page.get_by_text("Your conversations appear here.")).to_be_visible()


@pytest.mark.extended
def test_a_failed_deletion_is_retried(
    page: Page, has_messages: Callable[[str], bool], browser_errors: list[str]
) -> None:
    appid = start_conversation(page, "First topic")
    deletion = re.compile("/llmchat\\?")

    def refuse(route: Route) -> None:
        route.abort() if route.request.method == "DELETE" else route.continue_()

    page.route(deletion, refuse)
    page.clock.install()
    delete(page, "First topic")
    with page.expect_event("requestfailed"):
        page.clock.fast_forward(UNDO_TIMEOUT + 1)
    expect(undo(page)).to_have_count(0)
    assert has_messages(appid)
    page.unroute(deletion)
    page.goto("/")
    eventually("the server has deleted it", lambda: not has_messages(appid))
    expect(titles(page)).to_have_count(0)
    assert set(browser_errors) == {"Failed to load resource: net::ERR_FAILED"}
    browser_errors.clear()


@pytest.mark.extended
def test_a_deletion_of_a_crashed_tab_is_sent_by_the_next_tab(
    page: Page, context: BrowserContext, has_messages: Callable[[str], bool]
) -> None:
    appid = start_conversation(page, "First topic")
    page.evaluate(
        """(name) => {
            const entry = JSON.parse(localStorage.getItem(name));
            localStorage.setItem(name, JSON.stringify({...entry, deletedAt: Date.now() - 60_000}));
        }""",
        f"chatterd.conversation.{appid}",
    )
    other = context.new_page()
    other.goto("/")
    eventually("the server has deleted it", lambda: not has_messages(appid))
    expect(titles(other)).to_have_count(0)
    expect(page.get_by_text("This conversation was deleted in another tab.")).to_be_visible()
    expect(messages(page)).to_have_count(0)


@pytest.mark.extended
def test_a_prompt_in_another_tab_restores_a_deleted_conversation(
    page: Page, context: BrowserContext, has_messages: Callable[[str], bool]
) -> None:
    appid = start_conversation(page, "First topic")
    other = context.new_page()
    other.goto(page.url)
    expect(messages(other)).to_have_count(2)
    page.clock.install()
    delete(page, "First topic")
    expect(undo(other)).to_be_visible()
    send_prompt(other, "Not so fast")
    expect(messages(other)).to_have_count(4)
    expect(titles(page)).to_have_text(["First topic"])
    page.clock.fast_forward(3 * UNDO_TIMEOUT)
    assert has_messages(appid)


@pytest.mark.extended
def test_the_url_of_a_deleted_conversation_does_not_restore_it(page: Page) -> None:
    start_conversation(page, "First topic")
    delete(page, "First topic")
    page.go_back()
    page.go_forward()
    page.go_back()
    expect(messages(page)).to_have_count(0)
    expect(page.get_by_text("What can I help with?")).to_be_visible()
    expect(undo(page)).to_be_visible()


@pytest.mark.extended
def test_tabs_share_the_conversation_list(page: Page, context: BrowserContext) -> None:
    other = context.new_page()
    other.goto("/")
    start_conversation(page, "First topic")
    expect(titles(other)).to_have_text(["First topic"])
    titles(other).first.press("F2")
    other.get_by_label("Title").fill("Trees")
    other.get_by_label("Title").press("Enter")
    expect(titles(page)).to_have_text(["Trees"])
    expect(page).to_have_title("Trees · chatterd")
    delete(other, "Trees")
    expect(titles(page)).to_have_count(0)
    undo(page).click()
    expect(titles(other)).to_have_text(["Trees"])


@pytest.mark.extended
def test_renaming_is_not_interrupted_by_another_tab(page: Page, context: BrowserContext) -> None:
    start_conversation(page, "First topic")
    titles(page).first.press("F2")
    page.get_by_label("Title").fill("Tre")
    other = context.new_page()
    other.goto("/")
    start_conversation(other, "Second topic")
    page.get_by_label("Title").press_sequentially("es")
    expect(page.get_by_label("Title")).to_have_value("Trees")
    page.get_by_label("Title").press("Enter")
    expect(titles(page)).to_have_text(["Second topic", "Trees"])


@pytest.mark.extended
def test_search_matches_titles_and_first_prompts(page: Page) -> None:
    start_conversation(page, "Crème brûlée for four")
    start_conversation(page, "Trees in sandy soil")
    page.get_by_label("Search conversations").fill("BRULEE")
    expect(titles(page)).to_have_text(["Crème brûlée for four"])
    expect(page.get_by_text("1 conversation found.")).to_be_visible()
    page.get_by_label("Search conversations").press("ArrowDown")
    page.keyboard.press("F2")
    page.get_by_label("Title").fill("Dessert")
    page.get_by_label("Title").press("Enter")
    expect(titles(page)).to_have_text(["Dessert"])
    page.get_by_label("Search conversations").fill("no such text")
    expect(titles(page)).to_have_count(0)
    expect(page.get_by_text("No conversations found.")).to_be_visible()
    page.get_by_label("Search conversations").press("Escape")
    expect(titles(page)).to_have_text(["Trees in sandy soil", "Dessert"])


@pytest.mark.extended
def test_arrow_keys_navigate_the_list(page: Page) -> None:
    start_conversation(page, "First topic")
    start_conversation(page, "Second topic")
    page.get_by_label("Search conversations").press("ArrowDown")
    expect(titles(page).nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(titles(page).nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(messages(page).first).to_have_text("First topic")


@pytest.mark.extended
def test_the_new_chat_shortcut_does_not_block_typed_characters(page: Page) -> None:
    start_conversation(page, "First topic")
    expect(page.get_by_text("Ctrl+Alt+N")).to_be_visible()
    polish = {"key": "ń", "code": "KeyN", "ctrlKey": True, "altKey": True, "bubbles": True, "cancelable": True}
    prompt_input(page).dispatch_event("keydown", polish)
    expect(messages(page)).to_have_count(2)
    page.keyboard.press("Control+Alt+n")
    expect(messages(page)).to_have_count(0)
    expect(prompt_input(page)).to_be_focused()


def test_urls_and_browser_history_open_their_conversations(page: Page, context: BrowserContext) -> None:
    first = start_conversation(page, "First topic")
    second = start_conversation(page, "Second topic")
    assert first != second
    page.go_back()
    expect(page.get_by_text("What can I help with?")).to_be_hidden()
    expect(messages(page).first).to_have_text("First topic")
    page.go_forward()
    expect(messages(page).first).to_have_text("Second topic")

    page.evaluate("localStorage.clear()")  # like on another device
    page.goto("about:blank")
    page.goto(f"/#c/{first}")
    expect(messages(page)).to_have_text(["First topic", "w0 w1 w2 w3 w4"])
    expect(titles(page)).to_have_text(["First topic"])


@pytest.mark.extended
def test_the_conversation_of_an_old_version_is_listed(page: Page, client: Client) -> None:
    client.ask("An old topic")
    page.evaluate("(appID) => localStorage.setItem('chatterd.appID', appID)", client.appid)
    page.goto("about:blank")
    page.goto("/")
    expect(messages(page).first).to_have_text("An old topic")
    expect(titles(page)).to_have_text(["An old topic"])


def test_a_running_reply_is_marked_in_the_list(page: Page, ollama: ScriptedOllama) -> None:
    end = Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), end, Lines(last_line("upon a time")))
    send_prompt(page, "Tell me a story")
    running = page.get_by_text("Generating a reply")
    expect(messages(page).nth(1)).to_have_text("Once")
    expect(running).to_have_count(1)
    page.get_by_role("button", name="New chat", exact=True).click()
    expect(messages(page)).to_have_count(0)
    expect(running).to_have_count(1)
    end.open()
    expect(running).to_have_count(0, timeout=15_000)


def test_each_conversation_keeps_its_draft_across_reloads(page: Page) -> None:
    prompt_input(page).fill("Not begun yet")
    page.reload()
    expect(prompt_input(page)).to_have_value("Not begun yet")
    prompt_input(page).fill("First topic")
    prompt_input(page).press("Enter")
    expect(messages(page)).to_have_count(2)
    prompt_input(page).fill("What I was about to ask")
    page.get_by_role("button", name="New chat", exact=True).click()
    expect(prompt_input(page)).to_have_value("")
    prompt_input(page).fill("Another draft")
    titles(page).first.click()
    expect(prompt_input(page)).to_have_value("What I was about to ask")
    page.reload()
    expect(prompt_input(page)).to_have_value("What I was about to ask")
    page.get_by_role("button", name="New chat", exact=True).click()
    expect(prompt_input(page)).to_have_value("Another draft")


@pytest.mark.extended
def test_the_text_area_grows_to_a_third_of_the_window(page: Page) -> None:
    def height() -> float:
        bounds = prompt_input(page).bounding_box()
        assert bounds
        return bounds["height"]

    small = height()
    prompt_input(page).fill("one\ntwo\nthree")
    assert height() > small + 30
    prompt_input(page).fill("line\n" * 100)
    window = page.viewport_size
    assert window and window["height"] * 0.3 < height() < window["height"] * 0.34
    prompt_input(page).fill("")
    assert height() == small


@pytest.mark.extended
def test_in_a_narrow_window_the_sidebar_is_a_modal_drawer(page: Page, ollama: ScriptedOllama) -> None:
    never = Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), never)
    page.set_viewport_size({"width": 320, "height": 568})
    send_prompt(page, "Tell me a story")
    expect(messages(page).nth(1)).to_have_text("Once")
    opener = page.get_by_role("button", name="Open sidebar")
    expect(titles(page)).to_have_count(0)  # not accessible while closed
    opener.press("Enter")
    drawer = page.get_by_role("dialog", name="Sidebar")
    expect(titles(page)).to_have_text(["Tell me a story Generating a reply"])
    expect(page.get_by_role("button", name="Close sidebar")).to_be_focused()
    seen = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        assert drawer.evaluate("(drawer) => drawer.contains(document.activeElement)")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"search", "close-sidebar"} <= seen
    page.keyboard.press("Shift+Tab")
    assert drawer.evaluate("(drawer) => drawer.contains(document.activeElement)")
    page.keyboard.press("Escape")
    expect(drawer).to_have_count(0)
    expect(opener).to_be_focused()
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()  # Escape closed only the drawer
    opener.click()
    titles(page).first.click()
    expect(drawer).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()


@pytest.mark.extended
def test_loading_causes_no_layout_shift(page: Page) -> None:
    send_prompt(page, "First topic")
    expect(messages(page)).to_have_text(["First topic", "w0 w1 w2 w3 w4"])
    page.add_init_script(WATCH_SHIFTS)
    for width in (1280, 700, 320):
        page.set_viewport_size({"width": width, "height": 700})
        page.reload()
        expect(messages(page)).to_have_count(2)
        expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
        shifts = page.evaluate(
            "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(window.shifts), 100)))"
        )
        assert sum(shifts) < 0.01, width


@pytest.fixture
def page_without_storage(context: BrowserContext, chatterd: Program, browser_errors: list[str]) -> Page:
    """The page in a browser that blocks storage."""
    page = context.new_page()
    page.add_init_script(BLOCK_STORAGE)
    page.on("pageerror", lambda error: browser_errors.append(str(error)))
    page.goto("/")
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    return page


def test_blocked_storage_shows_a_warning_and_the_page_works(page_without_storage: Page) -> None:
    expect(page_without_storage.get_by_text("This browser blocks storage for this page.")).to_be_visible()
    page_without_storage.get_by_role("button", name="Dismiss").click()
    start_conversation(page_without_storage, "First topic")
    start_conversation(page_without_storage, "Second topic")
    titles(page_without_storage).nth(1).click()
    expect(messages(page_without_storage).first).to_have_text("First topic")
    page_without_storage.reload()
    expect(messages(page_without_storage).first).to_have_text("First topic")  # from the URL


@pytest.mark.extended
def test_full_storage_shows_a_warning_and_the_page_works(page: Page) -> None:
    page.evaluate(FILL_STORAGE)
    send_prompt(page, "First topic")
    expect(messages(page)).to_have_text(["First topic", "w0 w1 w2 w3 w4"])
    expect(titles(page)).to_have_text(["First topic"])
    expect(page.get_by_text("storage for this page is full.")).to_be_visible()
