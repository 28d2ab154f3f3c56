"""Reads a reply in Chromium, in a page of another origin, and prints the events as JSON.

Argument: as for read.py, and ``page``, the URL of a server with libraries.mjs and node_modules.
"""

import json
import sys

from playwright.sync_api import sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM

READ = """async (options) => {
    const libraries = await import("/libraries.mjs");
    switch (options.library) {
        case "Chromium, EventSource":
            return libraries.readWithEventSource(EventSource, options);
        case "Chromium, fetch":
            return libraries.readWithFetch(await import("/node_modules/eventsource-parser/dist/index.js"), options);
        case "Chromium, fetch-event-source":
            return libraries.readWithFetchEventSource(
                await import("/node_modules/@microsoft/fetch-event-source/lib/esm/index.js"), options);
    }
}"""


def main() -> None:
    """Read as the argument says."""
    options = json.loads(sys.argv[1])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        page.goto(options["page"])
        json.dump(page.evaluate(READ, options), sys.stdout)
        browser.close()


if __name__ == "__main__":
    main()
