"""Image attachments: adding and sending them, and errors."""

import base64
import struct
import zlib
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Locator, Page, Route, expect

from tests.browser.chat_page import button, messages, prompt_input, send_prompt
from tests.client import Client
from tests.fakes.ollama import ScriptedOllama, failure
from tests.program import Program

VISION_MODEL = {"name": "fake", "capabilities": ["completion", "vision"]}
TEXT_MODEL = {"name": "text-only", "capabilities": ["completion"]}

DISPATCH = """async ([element, kind, files]) => {
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
"""Dispatch the event of pasted or dropped files, which Playwright cannot do."""


def png(width: int, height: int, noise: bool = False) -> bytes:
    """A PNG; with noise, one that compresses badly."""

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


def image_file(name: str = "picture.png", content: bytes | None = None) -> FilePayload:
    """A file to upload."""
    return {"name": name, "mimeType": "image/png", "buffer": png(40, 20) if content is None else content}


def choose(page: Page, *files: FilePayload) -> None:
    """Choose files with the button."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add images").click()
    chooser.value.set_files(list(files))


def drop_or_paste(element: Locator, kind: str, *files: FilePayload) -> bool:
    """Paste or drop files; return whether the page handled the event."""
    as_text = [{**file, "base64": base64.b64encode(file["buffer"]).decode(), "buffer": None} for file in files]
    return bool(element.page.evaluate(DISPATCH, [element.element_handle(), kind, as_text]))


def thumbnails(page: Page) -> Locator:
    """The attached images."""
    return page.get_by_role("list", name="Attached images").get_by_role("img")


def sent(ollama: ScriptedOllama, number: int = 0) -> list[bytes]:
    """The images in the last message of a request to the model."""
    newest: dict[str, Any] = ollama.generations[number].json["messages"][-1]
    return [base64.b64decode(image, validate=True) for image in newest.get("images", [])]


