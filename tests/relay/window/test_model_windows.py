"""How many tokens a model's window holds, asked of the scripted Ollama: what counts, how often, what is kept."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from errors import UpstreamUnreachable
from relay.ollama.client import OllamaClient
from relay.window import model_facts, model_windows
from relay.window.model_windows import MAX_IDLE, MAX_MODELS, ModelWindows
from settings import Settings
from tests.fakes.ollama import Answer, Close, Gate, Model, ScriptedOllama, Step, Whole, failure

pytestmark = pytest.mark.anyio

REQUEST = '{"model":"m"}'
TRAINED = 8192


@pytest.fixture
def client(ollama: ScriptedOllama) -> Iterator[OllamaClient]:
    ollama.model = Model(num_ctx=2048, context_length=TRAINED)
    client = OllamaClient(ollama.url, 10, 1.0)
    yield client
    client.close()


@pytest.fixture
def windows() -> ModelWindows:
    return ModelWindows(Settings())


class Clock:
    """The time that the windows' idle time is measured by."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(model_windows, "monotonic", clock)
    return clock


class Held(Step):
    """An answer after a gate."""

    def __init__(self, answer: Step) -> None:
        self.gate = Gate()
        self._answer = answer

    async def play(self, answer: Answer) -> None:
        await self.gate.play(answer)
        await self._answer.play(answer)


def listed(window: int, name: str = "m:latest") -> Whole:
    """Ollama's answer to ``/api/ps``."""
    return Whole(200, json.dumps({"models": [{"name": name, "context_length": window}]}).encode())


def with_num_ctx(num_ctx: int) -> str:
    return json.dumps({"model": "m", "options": {"num_ctx": num_ctx}})


async def load(client: OllamaClient, **more: Any) -> None:
    """Let another client of Ollama load the model."""
    body = json.dumps({"model": "m", "messages": [], "stream": False, **more}).encode()
    assert (await client.post("/api/chat", body, 10, ""))[0] == 200


async def find(windows: ModelWindows, client: OllamaClient, request: str = REQUEST, load: bool = False) -> int | None:
    return await windows.find(client, "m", request, "key", load)


# What counts.


