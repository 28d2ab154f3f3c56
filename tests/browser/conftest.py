"""Chromium, and a page that fails its test for any complaint of the browser and any request to elsewhere."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.program import Program

CHROMIUM = "/usr/bin/chromium"
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
def context(_session_chatterd: Program) -> Iterator[BrowserContext]:
    """Chromium with one profile. It ends with the module: while it runs, no other event loop can run in
    this thread; hence the program, which needs one to make its database, comes first."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser.new_context(base_url=_session_chatterd.url)
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
def page(context: BrowserContext, chatterd: Program, complaints: list[str]) -> Iterator[Page]:
    """The chat page, just opened by somebody who was never here."""

    def check_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def check_request(request: Request) -> None:
        if not request.url.startswith(f"{chatterd.url}/"):
            complaints.append(f"request to {request.url}")

    page = context.new_page()
    page.on("console", check_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", check_request)
    page.goto("/")
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    yield page
    page.unroute_all(behavior="wait")
    page.evaluate("localStorage.clear()")
    page.close()
    assert not complaints
