"""The embedded model in a real process, with Ollama's own Python client and raw HTTP."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from tests.client import NO_TLS
from tests.embedded.model_process import MODEL, ROOT, SHORT, Messages, Running, ask, lines, start

ENDLESS = {"temperature": 0, "num_predict": 3000, "repeat_penalty": 1.0}
COUNTING = [
    {"role": "user", "content": "Count to ten in words."},
    {"role": "assistant", "content": "Count: one, two,"},
]


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_the_root_answers_that_ollama_is_running(http: httpx.Client) -> None:
    assert http.get("/").text == "Ollama is running"
    assert http.head("/").status_code == 200
    assert http.get("/api/version").json() == {"version": "0.0.0"}
    assert http.get("/elsewhere").status_code == 404


def test_the_model_is_listed_and_shown(client: ollama.Client) -> None:
    client.chat(MODEL, [])
    (listed,) = client.list().models
    (loaded,) = client.ps().models
    assert listed.model == loaded.model == MODEL
    assert listed.digest == loaded.digest
    assert re.fullmatch("[0-9a-f]{64}", listed.digest or "")
    shown = client.show(MODEL)
    assert shown.capabilities == ["completion"]
    assert shown.details
    assert shown.details.quantization_level == "Q4_1"
    assert (shown.parameters or "").split() == ["num_predict", "256", "temperature", "0.2", "top_p", "0.9"]
    assert shown.template and "<|im_start|>{{ .Role }}\n{{ .Content }}" in shown.template
    assert shown.modelinfo
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.modelinfo["tokenizer.ggml.add_bos_token"] is False


def test_chat_streams_a_line_per_piece(client: ollama.Client) -> None:
    *parts, last = client.chat(MODEL, ask("Say hello."), stream=True, options=SHORT)
    assert len(parts) == SHORT["num_predict"]
    assert all(part.message.role == "assistant" and part.message.content and not part.done for part in parts)
    assert last.done
    assert last.message.content == ""
    assert last.eval_count == SHORT["num_predict"]
    assert last.prompt_eval_count
    assert (last.total_duration or 0) >= (last.eval_duration or 0) > 0


def test_chat_without_streaming_returns_the_streamed_text(http: httpx.Client) -> None:
    body = {"messages": ask("Say hello."), "options": SHORT}
    pieces = [line["message"]["content"] for line in lines(http, "/api/chat", **body)]
    whole = http.post("/api/chat", json={"model": MODEL, "stream": False, **body})
    assert whole.headers["Content-Type"] == "application/json; charset=utf-8"
    assert whole.json()["message"] == {"role": "assistant", "content": "".join(pieces)}
    assert whole.json()["done"] is True


def test_generate_returns_the_text_of_chat(client: ollama.Client) -> None:
    chat = client.chat(MODEL, ask("Say hello."), options=SHORT)
    generated = client.generate(MODEL, "Say hello.", options=SHORT)
    assert generated.response == chat.message.content
    streamed = client.generate(MODEL, "Say hello.", stream=True, options=SHORT)
    assert "".join(part.response or "" for part in streamed) == generated.response


def test_generate_raw_continues_the_prompt(client: ollama.Client) -> None:
    options = {**SHORT, "num_predict": 3, "repeat_penalty": 1.0}
    generated = client.generate(MODEL, "one, two, three, four,", raw=True, options=options)
    assert generated.response == " five, six"


def test_a_last_assistant_message_is_continued(client: ollama.Client) -> None:
    continued = client.chat(MODEL, COUNTING, options={**SHORT, "num_predict": 6})
    assert continued.message.content == " three, four, five,"
    assert continued.done_reason == "length"


@pytest.mark.extended
def test_a_reply_cut_anywhere_is_continued_to_the_same_text(client: ollama.Client) -> None:
    question = ask("Name the days of the week.")
    greedy = {"temperature": 0, "num_predict": 24, "repeat_penalty": 1.0}
    pieces = [part.message.content or "" for part in client.chat(MODEL, question, stream=True, options=greedy)]
    for cut in (1, 6, 13):
        begun = {"role": "assistant", "content": "".join(pieces[:cut])}
        options = {**greedy, "num_predict": 24 - cut}
        rest = client.chat(MODEL, [*question, begun], options=options)
        assert rest.message.content == "".join(pieces[cut:])


@pytest.mark.extended
def test_a_seed_determines_the_text(client: ollama.Client) -> None:
    def said(seed: int) -> str | None:
        options = {"temperature": 1.5, "seed": seed, "num_predict": 12}
        return client.chat(MODEL, ask("Tell me a story."), options=options).message.content

    said(7)  # the prompt is cached now, and every run computes the same
    assert said(7) == said(7)
    assert len({said(seed) for seed in range(4)}) > 1


def test_the_text_ends_before_a_stop_string(client: ollama.Client) -> None:
    continued = client.chat(MODEL, COUNTING, options={**SHORT, "num_predict": 40, "stop": [", five"]})
    assert continued.message.content == " three, four"
    assert continued.done_reason == "stop"


def test_text_consists_of_whole_characters(http: httpx.Client) -> None:
    begun = {"role": "assistant", "content": "Here they are: 😀😃😄😁"}
    options = {"temperature": 0, "num_predict": 16}
    *parts, last = lines(http, "/api/chat", messages=[*ask("Many emoji!"), begun], options=options)
    text = "".join(part["message"]["content"] for part in parts)
    assert len(parts) < last["eval_count"], "an emoji takes several tokens, and comes in one line"
    assert "�" not in text
    assert any(ord(character) > 0xFFFF for character in text)


def test_format_constrains_the_text_to_json(client: ollama.Client) -> None:
    wanted = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    answered = client.chat(MODEL, ask("Is it?"), format=wanted, options={"temperature": 0, "num_predict": 60})
    assert isinstance(json.loads(answered.message.content or "")["ok"], bool)


def rendering(client: httpx.Client, messages: Messages) -> str:
    """Return the prompt that these messages become."""
    body = {"model": MODEL, "messages": messages, "_debug_render_only": True, "stream": False, "truncate": False}
    answer = client.post("/api/chat", json=body).json()
    assert list(answer) == ["model", "created_at", "message", "done", "_debug_info"]
    assert (answer["message"], answer["done"]) == ({"role": "", "content": ""}, False)
    rendered: str = answer["_debug_info"]["rendered_template"]
    return rendered


def test_a_prompt_is_rendered_without_being_answered(http: httpx.Client) -> None:
    system = {"role": "system", "content": "Be brief."}
    begins = (
        "<|endoftext|><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert rendering(http, [system, *ask("Hi")]) == begins
    assert rendering(http, [system, *ask("Hi"), {"role": "assistant", "content": "Hello "}]) == begins + "Hello "
    assert rendering(http, ask("hi " * 9000)).count("hi ") == 9000


MARKER = "\ue0000123456789abcdef"


@pytest.mark.parametrize("cut", [7, *(pytest.param(cut, marks=pytest.mark.extended) for cut in (1, 20))])
def test_a_reply_cut_anywhere_is_continued_raw_from_its_rendering(http: httpx.Client, cut: int) -> None:
    question, length = ask("Tell me a long story about a ship."), 30
    greedy = {"temperature": 0, "seed": 1, "num_predict": length}
    *parts, last = lines(http, "/api/chat", messages=question, options=greedy)
    pieces = [part["message"]["content"] for part in parts]
    assert last["eval_count"] == len(pieces) == length
    said = "".join(pieces[:cut])
    before, marker, _ = rendering(http, [*question, {"role": "assistant", "content": said + MARKER}]).rpartition(MARKER)
    assert marker and before.endswith(said)
    rest = {"raw": True, "think": False, "truncate": False, "options": {**greedy, "num_predict": length - cut}}
    *continued, end = lines(http, "/api/generate", prompt=before, **rest)
    assert said + "".join(part["response"] for part in continued) == "".join(pieces)
    assert end["done_reason"] == last["done_reason"] == "length"


def test_content_null_is_taken_as_empty(http: httpx.Client) -> None:
    answers = [
        lines(http, "/api/chat", messages=[{"role": "user", "content": content}], options=SHORT)[:-1]
        for content in (None, "")
    ]
    assert [part["message"] for part in answers[0]] == [part["message"] for part in answers[1]]


HELLO = ask("hello")


def with_option(**option: object) -> dict[str, Any]:
    return {"model": MODEL, "messages": HELLO, "options": option}


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/api/chat", {"model": "x", "messages": HELLO}, 404, "model 'x' not found"),
        ("/api/generate", {"model": "x", "prompt": "hello"}, 404, "model 'x' not found"),
        ("/api/show", {"model": "x"}, 404, "model 'x:latest' not found"),
        ("/api/chat", {"messages": HELLO}, 400, "model is required"),
        ("/api/chat", {"model": MODEL, "messages": [{"content": "hello"}]}, 400, "role"),
        (
            "/api/chat",
            with_option(seed="x"),
            500,
            'option "seed" must be of type integer',
        ),
        (
            "/api/chat",
            with_option(stop="x"),
            500,
            'option "stop" must be of type array',
        ),
        ("/api/chat", with_option(repeat_penalty=0), 400, "penalty"),
        ("/api/chat", {"model": MODEL, "messages": HELLO, "format": "xml"}, 400, "format"),
        ("/api/chat", {"model": MODEL, "messages": HELLO, "think": True}, 400, "does not support thinking"),
        ("/api/chat", {"model": MODEL, "messages": HELLO, "tools": [{}]}, 400, "does not support tools"),
        ("/api/generate", {"model": MODEL, "prompt": "a", "suffix": "b"}, 400, "does not support insert"),
    ],
)
def test_unsupported_requests_are_rejected(
    http: httpx.Client, path: str, body: dict[str, Any], status: int, error: str
) -> None:
    response = http.post(path, json=body)
    assert response.status_code == status
    assert response.headers["Content-Type"].partition(";")[0] == "application/json"
    assert error in response.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":"\xff"}', b'{"model":7}'])
def test_invalid_requests_are_rejected(http: httpx.Client, body: bytes) -> None:
    response = http.post("/api/chat", content=body)
    assert response.status_code == 400
    assert response.json()["error"]


def test_a_model_name_without_a_tag_is_accepted_and_returned(client: ollama.Client) -> None:
    assert client.chat("SmolLM2", ask("Say hello."), options=SHORT).model == "SmolLM2"


def story(http: httpx.Client, length: int) -> Any:
    """Begin an answer of so many tokens; return a context manager that closes the connection."""
    options = {**ENDLESS, "num_predict": length}
    body = {"model": MODEL, "prompt": "1, 2, 3, 4, 5, 6,", "raw": True, "options": options}
    return http.stream("POST", "/api/generate", json=body)


@pytest.mark.extended
def test_two_concurrent_completions_both_progress(http: httpx.Client) -> None:
    with story(http, 3000) as one, story(http, 3000) as other:
        first, second = one.iter_lines(), other.iter_lines()
        for _ in range(5):
            assert not json.loads(next(first))["done"]
            assert not json.loads(next(second))["done"]


@pytest.mark.extended
def test_completions_beyond_the_slots_are_queued_and_answered(client: ollama.Client) -> None:
    with ThreadPoolExecutor(5) as threads:
        asked = [threads.submit(client.chat, MODEL, COUNTING, options=SHORT) for _ in range(5)]
        assert {answer.result().eval_count for answer in asked} == {SHORT["num_predict"]}


def test_a_closed_connection_stops_the_model(running: Running, http: httpx.Client) -> None:
    before = 0

    def outcomes() -> list[str]:
        return re.findall(r"completion (stopped|ended) after", running.log.read_text())[before:]

    http.post("/api/generate", json={"model": MODEL, "prompt": "hello", "options": {"num_predict": 1}})
    eventually(lambda: running.log.read_text().endswith("\n") and outcomes()[-1:] == ["ended"])
    before = len(outcomes())
    for read in range(1, 6):
        with story(http, 3000) as response:
            lines = response.iter_lines()
            for _ in range(read):
                next(lines)
    eventually(lambda: outcomes().count("stopped") >= 5)  # the log may lack an earlier "ended"


@pytest.mark.extended
def test_the_process_ends_at_the_end_of_stdin_during_a_completion(tmp_path: Path) -> None:
    running = start(tmp_path / "log")
    with httpx.Client(base_url=running.url, timeout=60, verify=NO_TLS) as http, story(http, 3000) as response:
        next(response.iter_lines())
        assert running.ended() == (0, "")
    assert "Traceback" not in running.log.read_text()


def test_the_process_ends_when_its_parent_is_killed() -> None:
    parent = (
        "import subprocess, sys\n"
        "command = [sys.executable, '-m', 'embedded.ollama', '--until-stdin-closes']\n"
        "subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL).wait()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    process.kill()
    # The grandchild has the same stdout: this reads until it ends.
    rest, _ = process.communicate(timeout=30)
    assert rest == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.extended)])
def test_the_process_ends_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    running = start(tmp_path / "log", "--address=127.0.0.1")
    running.process.send_signal(number)
    assert running.process.wait(30) == 0
    assert running.ended() == (0, "")
    assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.extended) for seed in (2, 3))])
def test_the_capital_of_france_is_paris_with_default_options(client: ollama.Client, seed: int) -> None:
    """With the makers' sampling the seed is of little weight: no seed gives another answer or another language."""
    answer = client.chat(MODEL, ask("What is the capital of France?"), options={"seed": seed})
    assert (answer.message.content or "").startswith("The capital of France is Paris")
    assert answer.done_reason == "stop"


@pytest.mark.extended
def test_an_answer_ends_by_default_and_an_option_lets_it_go_on(client: ollama.Client) -> None:
    options = {"temperature": 0, "repeat_penalty": 1.0, "stop": ["<|im_end|>"]}
    prompt = "one, two, three, one, two, three, one, two, three, one, two, three,"
    answer = client.generate(MODEL, prompt, raw=True, options=options)
    assert (answer.done_reason, answer.eval_count) == ("length", 256)
    answer = client.generate(MODEL, prompt, raw=True, options={**options, "num_predict": 300})
    assert (answer.done_reason, answer.eval_count) == ("length", 300)
