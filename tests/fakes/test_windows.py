"""The scripted model's window: what fits, what is cut, what is refused, and what makes it load anew."""

import json
from typing import Any

import httpx
import pytest

from .ollama import Model, ScriptedOllama


@pytest.fixture(autouse=True)
def _small_window(fake: ScriptedOllama) -> None:
    fake.model.num_ctx = 20


def post(fake: ScriptedOllama, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{fake.url}{path}", json={"model": "m", **body}, trust_env=False, verify=False)


def words(number: int, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": "word " * number}


def last(response: httpx.Response) -> Any:
    return json.loads(response.text.splitlines()[-1])


def loaded(fake: ScriptedOllama) -> Any:
    return httpx.get(f"{fake.url}/api/ps", trust_env=False, verify=False).json()["models"]


def test_the_oldest_messages_are_left_out_and_no_word_of_it(fake: ScriptedOllama) -> None:
    conversation = [words(3, "system"), words(9), words(8, "assistant"), words(6)]
    end = last(post(fake, "/api/chat", messages=conversation))
    assert (end["prompt_eval_count"], end["eval_count"]) == (3 + 8 + 6, 5)
    rendered = post(fake, "/api/chat", messages=conversation, _debug_render_only=True).json()["_debug_info"]
    assert rendered["rendered_template"].count("word") == 17
    whole = post(fake, "/api/chat", messages=conversation, _debug_render_only=True, truncate=False).json()
    assert whole["_debug_info"]["rendered_template"].count("word") == 26


def test_a_prompt_that_does_not_fit_is_cut_to_half_the_window_and_not_answered(fake: ScriptedOllama) -> None:
    end = last(post(fake, "/api/chat", messages=[words(21)]))
    assert (end["message"]["content"], end["prompt_eval_count"], end["eval_count"]) == ("", 12, 1)
    assert end["done_reason"] == "stop"


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_truncate_false_is_refused_with_figures(fake: ScriptedOllama, path: str) -> None:
    prompt = f"<|im_start|>user\n{'word ' * 22}<|im_end|>\n<|im_start|>assistant\nw0 "
    body: dict[str, Any] = {"messages": [words(23)]} if path == "/api/chat" else {"prompt": prompt, "raw": True}
    refused = post(fake, path, truncate=False, **body)
    inner = json.loads(refused.json()["error"])["error"]
    assert (refused.status_code, inner["n_prompt_tokens"], inner["n_ctx"]) == (400, 23, 20)
    assert inner["message"].startswith("request (23 tokens) exceeds the available context size (20 tokens)")
    assert last(post(fake, path, truncate=False, options={"num_ctx": 24}, **body))["done"]
    assert post(fake, path, truncate=False, options={"num_ctx": 23}, **body).status_code == 400


def test_shift_false_ends_the_answer_where_the_window_ends(fake: ScriptedOllama) -> None:
    end = last(post(fake, "/api/chat", messages=[words(18)], shift=False))
    assert (end["done_reason"], end["eval_count"]) == ("length", 2)
    assert last(post(fake, "/api/chat", messages=[words(18)]))["eval_count"] == 5
    assert post(fake, "/api/chat", messages=[words(21)], shift=False).status_code == 400


def test_the_window_is_the_requests_or_the_parameters_or_the_models(fake: ScriptedOllama) -> None:
    assert loaded(fake) == []
    fake.model = Model(num_ctx=20, context_length=8192)
    assert post(fake, "/api/chat", messages=[]).json()["done_reason"] == "load"
    assert [(one["name"], one["context_length"]) for one in loaded(fake)] == [("m:latest", 20)]
    fake.model.parameters = {"num_ctx": 30}
    assert post(fake, "/api/show").json()["parameters"] == "num_ctx                        30"
    assert post(fake, "/api/show").json()["model_info"]["fake.context_length"] == 8192
    post(fake, "/api/chat", messages=[words(1)], _debug_render_only=True)
    assert loaded(fake)[0]["context_length"] == 30
    post(fake, "/api/chat", messages=[words(1)], options={"num_ctx": 40})
    assert loaded(fake)[0]["context_length"] == 40
    assert post(fake, "/api/chat", messages=[], keep_alive=0).json()["done_reason"] == "unload"
    assert loaded(fake) == []


def test_a_request_with_other_options_of_the_runner_loads_the_model_anew(fake: ScriptedOllama) -> None:
    for more in ({}, {"options": {"temperature": 0}}, {"shift": False}, {"shift": False}, {"options": {"num_ctx": 9}}):
        post(fake, "/api/chat", messages=[words(1)], **more)
    assert fake.runner.loads == [("m", 20, None), ("m", 20, False), ("m", 9, None)]
    for options in ({"num_ctx": 9, "num_batch": 8}, {"num_batch": 8, "num_ctx": 9}, {"num_ctx": 9, "num_batch": 4}):
        post(fake, "/api/chat", messages=[words(1)], options=options)
    assert fake.runner.loads[3:] == [("m", 9, None)] * 2


def test_a_window_is_at_most_the_one_that_the_model_was_trained_for(fake: ScriptedOllama) -> None:
    fake.model.context_length = 30
    post(fake, "/api/chat", messages=[words(1)], options={"num_ctx": 100})
    assert [one["context_length"] for one in loaded(fake)] == [30]
    assert loaded(fake)[0]["size"] == fake.model.file_bytes + 30 * fake.model.token_bytes


def test_an_answer_says_how_long_the_model_took_to_load(fake: ScriptedOllama) -> None:
    took = [last(post(fake, "/api/chat", messages=[words(1)]))["load_duration"] for _ in range(2)]
    assert took == [545_005_416, 11_000_000]


def test_a_model_of_the_cloud_is_never_loaded(fake: ScriptedOllama) -> None:
    fake.model.remote_host = "https://ollama.com:443"
    post(fake, "/api/chat", messages=[words(1)])
    assert loaded(fake) == []
    assert post(fake, "/api/show").json()["remote_host"] == "https://ollama.com:443"
