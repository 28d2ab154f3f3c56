"""GET /models: Ollama's list of models, passed through."""

import ujson

from tests.client import Client
from tests.fakes.ollama import ScriptedOllama


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
