"""chatterd without any configuration: embedded PostgreSQL and embedded model."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.client import Client, Event
from tests.program import Program
from tests.stand_in import StandInProgram

MODEL = "smollm2:135m"
BRIEF = {"num_predict": 12, "temperature": 0}


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chatterd-test-"))
    yield folder
    left = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(process.info["cmdline"] or [])
    ]
    shutil.rmtree(folder)
    assert not left


def start(data_dir: Path) -> Program:
    return StandInProgram(data_dir=data_dir)


def text(events: list[Event]) -> str:
    return "".join(event.json["message"]["content"] for event in events)


def test_a_conversation_with_the_embedded_model_survives_a_restart(data_dir: Path) -> None:
    with start(data_dir) as program:
        with Client(program.url) as client:
            assert [model["name"] for model in client.http.get("/models").json()["models"]] == [MODEL]
            first = client.ask("What is the capital of France?", model=MODEL, options=BRIEF)
            second = client.ask("And of Italy?", model=MODEL, options=BRIEF)
        tree = [psutil.Process(program.process.pid), *psutil.Process(program.process.pid).children(recursive=True)]
        assert program.terminate() == 0, program.log
        assert not program.alarms([]), program.log
    assert not [process for process in tree if process.is_running()]

    assert "Paris" in text(first)
    # The prompt contained the first question, its answer and the second question.
    first_figures, second_figures = first[-1].json, second[-1].json
    assert second_figures["prompt_eval_count"] > first_figures["prompt_eval_count"] + first_figures["eval_count"]

    with start(data_dir) as program, Client(program.url, client.appid) as client:
        assert client.messages() == [
            ("user", "What is the capital of France?"),
            ("assistant", text(first)),
            ("user", "And of Italy?"),
            ("assistant", text(second)),
        ]


@pytest.mark.extended
def test_the_embedded_model_ends_when_chatterd_is_killed(data_dir: Path) -> None:
    program = start(data_dir)
    children = psutil.Process(program.process.pid).children()
    models = [child for child in children if "embedded.ollama" in child.cmdline()]
    assert len(models) == 1
    program.kill()
    gone, alive = psutil.wait_procs(models, timeout=30)
    assert gone and not alive
    assert start(data_dir).terminate() == 0  # the next program uses the PostgreSQL that was left running, and stops it


@pytest.mark.extended
def test_a_dead_embedded_model_is_restarted(data_dir: Path) -> None:
    with start(data_dir) as program:
        [model] = [
            child for child in psutil.Process(program.process.pid).children() if "embedded.ollama" in child.cmdline()
        ]
        model.kill()
        program.wait_log("model has died")
        program.wait_log("model answers again")
        with Client(program.url) as client:
            assert client.ask("hi", model=MODEL, options=BRIEF)[-1].json["done"] is True
        assert not program.alarms(["model has died"])
