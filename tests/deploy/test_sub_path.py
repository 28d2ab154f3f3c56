"""Below a path: a real nginx serves chatterd at /chat/ and passes the path on, or removes it; with Chromium."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.balancers import Balancer, free_ports
from tests.browser.chat_page import messages, record_errors, send_prompt
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.client import NO_TLS, Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program
from tests.tokens import TokenFile

pytestmark = pytest.mark.needs("nginx")

CHROMIUM_NEEDED = pytest.mark.needs("chromium-headless-shell")


class BelowPath(Balancer):
    """nginx with the commented locations of deploy/nginx.conf in place of the others.

    :param removes: whether it removes /chat from the paths of requests.
    """

    def __init__(self, port: int, server: int, removes: bool) -> None:
        self._removes = removes
        super().__init__("nginx", port, [server] * 3)

    def _configuration(self, servers: object, certificate: Path | None) -> str:
        configuration = super()._configuration(servers, certificate)  # type: ignore[arg-type]
        others = r"\n        location / \{.*?\n(?=\n *# Below a path)"
        configuration, removed = re.subn(others, "", configuration, flags=re.DOTALL)
        assert removed == 1
        head, marker, below = configuration.partition("# Below a path")
        configuration = head + marker + re.sub(r"^( *)#(location|    |\})", r"\1\2", below, flags=re.MULTILINE)
        if self._removes:
            configuration = re.sub(
                r"(location /chat(/llmprompt|/) \{\n *proxy_pass http://chatterd);", r"\1\2;", configuration
            )
        return configuration


@dataclass
class Site:
    """nginx at ``root``, chatterd below ``url``, and a browser; another chatterd with tokens, below ``private_url``."""

    root: str
    url: str
    private_url: str
    tokens: TokenFile
    browser: Browser


@pytest.fixture(
    scope="module",
    params=[pytest.param(False, id="passed on"), pytest.param(True, id="removed", marks=pytest.mark.extended)],
)
def site(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], str],
    _session_ollama: ScriptedOllama,
    _session_chatterd: Program,
) -> Iterator[Site]:
    """Start Chromium last: no other event loop can run in this thread at the same time."""
    folder = tmp_path_factory.mktemp("sub-path")
    tokens = TokenFile(folder / "tokens")
    tokens.add("alice")
    port, server, private_port, private_server = free_ports(4)
    shared = {"ollama_host": _session_ollama.url, "embedded_model": False, "drain_timeout": 1, "base_path": "/chat"}
    auth = {"auth": "token", "token_file": tokens.path, "data_dir": folder}
    with (
        Program(database_url=new_database(), port=server, **shared) as program,
        Program(database_url=new_database(), port=private_server, **shared, **auth) as private,
        BelowPath(port, server, request.param) as nginx,
        BelowPath(private_port, private_server, request.param) as private_nginx,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield Site(nginx.url, f"{nginx.url}/chat", f"{private_nginx.url}/chat", tokens, browser)
        browser.close()
        alarms = program.alarms([]) + private.alarms([])
    assert not alarms, "".join(alarms)


@pytest.fixture
def page(site: Site, ollama: ScriptedOllama) -> Iterator[Page]:
    """A page that fails its test on errors, and on requests to a path that is not below /chat/."""
    errors: list[str] = []
    context = site.browser.new_context(base_url=f"{site.url}/")
    page = context.new_page()
    record_errors(page, site.url, errors)
    yield page
    context.close()
    assert not errors


@pytest.fixture
def client(site: Site, ollama: ScriptedOllama) -> Iterator[Client]:
    with Client(site.root) as client:
        yield client


def test_locations_are_below_the_path_and_lead_to_the_reply(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("Par")), gate, Lines(last_line("is")))
    begun = client.http.post("/chat/llmchat", json=client.body("hi"), headers={"Prefer": "respond-async"})
    path = begun.headers["Location"]
    assert re.fullmatch(r"/chat/llmchat/[0-9a-f-]{36}", path)
    assert begun.json()["location"] == path
    conflict = client.http.post("/chat/llmchat", json=client.body("2"), headers={"Prefer": "respond-async"})
    assert (conflict.status_code, conflict.headers["Location"]) == (409, path)
    gate.open()
    assert [event.json["message"]["content"] for event in client.view(path)] == ["Par", "is"]
    assert client.http.get(path).headers["Content-Location"] == path


def test_the_path_itself_and_paths_with_a_slash_redirect_to_the_page(site: Site, client: Client) -> None:
    for path, target in {"": "/", "/docs/": "/docs", "/status/": "/status", "/sign-in/": "/sign-in"}.items():
        response = httpx.get(f"{site.url}{path}?a=b", verify=NO_TLS, follow_redirects=True)
        assert response.status_code == 200 and response.headers["Content-Type"].startswith("text/html")
        assert str(response.url) == f"{site.url}{target}?a=b"
    assert client.http.get("/llmchat?appID=x").status_code == 404  # nginx has nothing there


def test_every_route_is_below_the_path(site: Site) -> None:
    for path in (
        "/healthz",
        "/readyz",
        "/metrics",
        "/models",
        "/sign-in/me",
        "/static/openapi.json",
        "/llmchat?appID=x",
    ):
        assert httpx.get(f"{site.url}{path}", verify=NO_TLS).status_code == 200, path
    assert httpx.get(f"{site.url}ter/healthz", verify=NO_TLS).status_code == 404


@CHROMIUM_NEEDED
def test_the_chat_page_sends_follows_and_stops_replies(page: Page, ollama: ScriptedOllama) -> None:
    page.goto("./")
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    send_prompt(page, "Hello")
    expect(messages(page).last).to_contain_text("w0 w1 w2 w3 w4")
    gate = Gate()
    ollama.script(Head(), Lines(line("On and on")), gate)
    send_prompt(page, "More")
    expect(messages(page).last).to_contain_text("On and on")
    page.reload()
    expect(messages(page).last).to_contain_text("On and on")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    expect(messages(page)).to_have_count(4)


@pytest.mark.extended
@CHROMIUM_NEEDED
def test_the_other_pages_work(page: Page, site: Site) -> None:
    page.goto("./")
    page.get_by_role("link", name="Status").click()
    page.wait_for_url(f"{site.url}/status")
    expect(page.get_by_role("region", name="Problems")).to_contain_text("All systems normal")
    page.get_by_role("link", name="API").click()
    page.wait_for_url(f"{site.url}/docs")
    operation = page.locator("#listModels")
    operation.locator("summary").first.click()
    operation.get_by_role("button", name="Send").click()
    expect(operation.get_by_role("status")).to_contain_text("200 OK")
    operation.get_by_text("curl command").click()
    expect(operation.locator(".live-response")).to_contain_text(f"{site.url}/models")
    page.get_by_role("link", name="Chat", exact=True).click()
    page.wait_for_url(f"{site.url}/")


@CHROMIUM_NEEDED
def test_pages_work_without_the_setting_where_the_path_is_removed(
    site: Site, chatterd: Program, ollama: ScriptedOllama
) -> None:
    [port] = free_ports(1)
    context = site.browser.new_context()
    with BelowPath(port, int(chatterd.url.rpartition(":")[2]), removes=True) as nginx:
        page = context.new_page()
        page.goto(f"{nginx.url}/chat/")
        expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
        send_prompt(page, "Hello")
        expect(messages(page).last).to_contain_text("w0 w1 w2 w3 w4")
        context.close()


@pytest.mark.extended
@CHROMIUM_NEEDED
def test_signing_in_sets_a_cookie_below_the_path(site: Site, ollama: ScriptedOllama) -> None:
    context = site.browser.new_context()
    page = context.new_page()
    page.goto(f"{site.private_url}/")
    page.wait_for_url("**/chat/sign-in?then=%2Fchat%2F")
    page.get_by_label("Token").fill(site.tokens.token["alice"])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{site.private_url}/")
    send_prompt(page, "Hello")
    expect(messages(page).last).to_contain_text("w0 w1 w2 w3 w4")
    [cookie] = context.cookies()
    assert (cookie["name"], cookie["path"]) == ("chatterd.chat", "/chat/")
    page.get_by_role("link", name="Sign out").click()
    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(page.get_by_label("Token")).to_be_focused()
    assert context.cookies() == []
    context.close()
