"""GET /healthz and /readyz: liveness, and readiness with and without database and Ollama."""

from collections.abc import Callable

from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program

READY = {"ready": True, "draining": False, "database": "ok", "ollama": "ok"}


def test_a_server_with_database_and_ollama_is_alive_and_ready(client: Client) -> None:
    assert client.http.get("/healthz").json() == {"status": "alive"}
    response = client.http.get("/readyz")
    assert (response.status_code, response.json()) == (200, READY)
    assert response.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in response.headers


def test_a_server_without_ollama_is_ready_and_reports_it(client: Client, ollama: ScriptedOllama) -> None:
    ollama.stop_listening()
    ollama.cut_connections()
    response = client.http.get("/readyz")
    assert (response.status_code, response.json()) == (200, READY | {"ollama": "unreachable"})
    ollama.listen_again()
    assert client.http.get("/readyz").json() == READY


def test_a_draining_server_is_not_ready_rejects_prompts_and_completes_running_replies(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    program = start_chatterd(database_url=database_url, drain_timeout=20)
    client, other = Client(program.url), Client(program.url)
    with client.http, other.http, client.prompt("hi") as stream:
        assert stream.next() is not None
        program.process.terminate()
        program.wait_log("Waiting 20 s at most for 1 replies")
        response = other.http.get("/readyz")
        assert (response.status_code, response.json()) == (503, READY | {"ready": False, "draining": True})
        rejected = other.http.post("/llmchat", json=other.body("second"))
        assert rejected.status_code == 503 and int(rejected.headers["Retry-After"]) > 0
        assert other.messages() == []
        gate.open()
        assert [event.json["message"]["content"] for event in stream.rest()] == ["b"]
        assert program.wait() == 0
