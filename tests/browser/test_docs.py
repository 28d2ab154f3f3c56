"""The API page: every operation is documented and can be tried, with streamed responses."""

import json

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser.chat_page import record_errors
from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import ROOT, Program

DOCUMENT = json.loads((ROOT / "static" / "openapi.json").read_text())
OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
}


@pytest.fixture
def page(context: BrowserContext, chatterd: Program, browser_errors: list[str]) -> Page:
    """An empty page."""
    page = context.new_page()
    record_errors(page, chatterd.url, browser_errors)
    return page


@pytest.fixture
def docs(page: Page) -> Page:
    """The API page."""
    page.goto("/docs")
    expect(page.locator("details.operation")).to_have_count(len(OPERATIONS))
    return page


def opened(docs: Page, id: str) -> Locator:
    """Open an operation."""
    method, path, operation = OPERATIONS[id]
    docs.get_by_role("heading", name=f"{method} {path} {operation['summary']}", exact=True).click()
    return docs.locator(f"#{id}")


def body_input(operation: Locator) -> Locator:
    """The text area of the request body."""
    return operation.get_by_role("textbox", name="Body")


def write_prompt(operation: Locator, appid: str) -> None:
    """Fill in a prompt to a conversation."""
    body = {"appID": appid, "model": "fake", "messages": [{"role": "user", "content": "hi"}]}
    body_input(operation).fill(json.dumps(body))


def send(operation: Locator) -> Locator:
    """Send the request; return the status of the response."""
    operation.get_by_role("button", name="Send").click()
    return operation.get_by_role("status")


@pytest.mark.extended
def test_every_operation_is_shown_with_its_parameters_and_responses(docs: Page) -> None:
    contents = docs.get_by_role("navigation", name="Operations")
    for id, (_, path, described) in OPERATIONS.items():
        operation = opened(docs, id)
        item = [*DOCUMENT["paths"][path].get("parameters", []), *described.get("parameters", [])]
        expect(operation.locator("form label .name")).to_have_count(len(item))
        expect(operation.locator(".response > summary .status")).to_have_text([*described["responses"]])
        expect(operation).to_contain_text(described["description"].split("\n\n")[0].split("`")[0])
        expect(contents.get_by_role("link", name=described["summary"], exact=True)).to_be_visible()


def test_a_response_is_shown_with_headers_fields_and_examples(docs: Page) -> None:
    operation = opened(docs, "beginReply")
    operation.locator(".response", has_text="200").locator("summary").first.click()
    response = operation.locator(".response").first
    expect(response.get_by_text("Content-Location", exact=True)).to_be_visible()
    expect(response.get_by_text("eval_count", exact=True)).to_be_visible()
    expect(response.get_by_role("group", name="Ollama returns an error")).to_contain_text("event: error")


def test_a_stream_is_shown_while_it_is_received(docs: Page, client: Client, ollama: ScriptedOllama) -> None:
    gates = [Gate("the second word"), Gate("the end")]
    ollama.script(Head(), Lines(line("Par")), gates[0], Lines(line("is.")), gates[1], Lines(last_line()))
    operation = opened(docs, "beginReply")
    write_prompt(operation, client.appid)
    status = send(operation)
    events = operation.get_by_label("Events").get_by_role("listitem")
    expect(events).to_have_count(1)
    expect(operation.locator(".text")).to_have_text("Par")
    expect(status).to_contain_text("200 OK")
    expect(status).to_contain_text("receiving")
    gates[0].open()
    expect(events).to_have_count(2)
    expect(operation.locator(".text")).to_have_text("Paris.")
    expect(operation.get_by_role("button", name="Close connection")).to_be_visible()
    gates[1].open()
    expect(status).to_contain_text("200 OK, 3 events")
    expect(events.nth(2)).to_contain_text('"done":true')
    expect(operation.get_by_role("button", name="Close connection")).to_be_hidden()
    assert client.messages() == [("user", "hi"), ("assistant", "Paris.")]


@pytest.mark.extended
def test_the_id_of_a_started_reply_is_filled_in_to_follow_and_stop_it(
    docs: Page, client: Client, ollama: ScriptedOllama
) -> None:
    ollama.script(Head(), Lines(line("On and on")), Gate("the end"))
    operation = opened(docs, "beginReply")
    write_prompt(operation, client.appid)
    operation.get_by_label("Prefer").select_option("respond-async")
    expect(send(operation)).to_contain_text("202 Accepted")

    following = opened(docs, "getReply")
    status = send(following)
    expect(following.locator(".text")).to_have_text("On and on")
    expect(send(opened(docs, "stopReply"))).to_contain_text("202 Accepted, no body")
    expect(status).to_contain_text("200 OK, 2 events")
    following.get_by_role("textbox", name="Last-Event-ID").fill("1")
    expect(send(following)).to_contain_text("204 No Content")


@pytest.mark.extended
def test_closing_the_connection_does_not_stop_the_reply(docs: Page, client: Client, ollama: ScriptedOllama) -> None:
    more = Gate("more words")
    ollama.script(Head(), Lines(line("Once ")), more, Lines(last_line("upon a time")))
    operation = opened(docs, "beginReply")
    write_prompt(operation, client.appid)
    status = send(operation)
    expect(operation.locator(".text")).to_have_text("Once")
    operation.get_by_role("button", name="Close connection").click()
    expect(status).to_contain_text("Connection closed.")
    running = client.history()["reply"]["id"]
    more.open()
    client.view(f"/llmchat/{running}")
    assert client.messages()[-1] == ("assistant", "Once upon a time")


