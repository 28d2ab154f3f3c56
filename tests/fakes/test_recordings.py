"""The scripted Ollama against recordings of a real one: status, names and order of fields, texts of errors."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .ollama import Mode, Model, ScriptedOllama, Words

Recording = dict[str, Any]

_, *RECORDINGS = map(json.loads, (Path(__file__).parent / "recordings.jsonl").read_text().splitlines())

PARAMETERS = {"stop": ["<|im_start|>", "<|im_end|>"], "temperature": 0.2, "top_p": 0.9}
"""Of the Modelfile of the recorded model."""

KNOWN = ("smollm2", "smol-open", "r-qwen3-vl-thinking")


@pytest.fixture(scope="module")
def fake() -> Iterator[ScriptedOllama]:
    with ScriptedOllama() as fake:
        yield fake


def play(fake: ScriptedOllama, recording: Recording) -> httpx.Response:
    """Ask the fake, set up as the recorded Ollama was, what that was asked."""
    fake.forget()
    thinks = "thinking" in recording["name"]
    fake.model = Model(capabilities=["completion"], known=KNOWN, num_ctx=4096, context_length=8192)
    fake.model.parameters = PARAMETERS
    fake.default = (Words(mode=mode_of(recording)),)
    if thinks:
        fake.model.capabilities = ["completion", "thinking"]
        fake.default = (Words(thinks=["a"] * 100),)
    if recording["name"] == "GET /api/ps":
        fake.runner.load({"model": "smollm2"})
    asked = recording["request"]
    with httpx.Client(base_url=fake.url, trust_env=False) as client:
        return client.request(asked["method"], asked["path"], json=expanded(asked["body"]))


def mode_of(recording: Recording) -> Mode:
    if "native" in recording["mode"]:
        return "echo"
    body = recording["request"]["body"]
    return "open" if isinstance(body, dict) and body.get("model") == "smol-open" else "closed"


def expanded(body: Any) -> Any:
    """A request's body with its long prompts written out."""
    for message in body.get("messages", []) if isinstance(body, dict) else []:
        if isinstance(message["content"], dict):
            message["content"] = message["content"]["repeat"] * message["content"]["times"]
    return body


def shape(value: Any) -> Any:
    """Names and order of fields, and the types of their values."""
    if isinstance(value, dict):
        return [(name, shape(one)) for name, one in value.items() if name != "model_info"]
    if isinstance(value, list):
        return [shape(one) for one in value[:1]]
    return type(value).__name__


@pytest.mark.parametrize("recording", RECORDINGS, ids=[one["name"] for one in RECORDINGS])
def test_it_answers_as_recorded(fake: ScriptedOllama, recording: Recording) -> None:
    response = play(fake, recording)
    assert (response.status_code, response.headers["Content-Type"]) == (recording["status"], recording["content_type"])
    if recording["content_type"].startswith("text/plain"):
        assert response.text == recording["body"]
        return
    said, recorded = (list(map(json.loads, body.splitlines())) for body in (response.text, recording["body"]))
    assert [shape(said[0]), shape(said[-1])] == [shape(recorded[0]), shape(recorded[-1])]
    assert {one.get("done_reason") for one in said} == {one.get("done_reason") for one in recorded}
    assert masked(said[0].get("error")) == masked(recorded[0].get("error"))
    assert said[0].get("_debug_info") == recorded[0].get("_debug_info")


def masked(error: str | None) -> str | None:
    """An error without the number of a prompt's tokens, which are words here; JSON within it is opened."""
    if error and error.startswith("{"):
        assert shape(json.loads(error))
        error = json.dumps(json.loads(error))
    return re.sub(r"15\d\d", "N", error) if error else error


def recorded(name: str) -> Any:
    [body] = [one["body"] for one in RECORDINGS if one["name"] == name]
    return json.loads(body)


def played(fake: ScriptedOllama, name: str) -> Any:
    return json.loads(play(fake, next(one for one in RECORDINGS if one["name"] == name)).text)


def test_a_model_is_shown_as_recorded(fake: ScriptedOllama) -> None:
    shown, real = played(fake, "show"), recorded("show")
    assert (shown["template"], shown["parameters"]) == (real["template"], real["parameters"])
    names = {name.replace("llama.", "fake."): value for name, value in real["model_info"].items()}
    info = shown["model_info"]
    assert list(info) == [name for name in names if name in info]
    assert {**info, "general.architecture": "llama"} == {name: names[name] for name in info}


@pytest.mark.parametrize(
    "name", ["prompt longer than the window: cut to half of it, silently", "GET /api/ps"], ids=["cut", "ps"]
)
def test_figures_of_the_window_are_those_recorded(fake: ScriptedOllama, name: str) -> None:
    said, real = played(fake, name), recorded(name)
    said, real = ((one["models"][0] if "models" in one else one) for one in (said, real))
    for figure in ("prompt_eval_count", "eval_count", "context_length"):
        assert said.get(figure) == real.get(figure)


def test_the_first_line_of_an_echo_repeats_the_words_as_recorded(fake: ScriptedOllama) -> None:
    [echo] = [one for one in RECORDINGS if one["name"].endswith("first line repeats it")]
    given = echo["request"]["body"]["messages"][-1]["content"]
    said, real = (json.loads(body.splitlines()[0]) for body in (play(fake, echo).text, echo["body"]))
    assert real["message"]["content"] == given + " resilience"
    assert said["message"]["content"] == f"{given}w9 "
