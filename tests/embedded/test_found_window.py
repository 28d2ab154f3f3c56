"""The window of the embedded model, as chatterd finds it: a real model in a real process."""

import json

import httpx
import pytest

from relay.ollama.client import OllamaClient
from relay.window.model_windows import ModelWindows
from settings import Settings
from tests.embedded.model_process import MODEL, Running

PLAIN, SMALL, LARGE = (
    json.dumps({"model": MODEL, "options": options}) for options in ({}, {"num_ctx": 512}, {"num_ctx": 99_999})
)


@pytest.mark.anyio
async def test_the_window_is_the_one_that_a_request_would_get(running: Running) -> None:
    client, windows = OllamaClient(running.url, 10, 1.0), ModelWindows(Settings())
    assert await windows.find(client, MODEL, PLAIN, "", load=True) == 4096
    load = {"model": MODEL, "messages": [], "options": {"num_ctx": 512}}
    httpx.post(f"{running.url}/api/chat", json=load, timeout=60)
    for request, window in ((SMALL, 512), (PLAIN, 4096), (LARGE, 8192)):
        assert await windows.find(client, MODEL, request, "", load=True) == window
    report = await windows.report(client, MODEL)
    client.close()
    assert report and (report.window, report.trained, report.loaded) == (4096, 8192, True)
    assert report.memory_bytes and report.bytes_per_token
