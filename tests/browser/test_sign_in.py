"""Signing in and out in Chromium: nothing written is lost on the way, and nobody finds what another person left."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from tests.browser.chat_page import box, expect_idle, is_prompt, messages, say, watch
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.browser.test_accessibility import findings
from tests.fakes.issuer import AUDIENCE, ISSUER, Issuer, Signer
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program
from tests.tokens import TokenFile


@dataclass
class Site:
    """A chatterd that wants tokens, one that wants JSON web tokens, and a browser."""

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
    """The site; Chromium comes last, as no other event loop runs in this thread while it does."""
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
def complaints() -> list[str]:
    """What the pages should not have caused, but for the refusals that these tests are about."""
    return []


@pytest.fixture
def context(site: Site, ollama: ScriptedOllama, complaints: list[str]) -> Iterator[BrowserContext]:
    """A browser that nobody has used yet."""
    context = site.browser.new_context(base_url=site.program.url)
    yield context
    context.close()
    refusal = re.compile("Failed to load resource: the server responded with a status of 40[13]")
    assert not [complaint for complaint in complaints if not refusal.match(complaint)]


@pytest.fixture
def page(context: BrowserContext, site: Site, complaints: list[str]) -> Page:
    page = context.new_page()
    watch(page, site.program.url, complaints)
    return page


def enter(page: Page, token: str) -> None:
    """Sign in on the page that is shown."""
    expect(page.get_by_label("Token")).to_be_focused()
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()


def open_chat(page: Page) -> None:
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")


def sign_in(page: Page, site: Site, name: str, path: str = "/") -> None:
    """Go to a page, and sign in on the way."""
    page.goto(path)
    enter(page, site.tokens.token[name])
    page.wait_for_url(lambda url: "/sign-in" not in url)


def titles(page: Page) -> list[str]:
    return page.locator(".conversation a").all_inner_texts()


def test_a_stranger_signs_in_and_chats(page: Page, site: Site) -> None:
    page.goto("/")
    page.wait_for_url("**/sign-in?then=%2F")
    enter(page, "chatterd_wrong")
    expect(page.get_by_role("alert").first).to_have_text(
        "The token is not valid. Check that it is complete, or get a new one."
    )
    page.get_by_label("Token").fill(f"  {site.tokens.token['alice']} ")
    page.get_by_label("Token").press("Enter")
    page.wait_for_url(f"{site.program.url}/")
    open_chat(page)
    say(page, "Hello")
    expect(messages(page).last).to_contain_text("w0 w1 w2 w3 w4")
    [cookie] = page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == ("chatterd", True, "Strict", "/")
    assert site.tokens.token["alice"] not in str(page.evaluate("JSON.stringify([localStorage, sessionStorage])"))
    assert page.evaluate("document.cookie") == ""


def test_a_prompt_that_meets_the_end_of_a_session_is_sent_after_signing_in_again(
    page: Page, site: Site, ollama: ScriptedOllama
) -> None:
    sign_in(page, site, "alice")
    open_chat(page)
    say(page, "first")
    expect_idle(page)
    where = page.url

    def end_session(route: Route) -> None:
        if not is_prompt(route.request):
            route.continue_()
            return
        page.context.clear_cookies()
        route.fulfill(status=401, json={"error": "Authentication required."})

    page.route("**/llmchat", end_session)
    say(page, "a prompt that took long to write")
    page.wait_for_url("**/sign-in?**")
    page.unroute_all(behavior="wait")
    enter(page, site.tokens.token["alice"])
    page.wait_for_url(where)
    expect(messages(page)).to_have_count(4)
    expect(messages(page).nth(2)).to_contain_text("a prompt that took long to write")
    expect(messages(page).nth(3)).to_contain_text("w0 w1 w2 w3 w4")
    expect(box(page)).to_have_value("")
    assert sum(request.path == "/api/chat" for request in ollama.requests) == 2


@pytest.mark.parametrize("known", [True, False], ids=["signed in before", "never here"])
def test_what_is_written_and_not_sent_is_there_after_signing_in(page: Page, site: Site, known: bool) -> None:
    if known:
        sign_in(page, site, "alice")
        open_chat(page)
        box(page).fill("half a prompt")
        page.context.clear_cookies()
        page.reload()
    else:

        def write_meanwhile(route: Route) -> None:
            box(page).fill("half a prompt")
            route.continue_()

        page.route("**/models", write_meanwhile)
        page.goto("/")
    page.wait_for_url("**/sign-in?**")
    page.unroute_all(behavior="wait")
    enter(page, site.tokens.token["alice"])
    open_chat(page)
    expect(box(page)).to_have_value("half a prompt")


def test_a_reply_is_followed_to_its_end_through_signing_in_again(
    page: Page, site: Site, ollama: ScriptedOllama
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("begun")), gate, Lines(line(" and ended"), last_line()))
    sign_in(page, site, "alice")
    open_chat(page)
    say(page, "Go")
    expect(messages(page).last).to_contain_text("begun")
    page.context.clear_cookies()
    page.reload()
    page.wait_for_url("**/sign-in?**")
    enter(page, site.tokens.token["alice"])
    expect(messages(page).last).to_contain_text("begun")
    gate.open()
    expect(messages(page).last).to_contain_text("begun and ended")
    expect_idle(page)


def test_the_next_person_finds_nothing_and_the_first_one_all_of_it(page: Page, site: Site) -> None:
    sign_in(page, site, "alice")
    open_chat(page)
    say(page, "the secret of Alice")
    expect_idle(page)
    box(page).fill("her draft")
    page.get_by_role("link", name="Sign out").click()
    expect(page.get_by_text("You are signed in as alice.")).to_be_visible()
    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert page.context.cookies() == []
    page.goto("/")
    page.wait_for_url("**/sign-in?**")
    enter(page, site.tokens.token["bob"])
    open_chat(page)
    assert titles(page) == []
    expect(box(page)).to_have_value("")
    expect(page.locator("body")).not_to_contain_text("secret of Alice")
    page.goto("/sign-in")
    page.get_by_role("button", name="Sign out", exact=True).click()
    enter(page, site.tokens.token["alice"])
    open_chat(page)
    expect(page.locator(".conversation a")).to_have_text(["the secret of Alice"])
    page.locator(".conversation a").click()
    expect(messages(page).first).to_contain_text("the secret of Alice")
    expect(box(page)).to_have_value("her draft")


def test_who_clears_the_browser_leaves_nothing_there(page: Page, site: Site) -> None:
    sign_in(page, site, "alice")
    open_chat(page)
    say(page, "the secret of Alice")
    expect_idle(page)
    page.goto("/sign-in")
    page.get_by_role("button", name="Sign out and clear this browser").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert page.evaluate("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
    assert page.context.cookies() == []


def test_a_tenant_whose_name_goes_on_where_anothers_ends_is_another(page: Page, site: Site) -> None:
    """As alice@example.com and alice@example.com.au."""
    sign_in(page, site, "anna")
    open_chat(page)
    say(page, "what Anna says")
    expect_idle(page)
    kept = "Object.keys(localStorage).filter((name) => name.includes('anna')).sort()"
    annas = page.evaluate(kept)
    assert annas
    page.goto("/sign-in")
    page.get_by_role("button", name="Sign out", exact=True).click()
    enter(page, site.tokens.token["alice"])
    open_chat(page)
    page.goto("/sign-in")
    page.get_by_role("button", name="Sign out and clear this browser").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert page.evaluate(kept) == annas


def test_a_session_that_ended_shows_nothing_of_whose_it_was(page: Page, site: Site, complaints: list[str]) -> None:
    sign_in(page, site, "alice")
    open_chat(page)
    say(page, "the secret of Alice")
    expect_idle(page)
    page.evaluate("""() => {
        const record = JSON.parse(localStorage.getItem("chatterd.signed-in"));
        localStorage.setItem("chatterd.signed-in", JSON.stringify({ ...record, until: 1 }));
    }""")
    later = page.context.new_page()
    page.close()
    watch(later, site.program.url, complaints)
    asked: list[str] = []
    later.on("request", lambda request: asked.append(request.url))
    later.goto("/")
    later.wait_for_url("**/sign-in?**")
    expect(later.get_by_label("Token")).to_be_visible()
    expect(later.locator("body")).not_to_contain_text("alice")
    assert not any("/llmchat" in url or "/models" in url for url in asked)


def test_a_tab_that_another_person_signed_in_beside_starts_anew(page: Page, site: Site, complaints: list[str]) -> None:
    sign_in(page, site, "alice")
    open_chat(page)
    say(page, "the secret of Alice")
    expect_idle(page)
    other = page.context.new_page()
    watch(other, site.program.url, complaints)
    other.goto("/sign-in")
    with page.expect_navigation():
        other.get_by_role("button", name="Sign out", exact=True).click()
    page.wait_for_url("**/sign-in?**")
    enter(other, site.tokens.token["bob"])
    open_chat(other)
    page.goto("/")
    open_chat(page)
    assert titles(page) == []
    expect(page.get_by_role("link", name="Sign out")).to_have_attribute("title", "You are signed in as bob")


def test_the_status_is_for_operators(page: Page, site: Site) -> None:
    page.goto("/status")
    page.wait_for_url("**/sign-in?then=%2Fstatus")
    enter(page, site.tokens.token["alice"])
    expect(page.locator("#sentences")).to_have_text(
        "Only operators of this server may see this. Sign in with a token of an operator."
    )
    page.get_by_role("link", name="Sign in as somebody else.").click()
    enter(page, site.tokens.token["olivia"])
    page.wait_for_url("**/status")
    expect(page.locator("#source")).to_contain_text("Live figures of process")
    page.context.clear_cookies()
    page.reload()
    page.wait_for_url("**/sign-in?then=%2Fstatus")


def test_the_api_page_is_read_by_anyone_and_leads_to_signing_in(page: Page, site: Site) -> None:
    page.goto("/docs#listModels")
    operation = page.locator("#listModels")
    operation.get_by_role("button", name="Send").click()
    expect(operation.get_by_role("status")).to_contain_text("401")
    with page.context.expect_page() as opened:
        operation.get_by_role("link", name="Sign in").click()
    enter(opened.value, site.tokens.token["alice"])
    opened.value.wait_for_url("**/docs#listModels")
    operation.get_by_role("button", name="Send").click()
    expect(operation.get_by_role("status")).to_contain_text("200")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, site: Site, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto("/sign-in")
    page.get_by_label("Token").fill("wrong")
    page.get_by_label("Token").press("Enter")
    expect(page.get_by_role("alert").first).to_be_visible()
    assert findings(page) == []
    page.get_by_label("Token").fill(site.tokens.token["alice"])
    page.get_by_label("Token").press("Enter")
    open_chat(page)
    page.goto("/sign-in")
    expect(page.get_by_text("You are signed in as alice.")).to_be_visible()
    assert findings(page) == []


@pytest.mark.parametrize("then", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"])
def test_signing_in_leads_to_no_other_site(page: Page, site: Site, then: str) -> None:
    page.goto("/sign-in")
    page.evaluate("(then) => location.assign('/sign-in?' + new URLSearchParams({ then }))", then)
    page.wait_for_url("**/sign-in?**")
    enter(page, site.tokens.token["alice"])
    page.wait_for_url(f"{site.program.url}/")
    open_chat(page)


def test_a_json_web_token_signs_in_too(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    page.goto(f"{site.with_jwt.url}/")
    enter(page, site.signer.sign(name="Alice A."))
    open_chat(page)
    say(page, "Hello")
    expect(messages(page).last).to_contain_text("w0 w1 w2 w3 w4")
    expect(page.get_by_role("link", name="Sign out")).to_have_attribute("title", "You are signed in as Alice A.")


def test_where_nobody_signs_in_nobody_has_to(context: BrowserContext, chatterd: Program) -> None:
    """After --auth was taken away, a browser that still thinks that it is signed out goes on."""
    page = context.new_page()
    page.goto(f"{chatterd.url}/")
    open_chat(page)
    expect(page.get_by_role("link", name="Sign out")).to_be_hidden()
    page.evaluate("""localStorage.setItem("chatterd.signed-in", '{"name": "a", "tenant": "a", "until": 1}')""")
    page.reload()
    open_chat(page)
