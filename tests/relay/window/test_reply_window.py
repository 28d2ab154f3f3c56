"""What a reply tells of its model's window to the replies after it."""

from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import Model, ScriptedOllama


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
