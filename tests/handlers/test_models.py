"""GET /models: Ollama's list of models, passed through. GET /window: what Ollama says of one model's window."""

from collections.abc import Callable

import pytest
import ujson

from tests.client import Client
from tests.fakes.ollama import Model, ScriptedOllama, Whole
from tests.program import Program


def test_the_models_are_ollamas(client: Client, ollama: ScriptedOllama) -> None:
    response = client.http.get("/models")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert [model["name"] for model in response.json()["models"]] == ["fake"]
    assert response.content == ujson.dumps(response.json(), escape_forward_slashes=False).encode()
    assert [probe.path for probe in ollama.probes] == ["/api/tags"]


def test_the_list_is_not_cached(client: Client, ollama: ScriptedOllama) -> None:
    assert len(client.http.get("/models").json()["models"]) == 1
    ollama.models = ("fake", "é")
    try:
        assert [model["name"] for model in client.http.get("/models").json()["models"]] == ["fake", "é"]
    finally:
        ollama.models = ("fake",)


def test_without_ollama_the_response_is_503_until_it_is_reachable_again(client: Client, ollama: ScriptedOllama) -> None:
    ollama.stop_listening()
    ollama.cut_connections()
    response = client.http.get("/models")
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "Ollama" in response.json()["error"]
    ollama.listen_again()
    assert client.http.get("/models").status_code == 200


def test_a_response_of_ollama_cannot_run_as_a_page(client: Client) -> None:
    response = client.http.get("/models")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"] == "sandbox"


# GET /window.


@pytest.mark.parametrize("path", ["/window", "/window/"])
def test_the_window_of_a_loaded_model_is_told_with_its_memory(
    client: Client, ollama: ScriptedOllama, path: str
) -> None:
    ollama.model = Model(num_ctx=4096, context_length=8192)
    unknown = {"window": None, "trained": 8192, "loaded": False}
    unknown |= {"loaded_window": None, "memory_bytes": None, "bytes_per_token": None}
    assert client.http.get(path, params={"model": "fake"}).json() == {"model": "fake", **unknown}
    assert ollama.runner.loads == [], "a question loaded the model"
    client.ask("hi")
    assert client.http.get(path, params={"model": "Fake:latest"}).json() == {
        "model": "Fake:latest",
        "window": 4096,
        "trained": 8192,
        "loaded": True,
        "loaded_window": 4096,
        "memory_bytes": 98_362_775 + 4096 * 27_134,
        "bytes_per_token": 27_134,
    }


def test_the_window_that_is_set_for_all_is_told_before_the_model_is_loaded(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama
) -> None:
    ollama.model = Model(num_ctx=4096, context_length=8192, parameters={"num_ctx": 1024})
    with Client(start_chatterd(num_ctx=512).url) as client:
        assert client.http.get("/window?model=fake").json()["window"] == 512


@pytest.mark.parametrize("query", ["", "?model=", "?model=%20", "?Model=fake"])
def test_a_question_without_a_model_is_422(client: Client, query: str) -> None:
    response = client.http.get(f"/window{query}")
    assert response.status_code == 422
    assert response.json()["error"].startswith("model is missing")


def test_the_window_of_a_model_that_ollama_does_not_have_is_404(client: Client, ollama: ScriptedOllama) -> None:
    ollama.model.known = ["other"]
    response = client.http.get("/window?model=fake")
    assert response.status_code == 404
    assert "GET /models" in response.json()["error"]


def test_what_is_not_ollama_tells_nothing_of_a_window(client: Client, ollama: ScriptedOllama) -> None:
    ollama.probed = ollama.shown = Whole(200, b"<title>Sign in</title>", "text/html")
    told = client.http.get("/window?model=fake").json()
    assert (told["window"], told["trained"], told["loaded"]) == (None, None, False)
