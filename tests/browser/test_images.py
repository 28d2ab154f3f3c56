"""Images that go with a prompt: how they are taken, what the model gets, and what is said where it cannot be."""

import base64
import struct
import zlib
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Locator, Page, Route, expect

from tests.browser.test_page import box, messages, say
from tests.fakes.ollama import ScriptedOllama

SEEING = {"name": "fake", "capabilities": ["completion", "vision"]}
BLIND = {"name": "blind", "capabilities": ["completion"]}

GIVE = """async ([element, kind, files]) => {
    const transfer = new DataTransfer();
    for (const {name, mimeType, base64} of files) {
        const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], name, {type: mimeType}));
    }
    const options = {bubbles: true, cancelable: true};
    const event = kind === "paste"
        ? new ClipboardEvent(kind, {...options, clipboardData: transfer})
        : new DragEvent(kind, {...options, dataTransfer: transfer});
    element.dispatchEvent(event);
    return event.defaultPrevented;
}"""
"""Does what the browser does when files are pasted or dropped, which no test can do by hand."""


def png(width: int, height: int, noise: bool = False) -> bytes:
    """A picture; with noise one that PNG cannot make small."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    value = 12345
    rows = bytearray()
    for _ in range(height):
        rows.append(0)
        if noise:
            for _ in range(width * 3):
                value = (value * 1103515245 + 12345) & 0x7FFFFFFF
                rows.append(value >> 16 & 0xFF)
        else:
            rows += b"\x20\x80\x60" * width
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")
    )


def picture(name: str = "picture.png", content: bytes | None = None) -> FilePayload:
    """A file as a person has it."""
    return {"name": name, "mimeType": "image/png", "buffer": png(40, 20) if content is None else content}


def choose(page: Page, *files: FilePayload) -> None:
    """Take files by the button."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add images").click()
    chooser.value.set_files(list(files))


def give(element: Locator, kind: str, *files: FilePayload) -> bool:
    """Paste or drop files; whether the page took them."""
    as_text = [{**file, "base64": base64.b64encode(file["buffer"]).decode(), "buffer": None} for file in files]
    return bool(element.page.evaluate(GIVE, [element.element_handle(), kind, as_text]))


def thumbnails(page: Page) -> Locator:
    """The images that wait to be sent."""
    return page.get_by_role("list", name="Images to send").get_by_role("img")


def sent(ollama: ScriptedOllama, number: int = 0) -> list[bytes]:
    """The images that the model was given with the newest prompt of a request."""
    newest: dict[str, Any] = ollama.requests[number].json["messages"][-1]
    return [base64.b64decode(image, validate=True) for image in newest.get("images", [])]


