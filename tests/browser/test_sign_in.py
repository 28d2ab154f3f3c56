"""Signing in and out: drafts and prompts are kept, and users of one browser see only their own data."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from tests.browser.chat_page import expect_idle, is_prompt, messages, prompt_input, record_errors, send_prompt
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.browser.test_accessibility import findings
from tests.fakes.issuer import AUDIENCE, ISSUER, Issuer, Signer
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program
from tests.tokens import TokenFile


@dataclass
class Site:
    """A server with token authentication, one with JSON web tokens, and a browser."""

    program: Program
    tokens: TokenFile
    with_jwt: Program
    signer: Signer
    browser: Browser


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], str],
    _session_ollama: ScriptedOllama,
    _session_chatterd: Program,
) -> Iterator[Site]:
    """Start Chromium last: no other event loop can run in this thread at the same time."""
    folder = tmp_path_factory.mktemp("sign-in")
    tokens, signer = TokenFile(folder / "tokens"), Signer("key")
    tokens.add("alice")
    tokens.add("bob")
    tokens.add("anna", tenant="alice.outbox.anna")
    tokens.add("olivia", operator=True)
    shared = {"ollama_host": _session_ollama.url, "embedded_model": False, "drain_timeout": 1, "data_dir": folder}
    jwt = {"auth": "jwt", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    with (
        Issuer(signer) as issuer,
        Program(database_url=new_database(), auth="token", token_file=tokens.path, **shared) as program,
        Program(database_url=new_database(), jwt_keys=issuer.url, **jwt, **shared) as with_jwt,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield Site(program, tokens, with_jwt, signer, browser)
        browser.close()
        alarms = program.alarms([]) + with_jwt.alarms([])
    assert not alarms, "".join(alarms)


@pytest.fixture
def browser_errors() -> list[str]:
    """Browser errors, except the rejected requests that these tests cause."""
    return []


@pytest.fixture
def context(site: Site, ollama: ScriptedOllama, browser_errors: list[str]) -> Iterator[BrowserContext]:
    """A new browser profile."""
    context = site.browser.new_context(base_url=site.program.url)
    yield context
    context.close()
    rejection = re.compile("Failed to load resource: the server responded with a status of 40[13]")
    assert not [error for error in browser_errors if not rejection.match(error)]


@pytest.fixture
def page(context: BrowserContext, site: Site, browser_errors: list[str]) -> Page:
    page = context.new_page()
    record_errors(page, site.program.url, browser_errors)
    return page


def submit_token(page: Page, token: str) -> None:
    """Sign in on the sign-in page."""
    expect(page.get_by_label("Token")).to_be_focused()
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()


def expect_chat(page: Page) -> None:
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")


def sign_in(page: Page, site: Site, name: str, path: str = "/") -> None:
    """Open a page and sign in."""
    page.goto(path)
    submit_token(page, site.tokens.token[name])
    page.wait_for_url(lambda url: "/sign-in" not in url)


def titles(page: Page) -> list[str]:
    return page.locator(".conversation a").all_inner_texts()


def test_a_new_user_signs_in_and_chats(page: Page, site: Site) -> None:
    page.goto("/")
    page.wait_for_url("**/sign-in?then=%2F")
    submit_token(page, "chatterd_wrong")
    expect(page.get_by_role("alert").first).to_contain_text("token")
    page.get_by_label("Token").fill(f"  {site.tokens.token['alice']} ")
    page.get_by_label("Token").press("Enter")
    page.wait_for_url(f"{site.program.url}/")
    expect_chat(page)
    send_prompt(page, "Hello")
    expect(messages(page).last).to_contain_text("w0 w1 w2 w3 w4")
    [cookie] = page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == ("chatterd", True, "Strict", "/")
    assert site.tokens.token["alice"] not in str(page.evaluate("JSON.stringify([localStorage, sessionStorage])"))
    assert page.evaluate("document.cookie") == ""


@pytest.mark.extended
def test_a_prompt_is_sent_after_signing_in_to_a_new_session(page: Page, site: Site, ollama: ScriptedOllama) -> None:
    sign_in(page, site, "alice")
    expect_chat(page)
    send_prompt(page, "first")
    expect_idle(page)
    where = page.url

    def end_session(route: Route) -> None:
        if not is_prompt(route.request):
            route.continue_()
            return
        page.context.clear_cookies()
        route.fulfill(status=401, json={"error": "Authentication required."})

    page.route("**/llmchat", end_session)
    send_prompt(page, "a long prompt")
    page.wait_for_url("**/sign-in?**")
    page.unroute_all(behavior="wait")
    submit_token(page, site.tokens.token["alice"])
    page.wait_for_url(where)
    expect(messages(page)).to_have_count(4)
    expect(messages(page).nth(2)).to_contain_text("a long prompt")
    expect(messages(page).nth(3)).to_contain_text("w0 w1 w2 w3 w4")
    expect(prompt_input(page)).to_have_value("")
    assert sum(request.path == "/api/chat" for request in ollama.requests) == 2


@pytest.mark.parametrize("known", [True, False], ids=["known user", "new user"])
@pytest.mark.extended
def test_a_draft_is_kept_through_sign_in(page: Page, site: Site, known: bool) -> None:
    if known:
        sign_in(page, site, "alice")
        expect_chat(page)
        prompt_input(page).fill("half a prompt")
        page.context.clear_cookies()
        page.reload()
    else:

        def type_draft(route: Route) -> None:
            prompt_input(page).fill("half a prompt")
            route.continue_()

        page.route("**/models", type_draft)
        page.goto("/")
    page.wait_for_url("**/sign-in?**")
    page.unroute_all(behavior="wait")
    submit_token(page, site.tokens.token["alice"])
    expect_chat(page)
    expect(prompt_input(page)).to_have_value("half a prompt")


@pytest.mark.extended
def test_a_reply_is_followed_after_signing_in_again(page: Page, site: Site, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("begun")), gate, Lines(line(" and ended"), last_line()))
    sign_in(page, site, "alice")
    expect_chat(page)
    send_prompt(page, "Go")
    expect(messages(page).last).to_contain_text("begun")
    page.context.clear_cookies()
    page.reload()
    page.wait_for_url("**/sign-in?**")
    submit_token(page, site.tokens.token["alice"])
    expect(messages(page).last).to_contain_text("begun")
    gate.open()
    expect(messages(page).last).to_contain_text("begun and ended")
    expect_idle(page)


def test_users_of_one_browser_see_only_their_own_data(page: Page, site: Site) -> None:
    sign_in(page, site, "alice")
    expect_chat(page)
    send_prompt(page, "a secret of Alice")
    expect_idle(page)
    prompt_input(page).fill("a draft of Alice")
    page.get_by_role("link", name="Sign out").click()
    expect(page.get_by_text("You are signed in as alice.")).to_be_visible()
    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert page.context.cookies() == []
    page.goto("/")
    page.wait_for_url("**/sign-in?**")
    submit_token(page, site.tokens.token["bob"])
    expect_chat(page)
    assert titles(page) == []
    expect(prompt_input(page)).to_have_value("")
    expect(page.locator("body")).not_to_contain_text("secret of Alice")
    page.goto("/sign-in")
    page.get_by_role("button", name="Sign out", exact=True).click()
    submit_token(page, site.tokens.token["alice"])
    expect_chat(page)
    expect(page.locator(".conversation a")).to_have_text(["a secret of Alice"])
    page.locator(".conversation a").click()
    expect(messages(page).first).to_contain_text("a secret of Alice")
    expect(prompt_input(page)).to_have_value("a draft of Alice")


@pytest.mark.extended
def test_clearing_browser_data_removes_everything(page: Page, site: Site) -> None:
    sign_in(page, site, "alice")
    expect_chat(page)
    send_prompt(page, "a secret of Alice")
    expect_idle(page)
    page.goto("/sign-in")
    page.get_by_role("button", name="Sign out and clear browser data").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert page.evaluate("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
    assert page.context.cookies() == []


@pytest.mark.extended
def test_tenants_with_a_common_name_prefix_are_separate(page: Page, site: Site) -> None:
    """Like alice@example.com and alice@example.com.au."""
    sign_in(page, site, "anna")
    expect_chat(page)
    send_prompt(page, "a prompt of Anna")
    expect_idle(page)
    keys = "Object.keys(localStorage).filter((name) => name.includes('anna')).sort()"
    keys_of_anna = page.evaluate(keys)
    assert keys_of_anna
    page.goto("/sign-in")
    page.get_by_role("button", name="Sign out", exact=True).click()
    submit_token(page, site.tokens.token["alice"])
    expect_chat(page)
    page.goto("/sign-in")
    page.get_by_role("button", name="Sign out and clear browser data").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert page.evaluate(keys) == keys_of_anna


def test_an_expired_session_shows_no_data(page: Page, site: Site, browser_errors: list[str]) -> None:
    sign_in(page, site, "alice")
    expect_chat(page)
    send_prompt(page, "a secret of Alice")
    expect_idle(page)
    page.evaluate("""() => {
        const session = JSON.parse(localStorage.getItem("chatterd.session"));
        localStorage.setItem("chatterd.session", JSON.stringify({ ...session, until: 1 }));
    }""")
    later = page.context.new_page()
    page.close()
    record_errors(later, site.program.url, browser_errors)
    requested: list[str] = []
    later.on("request", lambda request: requested.append(request.url))
    later.goto("/")
    later.wait_for_url("**/sign-in?**")
    expect(later.get_by_label("Token")).to_be_visible()
    expect(later.locator("body")).not_to_contain_text("alice")
    assert not any("/llmchat" in url or "/models" in url for url in requested)


@pytest.mark.extended
def test_a_tab_reloads_when_another_user_signs_in(page: Page, site: Site, browser_errors: list[str]) -> None:
    sign_in(page, site, "alice")
    expect_chat(page)
    send_prompt(page, "a secret of Alice")
    expect_idle(page)
    other = page.context.new_page()
    record_errors(other, site.program.url, browser_errors)
    other.goto("/sign-in")
    with page.expect_navigation():
        other.get_by_role("button", name="Sign out", exact=True).click()
    page.wait_for_url("**/sign-in?**")
    submit_token(other, site.tokens.token["bob"])
    expect_chat(other)
    page.goto("/")
    expect_chat(page)
    assert titles(page) == []
    expect(page.get_by_role("link", name="Sign out")).to_have_attribute("title", "Signed in as bob")


@pytest.mark.extended
def test_the_status_page_requires_an_operator(page: Page, site: Site) -> None:
    page.goto("/status")
    page.wait_for_url("**/sign-in?then=%2Fstatus")
    submit_token(page, site.tokens.token["alice"])
    expect(page.locator("#problems")).to_contain_text("operator")
    page.get_by_role("link", name="Sign in with another account").click()
    submit_token(page, site.tokens.token["olivia"])
    page.wait_for_url("**/status")
    expect(page.locator("#source")).to_contain_text("Live data from process")
    page.context.clear_cookies()
    page.reload()
    page.wait_for_url("**/sign-in?then=%2Fstatus")


@pytest.mark.extended
def test_the_api_page_is_public_and_links_to_sign_in(page: Page, site: Site) -> None:
    page.goto("/docs#listModels")
    operation = page.locator("#listModels")
    operation.get_by_role("button", name="Send").click()
    expect(operation.get_by_role("status")).to_contain_text("401")
    with page.context.expect_page() as opened:
        operation.get_by_role("link", name="Sign in").click()
    submit_token(opened.value, site.tokens.token["alice"])
    opened.value.wait_for_url("**/docs#listModels")
    operation.get_by_role("button", name="Send").click()
    expect(operation.get_by_role("status")).to_contain_text("200")


@pytest.mark.extended
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.extended)])
def test_axe_finds_no_serious_issues(page: Page, site: Site, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto("/sign-in")
    page.get_by_label("Token").fill("wrong")
    page.get_by_label("Token").press("Enter")
    expect(page.get_by_role("alert").first).to_be_visible()
    assert findings(page) == []
    page.get_by_label("Token").fill(site.tokens.token["alice"])
    page.get_by_label("Token").press("Enter")
    expect_chat(page)
    page.goto("/sign-in")
    expect(page.get_by_text("You are signed in as alice.")).to_be_visible()
    assert findings(page) == []


def test_sign_in_does_not_redirect_to_other_sites(page: Page, site: Site) -> None:
    for then in ("https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"):
        page.context.clear_cookies()
        page.goto("/sign-in")
        page.evaluate("(then) => location.assign('/sign-in?' + new URLSearchParams({ then }))", then)
        page.wait_for_url("**/sign-in?**")
        submit_token(page, site.tokens.token["alice"])
        page.wait_for_url(f"{site.program.url}/")
        expect_chat(page)


@pytest.mark.extended
def test_a_json_web_token_signs_in(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    page.goto(f"{site.with_jwt.url}/")
    submit_token(page, site.signer.sign(name="Alice A."))
    expect_chat(page)
    send_prompt(page, "Hello")
    expect(messages(page).last).to_contain_text("w0 w1 w2 w3 w4")
    expect(page.get_by_role("link", name="Sign out")).to_have_attribute("title", "Signed in as Alice A.")


@pytest.mark.extended
def test_no_sign_in_without_authentication(context: BrowserContext, chatterd: Program) -> None:
    """A session that expired before the server was restarted without --auth does not block the pages."""
    page = context.new_page()
    page.goto(f"{chatterd.url}/")
    expect_chat(page)
    expect(page.get_by_role("link", name="Sign out")).to_be_hidden()
    page.evaluate("""localStorage.setItem("chatterd.session", '{"name": "a", "tenant": "a", "until": 1}')""")
    page.reload()
    expect_chat(page)
