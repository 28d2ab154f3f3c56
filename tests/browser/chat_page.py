"""What tests do on the chat page, and where they look."""

from typing import Any

from playwright.sync_api import ConsoleMessage, Locator, Page, Request, Response, expect


def box(page: Page) -> Locator:
    """Where a prompt is written."""
    return page.get_by_label("Message", exact=True)


def say(page: Page, text: str) -> None:
    """Send a prompt."""
    box(page).fill(text)
    box(page).press("Enter")


def messages(page: Page) -> Locator:
    """All messages on the page, oldest first."""
    return page.get_by_role("article")


def button(page: Page, name: str) -> Locator:
    """The button of this very name that can be seen."""
    return page.get_by_role("button", name=name, exact=True)


def status(page: Page) -> Locator:
    """How what is under way stands."""
    return page.locator(".status .line.waiting")


def announcer(page: Page) -> Locator:
    """What is said to who listens to the page."""
    return page.locator("#announcer")


def expect_idle(page: Page) -> None:
    """Wait until nothing is under way."""
    expect(button(page, "Send")).to_be_visible()


def is_prompt(request: Request) -> bool:
    """Whether it is the page's request for a reply."""
    return request.method == "POST" and request.url.endswith("/llmchat")


def say_and_catch(page: Page, text: str) -> tuple[Response, dict[str, Any]]:
    """Send a prompt; the server's answer, and the request's body."""
    with page.expect_response(lambda response: is_prompt(response.request)) as caught:
        say(page, text)
    body = caught.value.request.post_data_json
    assert isinstance(body, dict)
    return caught.value, body


def forgive_failed_requests(complaints: list[str]) -> None:
    """Forget what the browser says of the requests that the test let fail."""
    rest = [complaint for complaint in complaints if not complaint.startswith("Failed to load resource")]
    assert len(rest) < len(complaints)
    complaints[:] = rest


def watch(page: Page, url: str, complaints: list[str]) -> None:
    """Note what the page should not cause: console errors, refused content, requests to elsewhere than ``url``."""

    def check_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def check_request(request: Request) -> None:
        if not request.url.startswith(f"{url}/"):
            complaints.append(f"request to {request.url}")

    page.on("console", check_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", check_request)


def open_beside(page: Page, complaints: list[str]) -> Page:
    """The same conversation in another tab."""
    other = page.context.new_page()
    watch(other, page.url.split("/", 3)[0] + "//" + page.url.split("/", 3)[2], complaints)
    other.goto(page.url)
    expect(other.get_by_label("Model", exact=True)).to_have_value("fake")
    return other