def size_of(page: Page, image: bytes) -> list[int]:
    """Width and height, decoded by the browser."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    script = "async (url) => { const image = new Image(); image.src = url; await image.decode();"
    return list(page.evaluate(script + " return [image.naturalWidth, image.naturalHeight]; }", url))


@pytest.fixture(autouse=True)
def _vision_model(page: Page, ollama: ScriptedOllama) -> None:
    """The model supports images, unless a test changes it."""
    ollama.models = (VISION_MODEL, TEXT_MODEL)
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")


def test_images_can_be_chosen_pasted_and_dropped(page: Page, ollama: ScriptedOllama) -> None:
    choose(page, image_file())
    expect(thumbnails(page)).to_have_count(1)
    assert drop_or_paste(prompt_input(page), "paste", image_file())
    expect(thumbnails(page)).to_have_count(2)
    assert drop_or_paste(page.locator("main"), "dragover", image_file())
    assert drop_or_paste(page.locator("main"), "drop", image_file())
    expect(thumbnails(page)).to_have_count(3)
    page.get_by_role("button", name="Remove image 2").click()
    expect(thumbnails(page)).to_have_count(2)
    send_prompt(page, "What is this?")
    expect(thumbnails(page)).to_have_count(0)
    for _ in ("live", "reloaded"):
        expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
        shown = messages(page).first.get_by_role("img")
        expect(shown).to_have_count(2)
        expect(messages(page).first).to_have_text("What is this?")
        page.wait_for_function("[...document.querySelectorAll('.images img')].every((one) => one.naturalWidth === 40)")
        page.reload()
    assert [size_of(page, image) for image in sent(ollama)] == [[40, 20], [40, 20]]


@pytest.mark.extended
def test_an_image_can_be_sent_without_text(page: Page, ollama: ScriptedOllama) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    choose(page, image_file())
    page.get_by_role("button", name="Send").click()
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
    expect(page.get_by_role("navigation", name="Conversations").get_by_role("link")).to_have_text(["Image"])
    assert len(sent(ollama)) == 1


@pytest.mark.extended
def test_a_large_image_is_scaled_down(page: Page, ollama: ScriptedOllama) -> None:
    choose(page, image_file("large.png", png(3000, 1500)), image_file("noise.png", png(900, 700, noise=True)))
    expect(thumbnails(page)).to_have_count(2)
    send_prompt(page, "What is this?")
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
    large, noise = sent(ollama)
    assert size_of(page, large) == [1280, 640]
    assert size_of(page, noise) == [900, 700]
    assert noise.startswith(b"\xff\xd8") and len(noise) < 1_000_000  # a photograph is sent as a JPEG


def test_images_are_not_sent_to_a_model_without_image_support(page: Page, ollama: ScriptedOllama) -> None:
    note = page.get_by_text("text-only does not support images.")
    choose(page, image_file())
    page.get_by_label("Model", exact=True).select_option("text-only")
    expect(note).to_be_visible()
    prompt_input(page).fill("What is this?")
    prompt_input(page).press("Enter")
    expect(prompt_input(page)).to_have_value("What is this?")
    expect(messages(page)).to_have_count(0)
    page.get_by_role("button", name="Remove image 1").click()
    expect(note).to_be_hidden()
    assert drop_or_paste(prompt_input(page), "paste", image_file())
    expect(note).to_be_visible()
    expect(thumbnails(page)).to_have_count(0)
    prompt_input(page).press("Enter")
    expect(messages(page)).to_have_text(["What is this?", "w0 w1 w2 w3 w4"])
    assert sent(ollama) == []


@pytest.mark.extended
def test_unknown_image_support_shows_a_note(page: Page, ollama: ScriptedOllama) -> None:
    ollama.models = ({"name": "fake", "capabilities": []},)  # as an older Ollama, which lists none
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    choose(page, image_file())
    expect(page.get_by_text("fake may not support images.")).to_be_visible()
    send_prompt(page, "What is this?")
    expect(messages(page)).to_have_count(2)
    assert len(ollama.arrival(0).wait().json["messages"][0]["images"]) == 1


@pytest.mark.parametrize(
    "model",
    [
        {"name": "fake", "details": {"families": ["llama", "clip"]}},
        {"name": "llava:7b"},
        {"name": "qwen2.5-vl:3b"},
        {"name": "llama3.2-vision"},
    ],
)
@pytest.mark.extended
def test_image_support_is_guessed_from_family_or_name(
    page: Page, ollama: ScriptedOllama, model: dict[str, Any]
) -> None:
    ollama.models = (model | {"capabilities": []},)
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_be_enabled()
    choose(page, image_file())
    expect(thumbnails(page)).to_have_count(1)
    expect(page.get_by_text("may not support images")).to_have_count(0)


@pytest.mark.extended
def test_invalid_and_excess_images_show_errors(page: Page) -> None:
    choose(page, image_file("broken.png", b"not an image"), image_file())
    expect(page.get_by_text("broken.png is not a supported image.")).to_be_visible()
    expect(thumbnails(page)).to_have_count(1)
    choose(page, *[image_file()] * 9)
    expect(page.get_by_text("A message can have at most 8 images.")).to_be_visible()
    expect(thumbnails(page)).to_have_count(8)


@pytest.mark.extended
def test_pasted_text_with_an_image_form_is_pasted_as_text(page: Page) -> None:
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


@pytest.mark.extended
def test_each_conversation_keeps_its_unsent_images(page: Page) -> None:
    send_prompt(page, "First topic")
    expect(messages(page)).to_have_count(2)
    choose(page, image_file())
    expect(thumbnails(page)).to_have_count(1)
    page.get_by_role("button", name="New chat", exact=True).click()
    expect(thumbnails(page)).to_have_count(0)
    page.get_by_role("link", name="First topic").click()
    expect(thumbnails(page)).to_have_count(1)


def test_images_of_a_rejected_prompt_are_restored(
    page: Page, ollama: ScriptedOllama, browser_errors: list[str]
) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=413, json={"error": "The request's body is too large."})

    page.route("**/llmchat", refuse, times=1)
    choose(page, image_file())
    expect(thumbnails(page)).to_have_count(1)
    send_prompt(page, "What is this?")
    expect(page.get_by_role("alert")).to_contain_text("too large")
    expect(prompt_input(page)).to_have_value("What is this?")
    expect(thumbnails(page)).to_have_count(1)
    prompt_input(page).press("Enter")
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
    assert len(sent(ollama)) == 1
    assert len(browser_errors) == 1 and "413" in browser_errors.pop()


def test_a_prompt_whose_image_is_refused_can_be_sent_without_it(page: Page, ollama: ScriptedOllama) -> None:
    ollama.script(failure(400, "illegal base64 data at input byte 0"))
    choose(page, image_file())
    send_prompt(page, "What is this?")
    expect(page.get_by_role("alert")).to_contain_text("the images of the message 'What is this?'")
    expect(button(page, "Send without images")).to_have_count(1)
    ollama.script(failure(400, "illegal base64 data at input byte 0"))
    button(page, "Try again").click()
    ollama.arrival(1).wait()  # the alert of the first attempt, which says the same, is gone
    expect(page.get_by_role("alert")).to_contain_text("illegal base64")
    page.reload()
    button(page, "Send without images").click()
    expect(messages(page).nth(1)).to_have_text("w0 w1 w2 w3 w4")
    expect(page.get_by_role("article", name="You").get_by_role("img")).to_have_count(0)
    assert ollama.generations[-1].json["messages"] == [{"role": "user", "content": "What is this?"}]
    page.reload()
    expect(messages(page)).to_have_text(["What is this?", "w0 w1 w2 w3 w4"])


@pytest.mark.extended
def test_fields_of_any_type_that_a_client_has_sent_do_not_break_the_page(page: Page, chatterd: Program) -> None:
    with Client(chatterd.url) as client:
        own = {"id": "x", "seq": 0, "status": "failed", "error": "none", "time": [], "extra": 1}
        sent = [
            {"role": "user", "content": "one", "images": "no list", "thinking": {"a": 1}} | own,
            {"role": "assistant", "content": "two", "images": [7, None], "thinking": [1]} | own,
            {"role": "user", "content": "three"} | own,
        ]
        client.view(client.begin(messages=sent))
        page.goto(f"{chatterd.url}/#c/{client.appid}")
        expect(messages(page)).to_contain_text(["one", "two", "three"])
        expect(page.get_by_role("alert")).to_have_count(0)
