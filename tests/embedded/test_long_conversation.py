"""A conversation through chatterd that outgrows the window of a real model."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.client import Client
from tests.embedded.model_process import MODEL, Running
from tests.program import Program

WINDOW = 256
"""Tokens: a window that llama.cpp does not round up."""

OPTIONS = {"temperature": 0, "seed": 1, "num_ctx": WINDOW, "num_predict": 4}
SEEN = "The Red Swan left the harbour before dawn with a crew of twelve and a hold full of oranges. "


@pytest.fixture
def client(start_chatterd: Callable[..., Program], database_url: str, running: Running) -> Iterator[Client]:
    program = start_chatterd(database_url=database_url, ollama_host=running.url)
    with Client(program.url) as client:
        yield client


def say(client: Client, content: str, **fields: Any) -> Any:
    """Return the last line of the answer."""
    *_, last = client.ask(content, **{"model": MODEL, "options": OPTIONS, **fields})
    assert last.name == "message", last
    return last.json


def talk(client: Client, turns: int) -> list[Any]:
    return [say(client, f"Part {turn}. " + SEEN) for turn in range(turns)]


def test_a_conversation_is_cut_in_blocks_and_the_model_is_not_loaded_anew(client: Client, running: Running) -> None:
    say(client, "Hello!")
    loaded = running.log.read_text().count("model loaded")
    prompts = [line["prompt_eval_count"] for line in talk(client, 12)]
    assert max(prompts) <= WINDOW
    drops = [turn for turn in range(1, 12) if prompts[turn] < prompts[turn - 1]]
    assert 1 <= len(drops) <= 4, prompts
    assert all(prompts[turn] >= WINDOW // 4 for turn in drops), prompts
    assert running.log.read_text().count("model loaded") == loaded
    context = client.history()["context"]
    assert (context["window"], context["estimated"]) == (WINDOW, False)
    assert context["left_out"] > 0


def test_a_prompt_that_alone_exceeds_the_window_is_refused_and_the_next_is_not(client: Client) -> None:
    say(client, "Hello!")
    [error] = client.ask("word " * 1000, model=MODEL, options=OPTIONS)
    assert error.name == "error"
    assert error.json["code"] == "context_exceeded"
    assert str(WINDOW) in error.json["error"]
    assert say(client, "Hello again!")["prompt_eval_count"] < WINDOW


@pytest.mark.extended
def test_an_answer_ends_where_the_window_does(client: Client) -> None:
    options = {"temperature": 0, "num_ctx": WINDOW, "repeat_penalty": 1.0, "seed": 1, "num_predict": 3000}
    say(client, "Hello!", options=options | {"num_predict": 2})
    last = say(client, "Write a story of a ship with many chapters. " + SEEN * 4, options=options)
    assert last["done_reason"] == "length"
    assert last["prompt_eval_count"] + last["eval_count"] <= WINDOW


@pytest.mark.extended
def test_what_a_client_lets_ollama_cut_is_cut_by_ollama(client: Client) -> None:
    prompts = [say(client, f"Part {turn}. " + SEEN, truncate=True)["prompt_eval_count"] for turn in range(8)]
    assert WINDOW * 0.7 < max(prompts) <= WINDOW
    assert client.history()["context"]["left_out"] == 0
