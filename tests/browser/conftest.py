"""Chromium, and a page that fails its test on any browser error or request to another server."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.chat_page import record_errors
from tests.program import Program

CHROMIUM = "/usr/bin/chromium-headless-shell"
"""Debian's headless build of Chromium: a page takes a third of the CPU time of ``chromium --headless``."""

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

expect.set_options(timeout=20_000)  # milliseconds; the machine may be busy with other tests


@pytest.fixture(scope="module")
def browser(_session_chatterd: Program) -> Iterator[Browser]:
    """Chromium, for one module. No other event loop can run in this thread at the same time; hence the program, which
    needs one to create its database, is started first."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def expected_log(expected_log: list[str]) -> list[str]:
    """Allow the warning of a Playwright task that is left over when a reload cancels a routed request."""
    return [*expected_log, r"^Task was destroyed but it is pending![\s\S]*Page\._on_route"]


@pytest.fixture
def browser_errors() -> list[str]:
    """Console errors, uncaught exceptions and requests to other servers."""
    return []


@pytest.fixture
def context(browser: Browser, chatterd: Program, browser_errors: list[str]) -> Iterator[BrowserContext]:
    """A browser profile for one test, without data of other tests."""
    context = browser.new_context(base_url=chatterd.url)
    yield context
    context.close()
    assert not browser_errors


@pytest.fixture
def page(context: BrowserContext, chatterd: Program, browser_errors: list[str]) -> Iterator[Page]:
    """The chat page, opened in a new profile."""
    page = context.new_page()
    record_errors(page, chatterd.url, browser_errors)
    page.goto("/")
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    yield page
    page.unroute_all(behavior="wait")
