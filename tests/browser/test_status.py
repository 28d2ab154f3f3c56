"""The status page, in normal operation and with failures."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.browser.chat_page import record_errors
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.fakes.proxy import CuttingProxy
from tests.program import Program

TIMEOUT = 30_000
"""Milliseconds for the next samples, health checks and connection attempts."""

EXPECTED_LOG = ["database", "presence session was lost", "pool connection floor", "declared dead"]


@dataclass
class Site:
    """Two processes on one database, the first one through a proxy that the test can cut."""

    proxy: CuttingProxy
    watched: Program
    other: Program
    browser: Browser


@pytest.fixture(scope="module")
def site(new_database: Callable[[], str], _session_ollama: ScriptedOllama) -> Iterator[Site]:
    """Start Chromium last: no other event loop can run in this thread at the same time."""
    url = new_database()
    settings = {"ollama_host": _session_ollama.url, "embedded_model": False, "drain_timeout": 1}
    with (
        CuttingProxy(url) as proxy,
        Program(database_url=proxy.url, acquire_timeout=1, **settings) as watched,
        Program(database_url=url, **settings) as other,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield Site(proxy, watched, other, browser)
        browser.close()
        alarms = watched.alarms(EXPECTED_LOG) + other.alarms(EXPECTED_LOG)
    assert not alarms, "".join(alarms)


@pytest.fixture
def page(site: Site, ollama: ScriptedOllama, browser_errors: list[str]) -> Iterator[Page]:
    """The status page of the first process."""
    page = _open(site.browser, site.watched.url, browser_errors)
    yield page
    page.close()
    assert not browser_errors


def _open(browser: Browser, url: str, browser_errors: list[str]) -> Page:
    page = browser.new_page(base_url=url)
    record_errors(page, url, browser_errors)
    page.goto("/status")
    return page


def banner(page: Page) -> Locator:
    """The banner with the current problems."""
    return page.get_by_role("region", name="Problems")


def tile(page: Page, name: str) -> Locator:
    """The value of a tile."""
    return page.locator("#tiles > div", has=page.get_by_text(name, exact=True)).locator(".value")


def row(page: Page, name: str) -> Locator:
    """A table row by its header."""
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=re.compile(name)))


def test_values_change_while_a_reply_is_streamed(page: Page, site: Site, ollama: ScriptedOllama) -> None:
    expect(banner(page)).to_contain_text("All systems normal", timeout=TIMEOUT)
    expect(tile(page, "Database")).to_have_text("reachable")
    expect(tile(page, "Ollama")).to_have_text("reachable")
    end = Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), end, Lines(last_line()))
    client = Client(site.watched.url)
    with client.http, client.prompt("Tell me a story") as stream:
        assert stream.next() is not None
        expect(tile(page, "Replies streaming")).to_have_text("1", timeout=TIMEOUT)
        expect(tile(page, "Viewers")).to_have_text("1")
        expect(row(page, "this process").get_by_role("cell").last).to_have_text("1", timeout=TIMEOUT)
        end.open()
        stream.rest()
    expect(tile(page, "Replies streaming")).to_have_text("0", timeout=TIMEOUT)
    expect(tile(page, "Added latency")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    expect(tile(page, "Time to first event")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    expect(tile(page, "Memory")).to_have_text(re.compile(r"^\d+ MB$"))
    expect(row(page, "^Completed$").get_by_role("cell")).to_have_text("1")


@pytest.mark.extended
def test_both_processes_are_listed(page: Page) -> None:
    processes = page.get_by_role("region", name="Processes on this database").get_by_role("rowheader")
    expect(processes).to_have_count(2, timeout=TIMEOUT)
    expect(processes.filter(has_text="this process")).to_have_count(1)
    expect(processes.first).to_have_text(re.compile(r"^[0-9a-f]{6}"))


def test_an_unreachable_database_is_reported(page: Page, site: Site) -> None:
    expect(banner(page)).to_contain_text("All systems normal", timeout=TIMEOUT)
    announcer = page.get_by_role("status")
    site.proxy.cut()
    expect(banner(page)).to_have_attribute("data-level", "error", timeout=TIMEOUT)
    expect(banner(page)).to_contain_text("database")
    expect(announcer).to_contain_text("database")
    expect(tile(page, "Database")).to_have_text("unreachable")
    expect(page.get_by_text("Unavailable while the database is unreachable.")).to_be_visible()
    expect(page).to_have_title("(!) chatterd status")
    site.proxy.restore()
    expect(banner(page)).to_contain_text("All systems normal", timeout=TIMEOUT)
    expect(announcer).to_have_text("All systems normal")
    expect(page).to_have_title("chatterd status")


@pytest.mark.extended
def test_stale_data_is_marked_and_the_page_reconnects(
    site: Site, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    settings = {"database_url": site.proxy.url, "ollama_host": ollama.url, "embedded_model": False}
    with Program(**settings) as server:
        page = _open(site.browser, server.url, browser_errors)
        expect(banner(page)).to_contain_text("All systems normal", timeout=TIMEOUT)
        server.kill()
    expect(banner(page)).to_contain_text(
        re.compile(r"Cannot reach the server\. This data is \d+ s old"), timeout=TIMEOUT
    )
    expect(page.get_by_role("status")).to_contain_text("Cannot reach the server.")
    with Program(port=urlsplit(server.url).port, **settings):
        expect(banner(page)).to_contain_text("All systems normal", timeout=TIMEOUT)
        page.close()
    assert browser_errors and all(error.startswith("Failed to load resource: net::ERR_") for error in browser_errors)


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (320, "dark"),
        (768, "light"),
        (1280, "dark"),
        pytest.param(320, "light", marks=pytest.mark.extended),
        pytest.param(768, "dark", marks=pytest.mark.extended),
        pytest.param(1280, "light", marks=pytest.mark.extended),
    ],
)
def test_the_page_fits_any_width_and_draws_its_plots(page: Page, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 640})
    expect(banner(page)).to_contain_text("All systems normal", timeout=TIMEOUT)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    plots = page.get_by_role("img", name=re.compile("latest"))
    expect(plots.first).to_be_visible(timeout=TIMEOUT)
    assert page.locator("canvas").count() == 8
    for canvas in page.locator("canvas").all():
        box = canvas.bounding_box()
        assert box is not None and 100 < box["width"] < width


@pytest.mark.extended
def test_the_page_has_landmarks_and_text_alternatives(page: Page) -> None:
    expect(banner(page)).to_contain_text("All systems normal", timeout=TIMEOUT)
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.get_by_role("heading", level=1).count() == 1
    for name in ("Now", "Last 10 minutes", "Processes on this database", "Replies by outcome"):
        expect(page.get_by_role("region", name=name)).to_be_visible()
    expect(page.get_by_role("main")).to_have_count(1)
    figures = page.locator("[role=img]").all()
    assert len(figures) == 8
    for figure in figures:
        expect(figure).to_have_attribute("aria-label", re.compile(r"^[A-Z].+: .+\.$"))
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Chat")).to_be_focused()
    assert page.locator("[style]:not(.uplot *, .uplot)").count() == 0
