"""The window that a reply asks for, and what it tells of it to the replies after it."""

from collections.abc import Callable

from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import Death, Model, RunnerDies, ScriptedOllama
from tests.fakes.refusals import too_long
from tests.program import Program


def test_every_request_that_can_load_the_model_has_the_window_that_is_set_for_all(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama
) -> None:
    ollama.deaths = {0: Death(2, RunnerDies())}
    with Client(start_chatterd(num_ctx=4096).url) as client:
        client.ask("hi")
        client.http.post("/llmprompt", json={"model": "fake", "prompt": "hi"})
        client.http.post("/llmprompt", json={"model": "fake", "prompt": ""})
    assert [request.path for request in ollama.generations] == ["/api/chat", *["/api/generate"] * 3]
    assert ollama.renderings, "the reply was not continued as a raw prompt"
    asked = [request.json["options"]["num_ctx"] for request in (*ollama.generations, *ollama.renderings)]
    assert set(asked) == {4096}
    assert set(ollama.runner.loads) == {("fake", 4096, None)}


def test_a_window_that_one_chat_has_set_is_not_taken_for_that_of_another(
    client: Client, ollama: ScriptedOllama
) -> None:
    ollama.model = Model(num_ctx=2048, context_length=8192)
    model = "two-windows"  # of which the shared program knows nothing
    client.ask("hi", model=model, options={"num_ctx": 4096})  # loads the model, so that its window is asked for
    eventually("the window is asked for", lambda: answered(ollama, "/api/ps"))
    assert context_window(client) == 4096
    client.appid += "-other"
    client.ask("hi", model=model)
    assert ollama.runner.loaded == (model, 2048, None)
    assert context_window(client) in (None, 2048)


def answered(ollama: ScriptedOllama, path: str) -> bool:
    return any(probe.answered.happened for probe in ollama.probes if probe.path == path)


def context_window(client: Client) -> int | None:
    window: int | None = client.http.get("/llmchat", params={"appID": client.appid}).json()["context"]["window"]
    return window


def test_a_chat_that_asks_for_no_window_at_all_does_not_take_that_of_others(
    client: Client, ollama: ScriptedOllama
) -> None:
    client.ask("hi", model="no-window")
    ollama.script(too_long(30, 4))  # Ollama makes 4 of 0
    client.appid += "-other"
    assert client.ask("some words", model="no-window", options={"num_ctx": 0})[-1].name == "error"
    client.appid += "-another"
    assert client.ask("some words " * 20, model="no-window")[-1].json["done"]
