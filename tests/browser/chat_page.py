"""Actions and locators of the chat page."""

from typing import Any

from playwright.sync_api import ConsoleMessage, Locator, Page, Request, Response, expect


def prompt_input(page: Page) -> Locator:
    """The text area of the composer."""
    return page.get_by_label("Message", exact=True)


def send_prompt(page: Page, text: str) -> None:
    """Send a prompt."""
    prompt_input(page).fill(text)
    prompt_input(page).press("Enter")


def messages(page: Page) -> Locator:
    """All messages on the page, oldest first."""
    return page.get_by_role("article")


def button(page: Page, name: str) -> Locator:
    """The visible button with this exact name."""
    return page.get_by_role("button", name=name, exact=True)


def busy_status(page: Page) -> Locator:
    """The status line of a reply in progress."""
    return page.locator(".status-line.busy")


def announcer(page: Page) -> Locator:
    """The live region for screen readers."""
    return page.locator("#announcer")


def expect_idle(page: Page) -> None:
    """Wait until no prompt or reply is in progress."""
    expect(button(page, "Send")).to_be_visible()


def expect_rendered(page: Page) -> None:
    """Wait until all Markdown on the page is rendered."""
    expect(page.locator(".markdown[aria-busy]")).to_have_count(0, timeout=60_000)


def is_prompt(request: Request) -> bool:
    """Whether the request sends a prompt."""
    return request.method == "POST" and request.url.endswith("/llmchat")


def send_and_capture(page: Page, text: str) -> tuple[Response, dict[str, Any]]:
    """Send a prompt; return the response and the request's body."""
    with page.expect_response(lambda response: is_prompt(response.request)) as captured:
        send_prompt(page, text)
    body = captured.value.request.post_data_json
    assert isinstance(body, dict)
    return captured.value, body


def ignore_failed_requests(browser_errors: list[str]) -> None:
    """Remove the console errors of requests that the test made fail; there must be some."""
    others = [error for error in browser_errors if not error.startswith("Failed to load resource")]
    assert len(others) < len(browser_errors)
    browser_errors[:] = others


def record_errors(page: Page, url: str, browser_errors: list[str]) -> None:
    """Record console errors and warnings, uncaught exceptions, and requests to other servers than ``url``."""

    def check_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            browser_errors.append(message.text)

    def check_request(request: Request) -> None:
        if not request.url.startswith(f"{url}/"):
            browser_errors.append(f"request to {request.url}")

    page.on("console", check_console)
    page.on("pageerror", lambda error: browser_errors.append(str(error)))
    page.on("request", check_request)


def open_second_tab(page: Page, browser_errors: list[str]) -> Page:
    """Open the same conversation in another tab."""
    other = page.context.new_page()
    record_errors(other, page.url.split("/", 3)[0] + "//" + page.url.split("/", 3)[2], browser_errors)
    other.goto(page.url)
    expect(other.get_by_label("Model", exact=True)).to_have_value("fake")
    return other
