"""What is added to a request to Ollama because of the window, and what the client's own fields are worth."""

import json
from typing import Any

import msgspec
import pytest

from relay.window.request_options import WindowOptions, window_options, with_answer_limit, without_own_fields


def fields(**values: Any) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items()}


def encoded(request: dict[str, msgspec.Raw]) -> Any:
    return json.loads(msgspec.json.encode(request))


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, {"num_predict": 50}),
        (None, {"num_predict": 50}),
        ({"seed": 1}, {"seed": 1, "num_predict": 50}),
        ({"num_predict": -1}, {"num_predict": 50}),
        ({"num_predict": -2}, {"num_predict": 50}),
        ({"num_predict": 51}, {"num_predict": 50}),
        ({"num_predict": 50}, {"num_predict": 50}),
        ({"num_predict": 7.5}, {"num_predict": 7.5}),
        ({"num_predict": 0}, {"num_predict": 0}),
        ({"num_predict": "7"}, {"num_predict": "7"}),
        ({"num_predict": True}, {"num_predict": True}),
        ([1], [1]),
        ("x", "x"),
    ],
    ids=str,
)
def test_an_answer_ends_with_the_window_unless_the_client_wants_a_shorter_one(options: Any, sent: Any) -> None:
    assert encoded(with_answer_limit(fields(options=options, x=1), 50)) == {"options": sent, "x": 1}
    assert encoded(with_answer_limit(fields(options=options, x=1), None)) == {"options": options, "x": 1}


def test_a_request_without_options_gets_some() -> None:
    assert encoded(with_answer_limit(fields(x=1), 50)) == {"x": 1, "options": {"num_predict": 50}}


@pytest.mark.parametrize(
    ("request_fields", "expected"),
    [
        ({}, WindowOptions()),
        ({"options": {"num_ctx": 512, "num_predict": 9}}, WindowOptions(512, 9)),
        ({"options": {"num_ctx": 0, "num_predict": -1}}, WindowOptions(4, -1)),
        ({"options": {"num_ctx": "512", "num_predict": 10**30}}, WindowOptions()),
        ({"options": [], "truncate": True, "context_full": "stop"}, WindowOptions(truncate=True, stops=True)),
        ({"truncate": "true", "context_full": "cut"}, WindowOptions()),
    ],
    ids=str,
)
def test_what_ollama_refuses_is_not_said(request_fields: dict[str, Any], expected: WindowOptions) -> None:
    assert window_options(fields(**request_fields)) == expected


def test_ollama_is_told_not_to_cut_and_nothing_of_our_own() -> None:
    assert encoded(without_own_fields(fields(x=1, context_full="stop"))) == {"truncate": False, "x": 1}
    assert encoded(without_own_fields(fields(truncate=True))) == {"truncate": True}
    assert encoded(without_own_fields(fields(truncate=None))) == {"truncate": False}  # Ollama takes null as true