async def test_a_window_is_that_of_the_loaded_model(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    await load(client)
    assert windows.known(client, "m", None) is None
    assert await find(windows, client) == 2048
    assert windows.known(client, "m", None) == windows.known(client, "M:latest", None) == 2048
    [probe] = ollama.probes
    assert (probe.path, probe.headers["x-conversation-key"]) == ("/api/ps", "key")
    assert [request.path for request in ollama.requests] == ["/api/chat", "/api/show"]
    assert await find(windows, client) == 2048
    assert len(ollama.requests) == 2, "what the model is was known"


async def test_of_a_model_that_is_not_loaded_the_modelfile_tells(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    ollama.model.parameters = {"stop": "a", "num_ctx": 512}
    assert await find(windows, client, load=True) == windows.known(client, "m", None) == 512
    assert [request.path for request in ollama.requests] == ["/api/show"]
    assert ollama.runner.loads == []


async def test_a_model_of_the_cloud_has_its_longest_window_and_is_not_loaded(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    ollama.model.remote_host = "https://ollama.com:443"
    assert await find(windows, client, load=True) == windows.known(client, "m", None) == TRAINED
    assert ollama.loads == []


async def test_what_nothing_tells_is_known_after_a_load_with_the_options_of_the_reply(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    request = '{"model":"m","options":{"num_gpu":0},"keep_alive":0,"shift":false}'
    assert await find(windows, client, request) is None
    assert ollama.loads == []
    assert await find(windows, client, request, load=True) == windows.known(client, "m", None) == 2048
    [loading] = ollama.loads
    assert loading.json == {
        "model": "m",
        "options": {"num_gpu": 0},
        "shift": False,
        "messages": [],
        "stream": False,
    }
    assert loading.headers["x-conversation-key"] == "key"
    assert ollama.runner.options == {"num_gpu": 0}


@pytest.mark.parametrize(("num_ctx", "window"), [(1024, 1024), (4096, 4096), (100_000, TRAINED)])
async def test_a_request_decides_up_to_what_the_model_was_trained_for(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama, num_ctx: int, window: int
) -> None:
    await load(client)
    assert windows.known(client, "m", num_ctx) == num_ctx, "nothing is known of the model yet"
    assert await find(windows, client, with_num_ctx(num_ctx), load=True) == window
    assert windows.known(client, "m", num_ctx) == window
    await load(client, options={"num_ctx": num_ctx})
    assert ollama.runner.loaded == ("m", window, None)


async def test_the_setting_decides_for_requests_that_do_not(client: OllamaClient, ollama: ScriptedOllama) -> None:
    windows = ModelWindows(Settings(num_ctx=4096))
    assert windows.known(client, "m", None) == 4096
    assert windows.known(client, "m", 512) == 512
    assert await find(windows, client) == 4096
    assert await find(windows, client, with_num_ctx(512)) == 512
    ollama.model.context_length = 3000
    assert await ModelWindows(Settings(num_ctx=4096)).find(client, "m", REQUEST, "", load=False) == 3000


async def test_a_window_that_another_request_has_set_is_not_taken_for_that_of_a_request_without_one(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    assert await find(windows, client, with_num_ctx(4096)) == 4096
    await load(client, options={"num_ctx": 4096})
    assert await find(windows, client) == 4096, "there is no better answer"
    assert windows.known(client, "m", None) is None, "a guess was kept"
    assert await find(windows, client, load=True) == windows.known(client, "m", None) == 2048
    assert ollama.runner.loaded == ("m", 2048, None)
    assert windows.known(client, "m", 4096) == 4096


# How long it counts.


async def test_an_error_of_ollama_counts_for_such_requests_until_the_model_is_loaded_anew(
    windows: ModelWindows, client: OllamaClient
) -> None:
    await load(client)
    await find(windows, client)
    windows.observe(client, "m", 1000)
    windows.observe(client, "m", 500, 512)
    assert await find(windows, client) == 1000, "what Ollama counts with is exact"
    report = await windows.report(client, "m")
    assert report and report.window == 1000
    assert [windows.known(client, "m", num_ctx) for num_ctx in (None, 4096, 512)] == [1000, 4096, 500]
    windows.observe(client, "m", 3000)
    assert windows.known(client, "m", None) == 3000
    windows.on_loaded(client, "m")
    assert [windows.known(client, "m", num_ctx) for num_ctx in (None, 4096)] == [None, 4096]
    assert await find(windows, client) == 2048


async def test_a_model_that_was_loaded_anew_is_asked_about_again(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    await load(client)
    assert await find(windows, client) == 2048
    ollama.model.num_ctx = 1024
    await load(client)
    windows.on_loaded(client, "m")
    assert windows.known(client, "m", None) is None
    assert await find(windows, client) == 1024


async def test_windows_are_forgotten_without_use(windows: ModelWindows, client: OllamaClient, clock: Clock) -> None:
    await load(client)
    await find(windows, client)
    for _ in range(3):
        clock.now += MAX_IDLE
        assert windows.known(client, "m", None) == 2048
    clock.now += MAX_IDLE + 1
    assert windows.known(client, "m", None) is None


async def test_the_windows_of_few_models_are_kept(windows: ModelWindows, client: OllamaClient) -> None:
    for number in range(MAX_MODELS):
        windows.observe(client, f"m{number}", 100)
    assert windows.known(client, "m0", None) == 100
    windows.observe(client, "another", 100)
    assert windows.known(client, "m0", None) == 100
    assert windows.known(client, "m1", None) is None


async def test_few_windows_of_a_model_are_kept(windows: ModelWindows, client: OllamaClient) -> None:
    await load(client)
    await find(windows, client)
    for num_ctx in range(10, 110):
        assert await find(windows, client, with_num_ctx(num_ctx)) == num_ctx
    assert windows.known(client, "m", None) is None


async def test_each_ollama_has_its_own(windows: ModelWindows, client: OllamaClient) -> None:
    windows.observe(client, "m", 100)
    other = OllamaClient("http://127.0.0.1:1", 10, 1.0)
    assert windows.known(other, "m", None) is None
    other.close()


# How often Ollama is asked.


async def test_callers_at_the_same_time_share_one_question(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    ollama.probed = held = Held(listed(700))
    finds = [asyncio.create_task(find(windows, client)) for _ in range(20)]
    await held.gate.reached
    finds[0].cancel()
    held.gate.open()
    found = await asyncio.gather(*finds, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [700] * 19
    assert len(ollama.probes) == 1
    assert await find(windows, client) == 700
    assert len(ollama.probes) == 2


async def test_a_load_ends_with_the_last_caller(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    ollama.loaded = held = Held(listed(1))
    finds = [asyncio.create_task(find(windows, client, load=True)) for _ in range(2)]
    await held.gate.reached
    finds[0].cancel()
    await asyncio.wait(finds[:1])
    assert not ollama.loads[0].closed.happened
    ollama.loaded = None
    finds[1].cancel()
    await asyncio.wait(finds[1:])
    assert await find(windows, client, load=True) == 2048
    await ollama.loads[0].closed


# Failures are no errors of a reply.


@pytest.mark.parametrize(
    "answer",
    [
        Whole(404, b"404 page not found", "text/plain"),
        Whole(200, b"<html><title>Sign in</title></html>", "text/html"),
        Whole(200, b'{"models":[{"name":["m"]}]}'),
        Whole(200, b'{"models":[{"name":"m:latest","context_length":"x"}]}'),
        Whole(200, b'{"models":[{"name":"m:latest","size":5}]}'),
        Whole(500, b'{"error":"x"}'),
        Whole(302, b""),
        Close(),
    ],
    ids=["old", "page", "odd name", "odd window", "no window", "error", "redirect", "closed"],
)
async def test_an_answer_that_tells_nothing_is_not_known(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama, answer: Step
) -> None:
    ollama.probed = ollama.shown = ollama.loaded = answer
    assert await find(windows, client, load=True) is None
    assert await find(windows, client, with_num_ctx(300), load=True) == 300
    assert windows.known(client, "m", None) is None


@pytest.mark.parametrize("answer", [failure(404, "model 'm' not found"), failure(500, "no memory"), Close()])
async def test_a_load_that_fails_is_not_known(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama, answer: Step
) -> None:
    ollama.loaded = answer
    assert await find(windows, client, load=True) is None


async def test_an_ollama_that_is_away_is_not_known(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    ollama.die()
    assert await find(windows, client, load=True) is None
    with pytest.raises(UpstreamUnreachable):
        await windows.report(client, "m")


async def test_a_silent_ollama_is_not_waited_for(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_facts, "TIMEOUT", 0.05)
    ollama.probed = ollama.shown = Gate()
    assert await find(windows, client, load=True) is None


async def test_a_load_is_waited_for_as_long_as_for_a_first_line(client: OllamaClient, ollama: ScriptedOllama) -> None:
    ollama.loaded = Gate()
    windows = ModelWindows(Settings(first_line_timeout=0.05))
    assert await find(windows, client, load=True) is None


@pytest.mark.parametrize("request_text", ["", "[]", "nonsense", '{"options":[]}'])
async def test_an_odd_request_is_none_of_its_business(
    windows: ModelWindows, client: OllamaClient, request_text: str
) -> None:
    assert await find(windows, client, request_text, load=True) is None


async def test_unknown_models_are_not_kept(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_windows, "MAX_MODELS", 1)
    windows.observe(client, "other", 100)
    ollama.model.known = ["other"]
    assert await find(windows, client, load=True) is None
    assert await find(windows, client, with_num_ctx(5), load=True) == 5
    windows.on_loaded(client, "m")
    assert windows.known(client, "other", None) == 100


# What is shown.


async def test_a_report_says_what_ollama_says(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    ollama.models = ("m:latest",)
    before = await windows.report(client, "m")
    assert before and (before.window, before.trained, before.loaded, before.memory_bytes) == (
        None,
        TRAINED,
        False,
        None,
    )
    await load(client)
    report = await windows.report(client, "m")
    assert report and (report.window, report.trained, report.loaded) == (2048, TRAINED, True)
    assert report.memory_bytes == ollama.model.file_bytes + 2048 * ollama.model.token_bytes
    assert report.bytes_per_token == ollama.model.token_bytes
    assert windows.known(client, "m", 100_000) == TRAINED
    assert len(ollama.loads) == 1, "a report loaded the model"


async def test_a_report_says_nothing_of_what_ollama_does_not_say(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    ollama.probed = ollama.shown = Whole(200, b'{"models":[{"name":"m:latest","size":5}]}')
    report = await windows.report(client, "m")
    assert report and (report.window, report.trained, report.loaded) == (None, None, True)
    assert (report.memory_bytes, report.bytes_per_token) == (5, None)
    ollama.probed = Whole(404, b"404 page not found", "text/plain")
    ollama.shown = Whole(200, b"<html>", "text/html")
    report = await windows.report(client, "m")
    assert report and (report.window, report.loaded) == (None, False)


async def test_a_report_tells_what_a_request_would_get_and_not_what_another_client_has_set(
    client: OllamaClient, ollama: ScriptedOllama
) -> None:
    ollama.model.parameters = {"num_ctx": 512}
    await load(client, options={"num_ctx": 4096})
    for settings, window in ((Settings(), 512), (Settings(num_ctx=1024), 1024)):
        report = await ModelWindows(settings).report(client, "m")
        assert report and (report.window, report.loaded) == (window, True)


async def test_a_reported_window_is_not_taken_for_that_of_requests(windows: ModelWindows, client: OllamaClient) -> None:
    await load(client, options={"num_ctx": 512})  # by another program
    report = await windows.report(client, "m")
    assert report and report.window == 512
    assert windows.known(client, "m", None) is None
    windows.observe(client, "m", 2000)
    report = await windows.report(client, "m")
    assert report and (report.window, report.loaded_window) == (2000, 512)


async def test_before_something_is_left_out_the_model_is_loaded_as_the_request_wants(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    await load(client, options={"num_ctx": 512})
    assert await find(windows, client, load=True) == 512
    assert not windows.is_certain(client, "m", None)
    assert await windows.find(client, "m", REQUEST, "key", load=True, anew=True) == 2048
    assert windows.known(client, "m", None) == 2048
    assert windows.is_certain(client, "m", 512)
    windows.observe(client, "m", 2000)
    assert windows.is_certain(client, "m", None)


async def test_there_is_no_report_of_an_unknown_model(
    windows: ModelWindows, client: OllamaClient, ollama: ScriptedOllama
) -> None:
    ollama.model.known = ["other"]
    assert await windows.report(client, "m") is None
