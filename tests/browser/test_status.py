"""The status page in Chromium: what a person who runs the server sees there when all is well and when it is not."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.browser.chat_page import watch
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.fakes.proxy import CuttingProxy
from tests.program import Program

PATIENCE = 30_000
"""Milliseconds for what the page learns with the next samples, looks and attempts to connect."""

EXPECTED_LOG = ["database", "presence session was lost", "pool connection floor", "declared dead"]


@dataclass
class Site:
    """Two processes on one database, the first of them behind a proxy that can be cut."""

    proxy: CuttingProxy
    watched: Program
    other: Program
    browser: Browser


@pytest.fixture(scope="module")
def site(new_database: Callable[[], str], _session_ollama: ScriptedOllama) -> Iterator[Site]:
    """The site, and Chromium, which comes last: no other event loop runs in this thread while it does."""
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
def page(site: Site, ollama: ScriptedOllama, complaints: list[str]) -> Iterator[Page]:
    """The status page of the first process, just opened."""
    page = _open(site.browser, site.watched.url, complaints)
    yield page
    page.close()
    assert not complaints


def _open(browser: Browser, url: str, complaints: list[str]) -> Page:
    page = browser.new_page(base_url=url)
    watch(page, url, complaints)
    page.goto("/status")
    return page


def verdict(page: Page) -> Locator:
    """What is said on top."""
    return page.get_by_role("region", name="What is wrong")


def tile(page: Page, name: str) -> Locator:
    """The value of a figure of now."""
    return page.locator("#tiles > div", has=page.get_by_text(name, exact=True)).locator(".value")


def row(page: Page, name: str) -> Locator:
    """A table's row by its header."""
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=re.compile(name)))


def test_the_figures_move_as_a_reply_streams(page: Page, site: Site, ollama: ScriptedOllama) -> None:
    expect(verdict(page)).to_contain_text("All is well.", timeout=PATIENCE)
    expect(tile(page, "Database")).to_have_text("reachable")
    expect(tile(page, "Ollama")).to_have_text("reachable")
    end = Gate("the end")
    ollama.script(Head(), Lines(line("Once ")), end, Lines(last_line()))
    client = Client(site.watched.url)
    with client.http, client.prompt("Tell me a story") as stream:
        assert stream.next() is not None
        expect(tile(page, "Replies streaming")).to_have_text("1", timeout=PATIENCE)
        expect(tile(page, "Viewers")).to_have_text("1")
        expect(row(page, "this one").get_by_role("cell").last).to_have_text("1", timeout=PATIENCE)
        end.open()
        stream.rest()
    expect(tile(page, "Replies streaming")).to_have_text("0", timeout=PATIENCE)
    expect(tile(page, "Added latency")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    expect(tile(page, "Time to first event")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    expect(tile(page, "Memory")).to_have_text(re.compile(r"^\d+ MB$"))
    expect(row(page, "^done$").get_by_role("cell")).to_have_text("1")


def test_both_processes_are_listed(page: Page) -> None:
    processes = page.get_by_role("region", name="Processes on this database").get_by_role("rowheader")
    expect(processes).to_have_count(2, timeout=PATIENCE)
    expect(processes.filter(has_text="this one")).to_have_count(1)
    expect(processes.first).to_have_text(re.compile(r"^[0-9a-f]{6}"))


def test_a_database_that_is_away_is_said_in_words(page: Page, site: Site) -> None:
    expect(verdict(page)).to_contain_text("All is well.", timeout=PATIENCE)
    announcer = page.get_by_role("status")
    site.proxy.cut()
    expect(verdict(page)).to_contain_text("The database has been out of reach for", timeout=PATIENCE)
    expect(announcer).to_contain_text("The database has been out of reach")
    expect(tile(page, "Database")).to_have_text("away")
    expect(page.get_by_text("Not known while the database does not answer.")).to_be_visible()
    expect(page).to_have_title("(!) chatterd status")
    site.proxy.restore()
    expect(verdict(page)).to_contain_text("All is well.", timeout=PATIENCE)
    expect(announcer).to_have_text("All is well.")
    expect(page).to_have_title("chatterd status")


def test_a_server_that_is_gone_leaves_old_figures_and_the_page_comes_back_by_itself(
    site: Site, ollama: ScriptedOllama, complaints: list[str]
) -> None:
    settings = {"database_url": site.proxy.url, "ollama_host": ollama.url, "embedded_model": False}
    with Program(**settings) as gone:
        page = _open(site.browser, gone.url, complaints)
        expect(verdict(page)).to_contain_text("All is well.", timeout=PATIENCE)
        gone.kill()
    expect(verdict(page)).to_contain_text(
        re.compile(r"The server does not answer. These figures are \d+ s old"), timeout=PATIENCE
    )
    expect(page.get_by_role("status")).to_contain_text("The server does not answer.")
    with Program(port=urlsplit(gone.url).port, **settings):
        expect(verdict(page)).to_contain_text("All is well.", timeout=PATIENCE)
        page.close()
    assert complaints and all(complaint.startswith("Failed to load resource: net::ERR_") for complaint in complaints)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1280])
def test_it_fits_any_width_and_plots_are_drawn(page: Page, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 640})
    expect(verdict(page)).to_contain_text("All is well.", timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    plots = page.get_by_role("img", name=re.compile(" at last"))
    expect(plots.first).to_be_visible(timeout=PATIENCE)
    assert page.locator("canvas").count() == 8
    for canvas in page.locator("canvas").all():
        box = canvas.bounding_box()
        assert box is not None and 100 < box["width"] < width


def test_what_a_screen_reader_finds(page: Page) -> None:
    expect(verdict(page)).to_contain_text("All is well.", timeout=PATIENCE)
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.get_by_role("heading", level=1).count() == 1
    for name in ("Now", "The last minutes", "Processes on this database", "How replies ended here"):
        expect(page.get_by_role("region", name=name)).to_be_visible()
    expect(page.get_by_role("main")).to_have_count(1)
    figures = page.locator("[role=img]").all()
    assert len(figures) == 8
    for figure in figures:
        expect(figure).to_have_attribute("aria-label", re.compile(r"^[A-Z].+: .+\.$"))
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Chat")).to_be_focused()
    assert page.locator("[style]:not(.uplot *, .uplot)").count() == 0