def size_of(page: Page, image: bytes) -> list[int]:
    """Width and height, as the browser reads them."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    script = "async (url) => { const image = new Image(); image.src = url; await image.decode();"
    return list(page.evaluate(script + " return [image.naturalWidth, image.naturalHeight]; }", url))


@pytest.fixture(autouse=True)
def _seeing(page: Page, ollama: ScriptedOllama) -> None:
    """The model takes images, unless a test says otherwise."""
    ollama.models = (SEEING, BLIND)
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")


def test_images_by_button_paste_and_drop_reach_the_model_and_the_transcript(page: Page, ollama: ScriptedOllama) -> None:
    choose(page, picture())
    expect(thumbnails(page)).to_have_count(1)
    assert give(box(page), "paste", picture())
    expect(thumbnails(page)).to_have_count(2)
    assert give(page.locator("main"), "dragover", picture())
    assert give(page.locator("main"), "drop", picture())
    expect(thumbnails(page)).to_have_count(3)
    page.get_by_role("button", name="Remove image 2").click()
    expect(thumbnails(page)).to_have_count(2)
    say(page, "What is this?")
    expect(thumbnails(page)).to_have_count(0)
    for _ in ("at once", "from the history"):
        expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
        shown = messages(page).first.get_by_role("img")
        expect(shown).to_have_count(2)
        expect(messages(page).first).to_have_text("What is this?")
        page.wait_for_function("[...document.querySelectorAll('.images img')].every((one) => one.naturalWidth === 40)")
        page.reload()
    assert [size_of(page, image) for image in sent(ollama)] == [[40, 20], [40, 20]]


def test_an_image_needs_no_words(page: Page, ollama: ScriptedOllama) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    choose(page, picture())
    page.get_by_role("button", name="Send").click()
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
    expect(page.get_by_role("navigation", name="Conversations").get_by_role("link")).to_have_text(["An image"])
    assert len(sent(ollama)) == 1


def test_a_large_picture_is_scaled_down(page: Page, ollama: ScriptedOllama) -> None:
    choose(page, picture("large.png", png(3000, 1500)), picture("noise.png", png(900, 700, noise=True)))
    expect(thumbnails(page)).to_have_count(2)
    say(page, "What is this?")
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
    large, noise = sent(ollama)
    assert size_of(page, large) == [1280, 640]
    assert size_of(page, noise) == [900, 700]
    assert noise.startswith(b"\xff\xd8") and len(noise) < 1_000_000  # a photograph is sent as a JPEG


def test_a_model_that_takes_no_images_is_not_sent_any(page: Page, ollama: ScriptedOllama) -> None:
    note = page.get_by_text("blind takes no images.")
    choose(page, picture())
    page.get_by_label("Model", exact=True).select_option("blind")
    expect(note).to_be_visible()
    box(page).fill("What is this?")
    box(page).press("Enter")
    expect(box(page)).to_have_value("What is this?")
    expect(messages(page)).to_have_count(0)
    page.get_by_role("button", name="Remove image 1").click()
    expect(note).to_be_hidden()
    assert give(box(page), "paste", picture())
    expect(note).to_be_visible()
    expect(thumbnails(page)).to_have_count(0)
    box(page).press("Enter")
    expect(messages(page)).to_have_text(["What is this?", "w0 w1 w2 w3 w4"])
    assert sent(ollama) == []


def test_where_it_is_not_known_whether_a_model_sees_it_is_said(page: Page, ollama: ScriptedOllama) -> None:
    ollama.models = ("fake",)
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    choose(page, picture())
    expect(page.get_by_text("It is not known whether fake sees images.")).to_be_visible()
    say(page, "What is this?")
    expect(messages(page)).to_have_count(2)
    assert len(ollama.arrival(0).wait().json["messages"][0]["images"]) == 1


@pytest.mark.parametrize(
    "model",
    [{"name": "fake", "details": {"families": ["llama", "clip"]}}, "llava:7b", "qwen2.5-vl:3b", "llama3.2-vision"],
)
def test_an_older_ollama_tells_by_family_or_name(
    page: Page, ollama: ScriptedOllama, model: str | dict[str, Any]
) -> None:
    ollama.models = (model,)
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_be_enabled()
    choose(page, picture())
    expect(thumbnails(page)).to_have_count(1)
    expect(page.get_by_text("It is not known")).to_have_count(0)


def test_what_is_no_image_and_what_is_too_much_is_said_in_words(page: Page) -> None:
    choose(page, picture("broken.png", b"not an image"), picture())
    expect(page.get_by_text("broken.png cannot be read as an image.")).to_be_visible()
    expect(thumbnails(page)).to_have_count(1)
    choose(page, *[picture()] * 9)
    expect(page.get_by_text("A message can carry 8 images.")).to_be_visible()
    expect(thumbnails(page)).to_have_count(8)


def test_pasted_words_stay_words(page: Page) -> None:
    handled = page.evaluate(
        """() => {
            const clipboardData = new DataTransfer();
            clipboardData.setData("text/plain", "a table");
            clipboardData.items.add(new File(["x"], "table.png", {type: "image/png"}));
            const event = new ClipboardEvent("paste", {bubbles: true, cancelable: true, clipboardData});
            document.querySelector("#prompt").dispatchEvent(event);
            return event.defaultPrevented;
        }"""
    )
    assert not handled
    expect(thumbnails(page)).to_have_count(0)


def test_each_conversation_keeps_its_images_while_another_is_looked_at(page: Page) -> None:
    say(page, "First matter")
    expect(messages(page)).to_have_count(2)
    choose(page, picture())
    expect(thumbnails(page)).to_have_count(1)
    page.get_by_role("button", name="New chat", exact=True).click()
    expect(thumbnails(page)).to_have_count(0)
    page.get_by_role("link", name="First matter").click()
    expect(thumbnails(page)).to_have_count(1)


def test_images_of_a_prompt_that_is_refused_come_back(
    page: Page, ollama: ScriptedOllama, complaints: list[str]
) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=413, json={"error": "The request's body is too large."})

    page.route("**/llmchat", refuse, times=1)
    choose(page, picture())
    expect(thumbnails(page)).to_have_count(1)
    say(page, "What is this?")
    expect(page.get_by_role("alert")).to_contain_text("too large")
    expect(box(page)).to_have_value("What is this?")
    expect(thumbnails(page)).to_have_count(1)
    box(page).press("Enter")
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
    assert len(sent(ollama)) == 1
    assert len(complaints) == 1 and "413" in complaints.pop()
