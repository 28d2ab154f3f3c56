"""OLLAMA_HOST of the real program: credentials in it, addresses that can never work, and what is not Ollama there."""

import base64
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.client import Client
from tests.fakes.ollama import Answer, ScriptedOllama, Step, Whole
from tests.fakes.script import Pause
from tests.program import ROOT, Program
from tests.status_watcher import watch

SECRET = "s3cr@t/:#"
QUOTED = "s3cr%40t%2F%3A%23"
BASIC = "Basic " + base64.b64encode(f"kim:{SECRET}".encode()).decode()
Start = Callable[..., Program]


def test_user_and_password_are_sent_and_never_shown(
    start_chatterd: Start, ollama: ScriptedOllama, database_url: str
) -> None:
    host = f"http://kim:{QUOTED}@127.0.0.1:{ollama.port}"
    program = start_chatterd(database_url=database_url, ollama_host=host, ollama_retry_timeout=0)
    shown = []
    with Client(program.url) as client:
        shown.append(client.http.get("/models").text)
        client.ask("hi")
        assert client.http.post("/llmprompt", json={"model": "fake", "prompt": "hi"}).status_code == 200
        requests = [*ollama.probes, *ollama.requests]
        assert {request.path for request in requests} >= {"/api/version", "/api/tags", "/api/chat", "/api/generate"}
        assert {request.headers["authorization"] for request in requests} == {BASIC}
        ollama.script(Whole(401, b"", "text/plain"))
        shown.append(client.ask("hi")[-1].data)
        ollama.stop_listening()
        ollama.cut_connections()
        shown += [client.ask("hi")[-1].data, client.http.get("/models").text]
        shown += [client.http.get(path).text for path in ("/readyz", "/metrics")]
        with watch(program.url) as watcher:
            shown.append(str(watcher.until(lambda now: now["ollama"]["state"] == "unreachable")))
        ollama.listen_again()
    assert program.terminate() == 0
    for text in [*shown, program.log]:
        assert not any(secret in text for secret in ("s3cr", BASIC[6:], "kim"))
    assert f"Using Ollama at http://127.0.0.1:{ollama.port}\n" in program.log


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("gpu:80000", "The port in OLLAMA_HOST must be a number from 1 to 65535."),
        ("unix:///run/ollama.sock", "OLLAMA_HOST must begin with http:// or https://"),
        (f"http://user:{SECRET}@gpu", "OLLAMA_HOST"),
    ],
)
def test_an_address_that_can_never_work_ends_the_start_with_one_line(host: str, said: str) -> None:
    command = [sys.executable, "server.py", "--port=0", "--database-url=postgresql://127.0.0.1:1/x"]
    run = subprocess.run([*command, f"--ollama-host={host}"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert run.stderr.startswith(f"chatterd cannot start: {said}") and run.stderr.count("\n") == 1
    assert "s3cr" not in run.stderr


LOGIN = Whole(200, b"<!doctype html><html>\n<title>Sign in</title>\n<p>a\n<p>b\n</html>\n", "text/html; charset=utf-8")


@pytest.mark.expects_log("not Ollama")
def test_a_login_page_at_the_address_is_said_to_be_one(
    start_chatterd: Start, ollama: ScriptedOllama, database_url: str
) -> None:
    ollama.probed = LOGIN
    program = start_chatterd(database_url=database_url)
    said = 'The server at Ollama\'s address is not Ollama: it answered with a web page, "Sign in".'
    assert f"{said} The address is {ollama.url}\n" in program.log
    with Client(program.url) as client:
        ready = client.http.get("/readyz").json()
        assert (ready["ready"], ready["ollama"], ready["ollama_problem"]) == (True, "not ollama", said)
        models = client.http.get("/models")
        assert (models.status_code, models.json()) == (502, {"error": said})
        ollama.script(LOGIN)
        [event] = client.ask("hi")
        assert (event.name, event.json["error"]) == ("error", said.replace('"', "'"))
    with watch(program.url) as watcher:
        event = watcher.until(lambda now: now["ollama"]["state"] == "not ollama")
        assert [problem["message"] for problem in event["problems"] if problem["kind"] == "ollama"] == [said]


@pytest.mark.expects_log("is chatterd, not Ollama")
def test_another_chatterd_at_the_address_is_said_to_be_one(
    start_chatterd: Start, chatterd: Program, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url, ollama_host=chatterd.url, ollama_retry_timeout=0)
    with Client(program.url) as client:
        assert "is chatterd, not Ollama" in client.http.get("/readyz").json()["ollama_problem"]
        assert "is chatterd, not Ollama" in client.http.get("/models").json()["error"]
        assert "is chatterd, not Ollama" in client.ask("hi")[-1].json["error"]


class SlowList(Step):
    """A list of models from a slow disk: it takes 4 s."""

    ends = True

    async def play(self, answer: Answer) -> None:
        await Pause(4).play(answer)
        await Whole(200, b'{"models":[]}').play(answer)


@pytest.mark.extended
def test_a_list_of_models_that_takes_4_seconds_is_waited_for(client: Client, ollama: ScriptedOllama) -> None:
    ollama.probed = SlowList()
    assert client.http.get("/readyz").json()["ollama"] == "silent"  # it has 0.5 s there, and is not called unreachable
    response = client.http.get("/models")
    assert (response.status_code, response.json()) == (200, {"models": []})