def test_errors_before_and_in_a_stream_are_shown(
    docs: Page, client: Client, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    operation = opened(docs, "beginReply")
    body_input(operation).fill('{"appID": "a", "model": "fake"}')
    expect(send(operation)).to_contain_text("422 Unprocessable")
    expect(operation.get_by_label("Response body")).to_contain_text("messages")
    assert [error for error in browser_errors if "422" in error] == browser_errors != []
    browser_errors.clear()
    ollama.script(Head(), Lines(b'{"error":"out of memory"}'))
    write_prompt(operation, client.appid)
    expect(send(operation)).to_contain_text("200 OK, 1 event,")
    expect(operation.locator(".events .error")).to_contain_text("out of memory")


def test_hostile_text_is_shown_as_text(docs: Page, client: Client, ollama: ScriptedOllama) -> None:
    words = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    ollama.script(Head(), Lines(last_line(words)))
    operation = opened(docs, "beginReply")
    write_prompt(operation, client.appid)
    expect(send(operation)).to_contain_text("1 event,")
    expect(operation.locator(".text")).to_have_text(words)
    reading = opened(docs, "getConversation")
    reading.get_by_label("appID").fill(client.appid)
    expect(send(reading)).to_contain_text("200 OK")
    expect(reading.get_by_label("Response body")).to_contain_text(words)


@pytest.mark.extended
def test_only_the_newest_events_of_a_long_stream_are_shown(docs: Page, client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(*[line(f"w{number} ") for number in range(1000)], last_line()))
    operation = opened(docs, "beginReply")
    write_prompt(operation, client.appid)
    expect(send(operation)).to_contain_text("200 OK, 1001 events")
    expect(operation.get_by_label("Events").get_by_role("listitem")).to_have_count(300)
    expect(operation.locator(".text")).to_contain_text("w0 w1")
    expect(operation.locator(".text")).to_contain_text("w999")


@pytest.mark.extended
def test_responses_of_ollama_are_shown(docs: Page, ollama: ScriptedOllama) -> None:
    generating = opened(docs, "generate")
    expect(body_input(generating)).to_have_value('{\n  "model": "fake",\n  "prompt": "The sky is"\n}')
    expect(send(generating)).to_contain_text("200 OK")
    expect(generating.get_by_label("Response body")).to_contain_text('"response":"w4 "')
    listing = opened(docs, "listModels")
    expect(send(listing)).to_contain_text("200 OK")
    expect(listing.get_by_label("Response body")).to_contain_text('"name": "fake"')


@pytest.mark.extended
def test_the_page_works_with_the_keyboard(docs: Page, chatterd: Program) -> None:
    docs.keyboard.press("Tab")
    expect(docs.get_by_role("link", name="Skip to the operations")).to_be_focused()
    docs.keyboard.press("Enter")
    docs.keyboard.press("Tab")
    expect(docs.locator("#beginReply > summary")).to_be_focused()
    health = docs.locator("#getHealth")
    for _ in range(40):
        if docs.evaluate("document.activeElement.parentElement.id") == "getHealth":
            break
        docs.keyboard.press("Tab")
    docs.keyboard.press("Enter")
    expect(health.get_by_role("button", name="Send")).to_be_visible()
    for _ in health.locator("form input").all():
        docs.keyboard.press("Tab")
    docs.keyboard.press("Tab")
    expect(health.get_by_role("button", name="Send")).to_be_focused()
    docs.keyboard.press("Enter")
    expect(health.get_by_role("status")).to_contain_text("200 OK")
    expect(health.get_by_label("Response body")).to_contain_text('"alive"')


@pytest.mark.extended
def test_a_url_fragment_opens_its_operation(page: Page) -> None:
    page.goto("/docs#stopReply")
    expect(page.get_by_role("form", name="Try DELETE /llmchat/{replyId}")).to_be_visible()
    expect(page.locator("#stopReply > summary")).to_be_focused()
    page.get_by_role("navigation", name="Operations").get_by_role("link", name="Read a conversation").click()
    expect(page.get_by_role("form", name="Try GET /llmchat", exact=True)).to_be_visible()


@pytest.mark.extended
@pytest.mark.needs("npm")
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.extended)])
def test_the_page_fits_a_narrow_window_and_is_accessible(docs: Page, scheme: str) -> None:
    docs.emulate_media(color_scheme="light" if scheme == "light" else "dark")
    docs.set_viewport_size({"width": 320, "height": 568})
    for id in OPERATIONS:
        opened(docs, id)
    expect(send(docs.locator("#listModels"))).to_contain_text("200 OK")
    docs.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert docs.evaluate("document.documentElement.scrollWidth") == 320
    docs.evaluate((ROOT / "tests" / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = docs.evaluate("axe.run().then(({violations}) => violations.map(({id, nodes}) => [id, nodes[0].html]))")
    assert found == []
    docs.emulate_media(color_scheme="no-preference")
    docs.set_viewport_size({"width": 1280, "height": 720})
