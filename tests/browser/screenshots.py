"""Take the screenshots of the documentation with the embedded model (``make screenshots``)."""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import ViewportSize, expect, sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.program import ROOT
from tests.stand_in import StandInProgram

SIZE: ViewportSize = {"width": 1100, "height": 680}

STATUS_SECONDS = 12
"""Seconds before the screenshot of the status page: its plots need some points."""


def main() -> None:
    """Send some prompts, and take screenshots of the chat page and the status page."""
    folder = Path(tempfile.mkdtemp(prefix="chatterd-screenshots-"))
    try:
        with StandInProgram(data_dir=folder) as program, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = browser.new_page(base_url=program.url, viewport=SIZE, device_scale_factor=1.5)
            page.goto("/")
            for prompt in ("What is the capital of France?", "Why is the sky blue? Answer in two sentences."):
                page.get_by_label("Message", exact=True).fill(prompt)
                page.get_by_label("Message", exact=True).press("Enter")
                expect(page.get_by_role("button", name="Stop")).to_be_visible()
                expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=60_000)
            page.screenshot(path=ROOT / "docs" / "chat.png", animations="disabled")
            page.get_by_label("Message", exact=True).fill("Tell me a long story about a lighthouse.")
            page.get_by_label("Message", exact=True).press("Enter")
            page.goto("/status")
            page.wait_for_timeout(1000 * STATUS_SECONDS)
            page.screenshot(path=ROOT / "docs" / "status.png", animations="disabled")
            browser.close()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
