"""The list of conversations beside the chat: finding, naming, deleting, and what other tabs and visits see of it."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from tests.browser.test_page import box, messages, say
from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program

UNDO_TIME = 10_000
"""Milliseconds in which a deletion can be undone."""

FORBID_STORAGE = """for (const name of ["localStorage", "sessionStorage"]) {
    Object.defineProperty(window, name, {get() { throw new DOMException("Access is denied.", "SecurityError"); }});
}"""

WATCH_SHIFTS = """window.shifts = [];
new PerformanceObserver((list) => window.shifts.push(...list.getEntries().map(({value}) => value)))
    .observe({type: "layout-shift", buffered: true});"""
"""Keeps what moved on the page, as parts of the window; Chromium counts what moved by itself only."""

FILL_STORAGE = """for (let size = 2 ** 22, text = ""; size >= 1; ) {
    try {
        localStorage.setItem("somebody else's", text + "x".repeat(size));
        text += "x".repeat(size);
    } catch {
        size /= 2;
    }
}"""


def converse(page: Page, text: str) -> str:
    """Begin another conversation and hear its reply out; its appID."""
    page.get_by_role("button", name="New chat", exact=True).click()
    expect(messages(page)).to_have_count(0)
    say(page, text)
    expect(messages(page)).to_have_text([text, "w0 w1 w2 w3 w4"])
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return page.url.partition("#c/")[2]


def titles(page: Page) -> Locator:
    """The links to the conversations, as they are listed."""
    return page.get_by_role("navigation", name="Conversations").get_by_role("link")


def undo(page: Page) -> Locator:
    """What takes a deletion back."""
    return page.get_by_role("button", name="Undo")


def delete(page: Page, title: str) -> None:
    """Delete a conversation, with the time to undo it."""
    titles(page).filter(has_text=title).hover()
    page.get_by_role("button", name=f"Delete “{title}”").click()
    expect(undo(page)).to_be_visible()


@pytest.fixture
def has_messages(chatterd: Program) -> Callable[[str], bool]:
    """Whether the server has anything of a conversation."""

    def ask(appid: str) -> bool:
        with Client(chatterd.url, appid) as client:
            return bool(client.messages())

    return ask


def test_conversations_are_listed_newest_first_and_opened_again(page: Page) -> None:
    expect(page.get_by_text("Your conversations will be listed here.")).to_be_visible()
    converse(page, "First matter")
    converse(page, "Second matter")
    expect(titles(page)).to_have_text(["Second matter", "First matter"])
    titles(page).nth(1).click()
    expect(messages(page).first).to_have_text("First matter")
    expect(titles(page).nth(1)).to_have_attribute("aria-current", "page")
    expect(page).to_have_title("First matter · chatterd")
    expect(box(page)).to_be_focused()
    say(page, "More of it")
    expect(titles(page)).to_have_text(["First matter", "Second matter"])
    page.reload()
    expect(titles(page)).to_have_text(["First matter", "Second matter"])
    expect(messages(page).first).to_have_text("First matter")


def test_a_long_prompt_gives_a_short_title(page: Page) -> None:
    converse(page, "A recipe for lentil soup with much lemon and something to eat beside it on a cold evening")
    expect(titles(page)).to_have_text(["A recipe for lentil soup with much lemon and something to …"])


def test_a_title_is_changed_in_place(page: Page) -> None:
    converse(page, "First matter")
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
    box(page).click()
    expect(titles(page)).to_have_text(["Trees"])
    expect(box(page)).to_be_focused()
    page.reload()
    expect(titles(page)).to_have_text(["Trees"])


def test_a_deletion_that_is_undone_loses_nothing(page: Page, has_messages: Callable[[str], bool]) -> None:
    appid = converse(page, "First matter")
    page.clock.install()
    titles(page).first.press("Delete")
    expect(messages(page)).to_have_count(0)
    expect(undo(page)).to_be_focused()
    undo(page).press("Enter")
    expect(titles(page)).to_have_text(["First matter"])
    expect(titles(page).first).to_be_focused()
    page.clock.fast_forward(3 * UNDO_TIME)
    page.reload()
    titles(page).first.click()
    expect(messages(page)).to_have_text(["First matter", "w0 w1 w2 w3 w4"])
    assert has_messages(appid)


def test_a_deletion_is_carried_out_when_its_time_has_passed(page: Page, has_messages: Callable[[str], bool]) -> None:
    kept, appid = converse(page, "First matter"), converse(page, "Second matter")
    page.clock.install()
    delete(page, "Second matter")
    page.clock.fast_forward(UNDO_TIME // 2)  # the clock runs on beside
    expect(undo(page)).to_be_visible()
    assert has_messages(appid)
    with page.expect_response(lambda response: response.request.method == "DELETE") as answer:
        page.clock.fast_forward(UNDO_TIME // 2 + 1)
    assert answer.value.status == 204
    expect(undo(page)).to_have_count(0)
    expect(titles(page)).to_have_text(["First matter"])
    assert not has_messages(appid) and has_messages(kept)
    eventually(
        "nothing is left in the browser", lambda: page.evaluate(f"!JSON.stringify(localStorage).includes('{appid}')")
    )


def test_a_deletion_is_carried_out_when_the_page_is_left(page: Page, has_messages: Callable[[str], bool]) -> None:
    appid = converse(page, "First matter")
    delete(page, "First matter")
    page.goto("about:blank")
    eventually("the server has forgotten it", lambda: not has_messages(appid))
    page.goto("/")
    expect(page.get_by_text("Your conversations will be listed here.")).to_be_visible()


def test_a_deletion_that_did_not_reach_the_server_is_sent_again(
    page: Page, has_messages: Callable[[str], bool], complaints: list[str]
) -> None:
    appid = converse(page, "First matter")
    away = re.compile("/llmchat\\?")

    def refuse(route: Route) -> None:
        route.abort() if route.request.method == "DELETE" else route.continue_()

    page.route(away, refuse)
    page.clock.install()
    delete(page, "First matter")
    with page.expect_event("requestfailed"):
        page.clock.fast_forward(UNDO_TIME + 1)
    expect(undo(page)).to_have_count(0)
    assert has_messages(appid)
    page.unroute(away)
    page.goto("/")
    eventually("the server has forgotten it", lambda: not has_messages(appid))
    expect(titles(page)).to_have_count(0)
    assert set(complaints) == {"Failed to load resource: net::ERR_FAILED"}
    complaints.clear()


def test_a_deletion_whose_tab_died_is_carried_out_by_the_next(
    page: Page, context: BrowserContext, has_messages: Callable[[str], bool]
) -> None:
    appid = converse(page, "First matter")
    page.evaluate(
        """(name) => {
            const entry = JSON.parse(localStorage.getItem(name));
            localStorage.setItem(name, JSON.stringify({...entry, deleted: Date.now() - 60_000}));
        }""",
        f"chatterd.conversation.{appid}",
    )
    other = context.new_page()
    other.goto("/")
    eventually("the server has forgotten it", lambda: not has_messages(appid))
    expect(titles(other)).to_have_count(0)
    expect(page.get_by_text("The conversation was deleted in another tab.")).to_be_visible()
    expect(messages(page)).to_have_count(0)


def test_saying_something_in_another_tab_keeps_a_deleted_conversation(
    page: Page, context: BrowserContext, has_messages: Callable[[str], bool]
) -> None:
    appid = converse(page, "First matter")
    other = context.new_page()
    other.goto(page.url)
    expect(messages(other)).to_have_count(2)
    page.clock.install()
    delete(page, "First matter")
    expect(undo(other)).to_be_visible()
    say(other, "Not so fast")
    expect(messages(other)).to_have_count(4)
    expect(titles(page)).to_have_text(["First matter"])
    page.clock.fast_forward(3 * UNDO_TIME)
    assert has_messages(appid)


def test_the_address_of_a_deleted_conversation_does_not_bring_it_back(page: Page) -> None:
    converse(page, "First matter")
    delete(page, "First matter")
    page.go_back()
    page.go_forward()
    page.go_back()
    expect(messages(page)).to_have_count(0)
    expect(page.get_by_text("What shall we talk about?")).to_be_visible()
    expect(undo(page)).to_be_visible()


def test_tabs_share_the_list_without_a_reload(page: Page, context: BrowserContext) -> None:
    other = context.new_page()
    other.goto("/")
    converse(page, "First matter")
    expect(titles(other)).to_have_text(["First matter"])
    titles(other).first.press("F2")
    other.get_by_label("Title").fill("Trees")
    other.get_by_label("Title").press("Enter")
    expect(titles(page)).to_have_text(["Trees"])
    expect(page).to_have_title("Trees · chatterd")
    delete(other, "Trees")
    expect(titles(page)).to_have_count(0)
    undo(page).click()
    expect(titles(other)).to_have_text(["Trees"])


def test_a_title_being_written_is_not_disturbed_by_another_tab(page: Page, context: BrowserContext) -> None:
    converse(page, "First matter")
    titles(page).first.press("F2")
    page.get_by_label("Title").fill("Tre")
    other = context.new_page()
    other.goto("/")
    converse(other, "Second matter")
    page.get_by_label("Title").press_sequentially("es")
    expect(page.get_by_label("Title")).to_have_value("Trees")
    page.get_by_label("Title").press("Enter")
    expect(titles(page)).to_have_text(["Second matter", "Trees"])


def test_search_looks_at_titles_and_first_prompts(page: Page) -> None:
    converse(page, "Crème brûlée for four")
    converse(page, "Trees in sandy soil")
    page.get_by_label("Search conversations").fill("BRULEE")
    expect(titles(page)).to_have_text(["Crème brûlée for four"])
    expect(page.get_by_text("1 conversation found.")).to_be_visible()
    page.get_by_label("Search conversations").press("ArrowDown")
    page.keyboard.press("F2")
    page.get_by_label("Title").fill("Dessert")
    page.get_by_label("Title").press("Enter")
    expect(titles(page)).to_have_text(["Dessert"])
    page.get_by_label("Search conversations").fill("nothing of the kind")
    expect(titles(page)).to_have_count(0)
    expect(page.get_by_text("No conversation has these words")).to_be_visible()
    page.get_by_label("Search conversations").press("Escape")
    expect(titles(page)).to_have_text(["Trees in sandy soil", "Dessert"])


def test_arrow_keys_go_through_the_list(page: Page) -> None:
    converse(page, "First matter")
    converse(page, "Second matter")
    page.get_by_label("Search conversations").press("ArrowDown")
    expect(titles(page).nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(titles(page).nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(messages(page).first).to_have_text("First matter")


def test_a_keystroke_begins_a_new_chat_and_leaves_letters_alone(page: Page) -> None:
    converse(page, "First matter")
    expect(page.get_by_text("Ctrl+Alt+N")).to_be_visible()
    polish = {"key": "ń", "code": "KeyN", "ctrlKey": True, "altKey": True, "bubbles": True, "cancelable": True}
    box(page).dispatch_event("keydown", polish)
    expect(messages(page)).to_have_count(2)
    page.keyboard.press("Control+Alt+n")
    expect(messages(page)).to_have_count(0)
    expect(box(page)).to_be_focused()


def test_an_address_leads_to_its_conversation_and_back_and_forward(page: Page, context: BrowserContext) -> None:
    first = converse(page, "First matter")
    second = converse(page, "Second matter")
    assert first != second
    page.go_back()
    expect(page.get_by_text("What shall we talk about?")).to_be_hidden()
    expect(messages(page).first).to_have_text("First matter")
    page.go_forward()
    expect(messages(page).first).to_have_text("Second matter")

    page.evaluate("localStorage.clear()")  # as on another device
    page.goto("about:blank")
    page.goto(f"/#c/{first}")
    expect(messages(page)).to_have_text(["First matter", "w0 w1 w2 w3 w4"])
    expect(titles(page)).to_have_text(["First matter"])


def test_the_conversation_from_before_there_was_a_list_is_taken_over(page: Page, client: Client) -> None:
    client.ask("An old matter")
    page.evaluate("(appID) => localStorage.setItem('chatterd.appID', appID)", client.appid)
    page.goto("about:blank")
    page.goto("/")
    expect(messages(page).first).to_have_text("An old matter")
    expect(titles(page)).to_have_text(["An old matter"])


def test_a_conversation_that_is_being_answered_shows_it(page: Page, ollama: ScriptedOllama) -> None:
    end = Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), end, Lines(last_line("upon a time")))
    say(page, "Tell me a story")
    running = page.get_by_text("is being answered")
    expect(messages(page).nth(1)).to_have_text("Once")
    expect(running).to_have_count(1)
    page.get_by_role("button", name="New chat", exact=True).click()
    expect(messages(page)).to_have_count(0)
    expect(running).to_have_count(1)
    end.open()
    expect(running).to_have_count(0, timeout=15_000)


def test_drafts_are_kept_for_each_conversation_and_through_reloads(page: Page) -> None:
    box(page).fill("Not begun yet")
    page.reload()
    expect(box(page)).to_have_value("Not begun yet")
    box(page).fill("First matter")
    box(page).press("Enter")
    expect(messages(page)).to_have_count(2)
    box(page).fill("What I was about to ask")
    page.get_by_role("button", name="New chat", exact=True).click()
    expect(box(page)).to_have_value("")
    box(page).fill("Another draft")
    titles(page).first.click()
    expect(box(page)).to_have_value("What I was about to ask")
    page.reload()
    expect(box(page)).to_have_value("What I was about to ask")
    page.get_by_role("button", name="New chat", exact=True).click()
    expect(box(page)).to_have_value("Another draft")


def test_the_box_grows_to_a_third_of_the_window(page: Page) -> None:
    def height() -> float:
        bounds = box(page).bounding_box()
        assert bounds
        return bounds["height"]

    small = height()
    box(page).fill("one\ntwo\nthree")
    assert height() > small + 30
    box(page).fill("line\n" * 100)
    window = page.viewport_size
    assert window and window["height"] * 0.3 < height() < window["height"] * 0.34
    box(page).fill("")
    assert height() == small


def test_on_a_narrow_window_the_list_is_a_drawer_for_the_keyboard_too(page: Page, ollama: ScriptedOllama) -> None:
    never = Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), never)
    page.set_viewport_size({"width": 320, "height": 568})
    say(page, "Tell me a story")
    expect(messages(page).nth(1)).to_have_text("Once")
    opener = page.get_by_role("button", name="Conversations", exact=True)
    expect(titles(page)).to_have_count(0)  # nothing of it is within reach while it is closed
    opener.press("Enter")
    drawer = page.get_by_role("dialog", name="Sidebar")
    expect(titles(page)).to_have_text(["Tell me a story is being answered"])
    expect(page.get_by_role("button", name="Close the list of conversations")).to_be_focused()
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
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()  # Escape was for the drawer
    opener.click()
    titles(page).first.click()
    expect(drawer).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()


@pytest.mark.parametrize("width", [1280, 700, 320])
def test_nothing_moves_while_the_page_loads(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    say(page, "First matter")
    expect(messages(page)).to_have_text(["First matter", "w0 w1 w2 w3 w4"])
    page.add_init_script(WATCH_SHIFTS)
    page.reload()
    expect(messages(page)).to_have_count(2)
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    moved = page.evaluate(
        "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(window.shifts), 100)))"
    )
    assert sum(moved) < 0.01


@pytest.fixture
def forgetful(context: BrowserContext, chatterd: Program, complaints: list[str]) -> Page:
    """The page in a browser that keeps nothing."""
    page = context.new_page()
    page.add_init_script(FORBID_STORAGE)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto("/")
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    return page


def test_where_storage_is_forbidden_the_page_works_and_says_so(forgetful: Page) -> None:
    expect(forgetful.get_by_text("This browser keeps nothing for this page.")).to_be_visible()
    forgetful.get_by_role("button", name="Understood").click()
    converse(forgetful, "First matter")
    converse(forgetful, "Second matter")
    titles(forgetful).nth(1).click()
    expect(messages(forgetful).first).to_have_text("First matter")
    forgetful.reload()
    expect(messages(forgetful).first).to_have_text("First matter")  # its address names it


def test_where_storage_is_full_the_page_works_and_says_so(page: Page) -> None:
    page.evaluate(FILL_STORAGE)
    say(page, "First matter")
    expect(messages(page)).to_have_text(["First matter", "w0 w1 w2 w3 w4"])
    expect(titles(page)).to_have_text(["First matter"])
    expect(page.get_by_text("This browser has no room left for this page.")).to_be_visible()
