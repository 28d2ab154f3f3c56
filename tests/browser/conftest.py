"""Chromium, and a page that fails its test for any complaint of the browser and any request to elsewhere."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.chat_page import watch
from tests.program import Program

CHROMIUM = "/usr/bin/chromium-headless-shell"
"""Debian's Chromium without windows: a page costs it a third of what it costs ``chromium --headless``."""

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

expect.set_options(timeout=20_000)  # milliseconds; a machine that runs other tests beside may be slow


@pytest.fixture(scope="module")
def browser(_session_chatterd: Program) -> Iterator[Browser]:
    """Chromium. It ends with the module: while it runs, no other event loop can run in this thread; hence the
    program, which needs one to make its database, comes first."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def expected_log(expected_log: list[str]) -> list[str]:
    """Playwright leaves a task of its own behind where a reload took a request away that a test was to answer."""
    return [*expected_log, r"^Task was destroyed but it is pending![\s\S]*Page\._on_route"]


@pytest.fixture
def complaints() -> list[str]:
    """What the page should not have caused: console errors, refused content, requests to elsewhere."""
    return []


@pytest.fixture
def context(browser: Browser, chatterd: Program, complaints: list[str]) -> Iterator[BrowserContext]:
    """A profile of the test's own: nothing that pages of other tests kept, or still write, is in it."""
    context = browser.new_context(base_url=chatterd.url)
    yield context
    context.close()
    assert not complaints


@pytest.fixture
def page(context: BrowserContext, chatterd: Program, complaints: list[str]) -> Iterator[Page]:
    """The chat page, just opened by somebody who was never here."""
    page = context.new_page()
    watch(page, chatterd.url, complaints)
    page.goto("/")
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    yield page
    page.unroute_all(behavior="wait")
