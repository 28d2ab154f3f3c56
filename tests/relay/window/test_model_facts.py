"""What Ollama says of a model, as recorded, of older versions, and of what is not Ollama."""

import json
from pathlib import Path
from typing import Any

import pytest

from relay.window.model_facts import (
    LoadedModel,
    ModelDescription,
    bytes_per_token,
    full_name,
    read_description,
    read_file_bytes,
    read_loaded,
)

RECORDINGS = Path(__file__).parents[2] / "fakes" / "recordings.jsonl"


def recorded(name: str) -> bytes:
    """Return the body of an answer of a real Ollama."""
    _, *recordings = map(json.loads, RECORDINGS.read_text().splitlines())
    [body] = [one["body"] for one in recordings if one["name"] == name]
    return str(body).encode()


def test_a_recorded_model_is_read() -> None:
    loaded = read_loaded(recorded("GET /api/ps"), "smollm2")
    assert loaded == LoadedModel(window=4096, memory_bytes=209_505_483)
    assert read_file_bytes(recorded("GET /api/tags"), "smollm2") == 98_362_775
    assert bytes_per_token(loaded, 98_362_775) == 27_134
    assert read_description(recorded("show")) == ModelDescription(trained=8192)
    assert read_loaded(recorded("GET /api/ps"), "smol-open") is None
    assert read_file_bytes(recorded("GET /api/tags"), "nope") is None


@pytest.mark.parametrize(
    "name",
    [
        "llama3.2",
        "llama3.2:latest",
        "Llama3.2",
        " llama3.2 ",
        "library/llama3.2",
        "registry.ollama.ai/library/llama3.2",
    ],
)
def test_names_of_one_model_are_equal(name: str) -> None:
    assert full_name(name) == "llama3.2:latest"


def test_names_of_other_models_differ() -> None:
    names = ["a", "a:1b", "me/a", "hf.co/me/a", "hf.co/me/a:q4", "host:1/me/a"]
    assert len({full_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("parameters", ["num_ctx                        2048", 'stop "a"\nnum_ctx 2048\ntop_p 0.9'])
def test_the_window_of_a_modelfile_is_read(parameters: str) -> None:
    assert read_description(json.dumps({"parameters": parameters}).encode()).num_ctx == 2048


@pytest.mark.parametrize("parameters", ["", "num_ctx x", 'stop "\\nnum_ctx 5"', "num_ctx 99999999999", "num_ctx 0"])
def test_other_parameters_are_no_window(parameters: str) -> None:
    assert read_description(json.dumps({"parameters": parameters}).encode()).num_ctx is None


def test_a_model_of_the_cloud_is_told() -> None:
    shown = {
        "remote_host": "https://ollama.com:443",
        "model_info": {"general.architecture": "g", "g.context_length": 9},
    }
    assert read_description(json.dumps(shown).encode()) == ModelDescription(trained=9, remote=True)


@pytest.mark.parametrize(
    "loaded",
    [
        {"size": 1},
        {"context_length": 0},
        {"context_length": "4096", "size": -1},
        {"context_length": 2**40, "size": True},
    ],
)
def test_a_loaded_model_whose_figures_are_missing_or_odd_is_loaded(loaded: dict[str, Any]) -> None:
    found = read_loaded(json.dumps({"models": [{"name": "m:latest", **loaded}]}).encode(), "m")
    assert found is not None
    assert found.window is None
    assert bytes_per_token(found, 1) is None


@pytest.mark.parametrize("file_bytes", [None, 100, 101])
def test_memory_that_is_not_more_than_the_files_tells_nothing(file_bytes: int | None) -> None:
    assert bytes_per_token(LoadedModel(10, 100), file_bytes) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"<html></html>",
        b"404 page not found",
        b'{"models":null}',
        b'{"models":[1]}',
        b'{"models":[{"name":1}]}',
        b'{"model_info":[],"parameters":1}',
        b'{"model_info":{"general.architecture":["a"],"a.context_length":1}}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_not_ollamas_tells_nothing(body: bytes) -> None:
    assert read_loaded(body, "m") is None
    assert read_file_bytes(body, "m") is None
    assert read_description(body) == ModelDescription()
