"""The embedded model stands in for an Ollama that does not answer yet, and no longer than that."""

import json
from collections.abc import Iterator

import psutil
import pytest

from tests.client import Client, Event
from tests.database import eventually
from tests.fakes.ollama import Answer, Gate, ScriptedOllama, Step, Whole, failure
from tests.program import Program
from tests.stand_in import StandInProgram

TOY = "smollm2:135m"
GREEDY = {"temperature": 0, "num_predict": 12}
ENDLESS = {"temperature": 0, "num_predict": 3000, "repeat_penalty": 1.0}


@pytest.fixture
def late() -> Iterator[ScriptedOllama]:
    """An Ollama that does not listen yet."""
    with ScriptedOllama() as ollama:
        ollama.stop_listening()
        yield ollama


def host(ollama: ScriptedOllama) -> str:
    return f"127.0.0.1:{ollama.port}"


def models(client: Client) -> list[str]:
    return [model["name"] for model in client.http.get("/models").json()["models"]]


def text(events: list[Event]) -> str:
    return "".join(event.json["message"]["content"] for event in events if event.name == "message")


def test_an_ollama_that_is_started_later_is_used_and_a_reply_of_the_toy_ends_on_it(
    late: ScriptedOllama, database_url: str
) -> None:
    with StandInProgram(host(late), database_url=database_url) as program, Client(program.url) as client:
        program.wait_log("the embedded SmolLM2-135M does: a toy")
        assert client.http.get("/readyz").json() == {
            "ready": True, "draining": False, "database": "ok", "ollama": "stand-in"
        }  # fmt: skip
        [listed] = client.http.get("/models").json()["models"]
        assert (listed["name"], listed["stand_in"]) == (TOY, True)
        with client.prompt("Count to a thousand in words.", model=TOY, options=ENDLESS) as stream:
            assert stream.next() is not None
            late.listen_again()
            program.wait_log("Ollama answers at .*: from now on it is used")
            assert models(client) == ["fake"]
            assert client.http.get("/readyz").json()["ollama"] == "ok"
            location = stream.response.headers["Content-Location"]
            assert stream.next() is not None  # the reply goes on
            assert not late.generations and len(program.models()) == 1
            assert client.http.delete(location).status_code == 202
            assert stream.rest()[-1].json["done_reason"] == "stopped"
        eventually("the toy has ended", lambda: not program.models())
        with Client(program.url) as other:
            assert text(other.ask("hi", model="fake")) == "w0 w1 w2 w3 w4 "
        late.script(failure(404, f"model '{TOY}' not found"))
        [gone] = client.ask("And now?", model=TOY)
        assert gone.name == "error"
        assert gone.json["error"] == (
            f"model '{TOY}' not found (Ollama answered 404 Not Found). Choose another model, or install it: "
            f"`ollama pull {TOY}`."
        )
        assert not program.alarms([]), program.log


def test_prompts_for_other_models_wait_for_ollama(late: ScriptedOllama, database_url: str) -> None:
    with StandInProgram(host(late), database_url=database_url) as program, Client(program.url) as client:
        with client.prompt("hi", model="fake") as stream:
            program.wait_log("Trying again")
            late.listen_again()
            assert text(stream.rest()) == "w0 w1 w2 w3 w4 "
        assert not program.alarms([]), program.log


class Held(Step):
    """Ollama's version, once a gate is open: a machine that wakes up."""

    ends = True

    def __init__(self) -> None:
        self.gate = Gate("the version")

    async def play(self, answer: Answer) -> None:
        await self.gate.play(answer)
        await Whole(200, b'{"version":"0.12.0"}').play(answer)


