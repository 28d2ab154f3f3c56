"""The window of the embedded model: as that of an Ollama of 2026, of which the answers here were recorded."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from embedded.llama import SLOTS
from embedded.smollm2 import TOKEN_BYTES
from tests.client import NO_TLS
from tests.embedded.model_process import MODEL, SHORT, Messages, Running, ask, lines

SYSTEM = {"role": "system", "content": "Be brief."}

TOO_LONG = (
    r'{"error":"{\"error\":{\"code\":400,\"message\":\"request (1510 tokens) exceeds the available context size '
    r"(512 tokens), try increasing it\",\"type\":\"exceed_context_size_error\",\"n_prompt_tokens\":1510,"
    r'\"n_ctx\":512}}"}'
)
"""What Ollama answered to 1,510 tokens with `num_ctx` 512 and `truncate: false`."""


def loaded(http: httpx.Client) -> Any:
    (model,) = http.get("/api/ps").json()["models"]
    return model


def last_line(http: httpx.Client, path: str, **body: Any) -> Any:
    return lines(http, path, **body)[-1]


def options(window: int, **more: Any) -> dict[str, Any]:
    return {**SHORT, "num_ctx": window, "num_predict": 2, **more}


def load(http: httpx.Client, window: int | None = None) -> None:
    asked = {} if window is None else {"options": {"num_ctx": window}}
    assert http.post("/api/chat", json={"model": MODEL, "messages": [], **asked}).json()["done_reason"] == "load"


def test_the_loaded_window_is_the_requests_and_the_default_without(http: httpx.Client) -> None:
    load(http)
    assert loaded(http)["context_length"] == 4096
    large = loaded(http)["size"]
    load(http, 2048)
    assert loaded(http)["context_length"] == 2048
    assert large - loaded(http)["size"] == SLOTS * 2048 * TOKEN_BYTES
    load(http, 99_999)
    shown = http.post("/api/show", json={"model": MODEL}).json()
    assert loaded(http)["context_length"] == shown["model_info"]["llama.context_length"] == 8192
    load(http)
    assert loaded(http)["context_length"] == 4096


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/api/chat", {"messages": [], "keep_alive": None}, "load"),
        ("/api/generate", {}, "load"),
        ("/api/generate", {"keep_alive": 0}, "unload"),
    ],
)
def test_a_request_without_text_loads_the_model_with_its_window(
    http: httpx.Client, path: str, body: dict[str, Any], reason: str
) -> None:
    load(http, 1024)
    answer = http.post(path, json={"model": MODEL, "options": {"num_ctx": 512}, **body}).json()
    assert (answer["done"], answer["done_reason"]) == (True, reason)
    assert loaded(http)["context_length"] == (512 if reason == "load" else 1024)


def test_a_model_is_listed_under_the_name_it_was_asked_for(http: httpx.Client) -> None:
    http.post("/api/chat", json={"model": "smollm2", "messages": []})
    assert loaded(http)["name"] == "smollm2:latest"


def test_another_window_loads_the_model_anew_and_the_same_does_not(running: Running, http: httpx.Client) -> None:
    load(http, 512)
    before = running.log.read_text().count("model loaded")
    prompt = {"messages": ask("Say hello. " * 40)}
    *_, first = lines(http, "/api/chat", options=options(1024), **prompt)
    *_, again = lines(http, "/api/chat", options=options(1024), **prompt)
    assert running.log.read_text().count("model loaded") == before + 1
    assert first["load_duration"] > 10 * again["load_duration"]
    assert first["prompt_eval_count"] == again["prompt_eval_count"] > 100, "cached tokens are counted"
    assert first["prompt_eval_duration"] > 3 * again["prompt_eval_duration"], "they are not evaluated again"


def test_a_prompt_that_is_too_long_is_refused_with_ollamas_own_bytes(http: httpx.Client) -> None:
    body = {"model": MODEL, "truncate": False, "options": options(512)}
    raw = http.post("/api/generate", json={"prompt": "word " * 1509, "raw": True, **body})
    assert (raw.status_code, raw.text) == (400, TOO_LONG)
    assert raw.headers["Content-Type"] == "application/json"
    chat = http.post("/api/chat", json={"messages": ask("word " * 1500), **body})
    error = json.loads(chat.json()["error"])["error"]
    assert chat.text == TOO_LONG.replace("1510", str(error["n_prompt_tokens"]))


@pytest.mark.extended
def test_the_oldest_messages_are_left_out_and_system_messages_stay(http: httpx.Client) -> None:
    turns: Messages = [SYSTEM]
    for number in range(30):
        turns += [{"role": "user", "content": f"Message {number}." + " word" * 30}]

    def refused(messages: Messages) -> bool:
        body = {"model": MODEL, "messages": messages, "truncate": False, "options": options(512, num_predict=1)}
        return http.post("/api/chat", json=body).status_code == 400

    rendering = {"model": MODEL, "messages": turns, "_debug_render_only": True, "options": options(512)}
    prompt: str = http.post("/api/chat", json=rendering).json()["_debug_info"]["rendered_template"]
    assert "system\nBe brief." in prompt
    kept = [number for number in range(30) if f"Message {number}." in prompt]
    assert kept == list(range(kept[0], 30)) != []
    assert refused([SYSTEM, *turns[kept[0] :]]), "one message more would not fit"
    assert not refused([SYSTEM, *turns[kept[0] + 1 :]])
    answered = last_line(http, "/api/chat", messages=turns, options=options(512))
    alone = last_line(http, "/api/chat", messages=[SYSTEM, *turns[kept[0] + 1 :]], options=options(512))
    assert 400 < answered["prompt_eval_count"] == alone["prompt_eval_count"] < 512


@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        ("/api/chat", {"messages": [*ask("Hello!"), *ask("word " * 1500)]}),
        ("/api/generate", {"prompt": "word " * 1500, "raw": True}),
        ("/api/generate", {"prompt": "word " * 1500}),
    ],
)
@pytest.mark.extended
def test_a_prompt_too_long_even_so_is_cut_to_half_the_window(
    http: httpx.Client, path: str, prompt: dict[str, Any]
) -> None:
    assert last_line(http, path, options=options(512), **prompt)["prompt_eval_count"] == 258


@pytest.mark.extended
def test_an_answer_ends_where_the_window_does(http: httpx.Client) -> None:
    prompt = {"prompt": "one two " * 120, "raw": True, "truncate": False}
    endless = {"num_ctx": 256, "num_predict": 3000, "temperature": 0, "repeat_penalty": 1.0, "stop": ["<|im_end|>"]}
    *_, last = lines(http, "/api/generate", options=endless, **prompt)
    assert last["done_reason"] == "length"
    assert last["prompt_eval_count"] + last["eval_count"] in (256, 257)
    *_, last = lines(http, "/api/generate", options={**endless, "num_predict": 3}, **prompt)
    assert (last["done_reason"], last["eval_count"]) == ("length", 3)


@pytest.mark.extended
def test_a_request_for_another_window_waits_for_those_before_it(http: httpx.Client) -> None:
    load(http, 512)
    body = {"model": MODEL, "prompt": "1, 2, 3, 4, 5, 6,", "raw": True}
    endless = {"num_ctx": 512, "num_predict": 60, "temperature": 0, "repeat_penalty": 1.0}
    with (
        http.stream("POST", "/api/generate", json={**body, "options": endless}) as response,
        ThreadPoolExecutor() as threads,
    ):
        answered = response.iter_lines()
        next(answered)
        waits = threads.submit(load, http, 1024)
        assert json.loads(list(answered)[-1])["eval_count"] == 60
        waits.result()
    assert loaded(http)["context_length"] == 1024


@pytest.mark.extended
def test_a_client_that_disconnects_while_the_model_is_loaded_leaves_it_usable(
    running: Running, http: httpx.Client
) -> None:
    load(http, 512)
    body = {"model": MODEL, "prompt": "1, 2, 3,", "raw": True, "options": options(1024, num_predict=2000)}
    with (
        httpx.Client(base_url=running.url, timeout=0.05, verify=NO_TLS) as hasty,
        pytest.raises(httpx.TimeoutException),
    ):
        hasty.post("/api/generate", json=body)
    assert last_line(http, "/api/generate", prompt="Hello", options=options(1024))["done"]
    assert loaded(http)["context_length"] == 1024