@pytest.mark.extended
def test_an_ollama_that_is_silent_at_the_start_is_used_when_it_answers(late: ScriptedOllama, database_url: str) -> None:
    held = late.probed = Held()
    late.listen_again()
    with StandInProgram(host(late), database_url=database_url) as program, Client(program.url) as client:
        program.wait_log("Ollama has not answered yet at")
        assert models(client) == [TOY]
        held.gate.open()
        program.wait_log("Ollama answers at .*: from now on it is used")
        late.probed = None
        assert models(client) == ["fake"]
        assert not program.alarms([]), program.log


@pytest.mark.expects_log("Ollama is unreachable at")
def test_where_an_address_is_set_no_other_model_stands_in(database_url: str) -> None:
    with Program(database_url=database_url, ollama_host="127.0.0.1:1") as program, Client(program.url) as client:
        assert client.http.get("/models").status_code == 503
        assert not [one for one in psutil.Process(program.process.pid).children(recursive=True) if "embedded.ollama" in
                    one.cmdline()]  # fmt: skip
        assert not program.alarms(["Ollama is unreachable at"])


@pytest.mark.extended
def test_a_reply_of_the_toy_is_continued_on_the_toy_after_a_crash(late: ScriptedOllama, database_url: str) -> None:
    late.shown = failure(404, f"model '{TOY}' not found")
    with (
        StandInProgram(host(late), database_url=database_url) as first,
        Client(first.url) as client,
        client.prompt("Count to a thousand in words.", model=TOY, options=ENDLESS) as stream,
    ):
        assert [event and event.id for event in (stream.next(), stream.next())] == [0, 1]
        location = stream.response.headers["Content-Location"]
        late.listen_again()
        first.wait_log("from now on it is used")
        first.kill()
    with StandInProgram(host(late), database_url=database_url) as second, Client(second.url, client.appid) as client:
        logged = int(second.wait_log(r"Adopted reply \S+ after (\d+) lines")[1])
        with client.follow(location, last_event_id=logged - 1) as stream:
            continued = stream.next()
            assert continued is not None and continued.id == logged and continued.json["message"]["content"]
            assert client.http.delete(location).status_code == 202
            assert stream.rest()[-1].json["done_reason"] == "stopped"
        eventually("the toy has ended", lambda: not second.models(), timeout=15)
        assert not late.generations
        assert models(client) == ["fake"]
        assert not second.alarms([]), second.log


def test_a_server_that_is_not_ollama_is_named_and_the_toy_stands_in(late: ScriptedOllama, database_url: str) -> None:
    late.probed = Whole(200, b"<html><title>Sign in</title></html>", "text/html")
    late.listen_again()
    with StandInProgram(host(late), database_url=database_url) as program, Client(program.url) as client:
        program.wait_log('not Ollama: it answered with a web page, "Sign in"')
        assert models(client) == [TOY]
        assert not program.alarms([]), program.log


@pytest.mark.extended
def test_the_log_of_the_toy_has_the_format_of_the_server(late: ScriptedOllama, database_url: str) -> None:
    with StandInProgram(host(late), database_url=database_url, log_format="json") as program:
        with Client(program.url) as client:
            client.ask("hi", model=TOY, options=GREEDY)
            program.wait_log("completion ended")
        assert program.terminate() == 0
        for one in program.log.splitlines():
            assert {"time", "level", "logger", "message"} <= json.loads(one).keys()


@pytest.mark.extended
def test_processes_side_by_side_decide_alike(late: ScriptedOllama, database_url: str) -> None:
    with (
        StandInProgram(host(late), database_url=database_url) as first,
        StandInProgram(host(late), database_url=database_url) as second,
        Client(first.url) as client,
        Client(second.url, client.appid) as other,
    ):
        assert models(client) == models(other) == [TOY]
        client.ask("hi", model=TOY, options=GREEDY)
        late.listen_again()
        for program in (first, second):
            program.wait_log("from now on it is used")
        assert models(client) == models(other) == ["fake"]
        assert text(other.ask("again", model="fake")) == "w0 w1 w2 w3 w4 "
        assert not [*first.alarms([]), *second.alarms([])]
