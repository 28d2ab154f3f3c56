"""The window that is set for all requests, and the options that decide how a model is loaded."""

import json
from typing import Any

import msgspec
import pytest

from db.messages import Message
from relay.generation import resume
from relay.generation.resume import SentRequest
from relay.generation.transcript import Transcript
from relay.window.request_options import MAX_WINDOW, MIN_WINDOW, load_body, num_ctx_of, with_num_ctx

RUNNER_OPTIONS = (
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    *("numa", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock"),  # of older versions
)
"""The options of the runner (ollama ``api/types.go``, ``Runner``)."""


def fields(text: str) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(text, type=dict[str, msgspec.Raw])


@pytest.mark.parametrize(
    ("request_text", "sent"),
    [
        ('{"model":"m"}', '{"model":"m","options":{"num_ctx":9}}'),
        ('{"options":null,"model":"m"}', '{"options":{"num_ctx":9},"model":"m"}'),
        ('{"options":{}}', '{"options":{"num_ctx":9}}'),
        ('{"options":{"seed": 1.50}}', '{"options":{"seed":1.50,"num_ctx":9}}'),
        ('{"options":{"num_ctx":null}}', '{"options":{"num_ctx":9}}'),
        ('{"options":{"num_ctx":5}}', '{"options":{"num_ctx":5}}'),
        ('{"options":{"num_ctx": "5"}}', '{"options":{"num_ctx": "5"}}'),
        ('{"options":{"num_ctx": 0}}', '{"options":{"num_ctx": 0}}'),
        ('{"options":[1]}', '{"options":[1]}'),
        ('{"options":"x"}', '{"options":"x"}'),
    ],
)
def test_num_ctx_is_added_unless_the_request_has_its_own(request_text: str, sent: str) -> None:
    given = fields(request_text)
    assert msgspec.json.encode(with_num_ctx(given, 9)).decode() == sent
    assert with_num_ctx(given, 0) == given == fields(request_text)


@pytest.mark.parametrize(
    ("options", "num_ctx"),
    [
        ("{}", None),
        ("null", None),
        ("[]", None),
        ('{"num_ctx":2048}', 2048),
        ('{"num_ctx":2048.9}', 2048),
        ('{"num_ctx":null}', None),
        ('{"num_ctx":true}', None),
        ('{"num_ctx":"2048"}', None),
        ('{"num_ctx":0}', MIN_WINDOW),
        ('{"num_ctx":-1}', MIN_WINDOW),
        ('{"num_ctx":3.9}', MIN_WINDOW),
        ('{"num_ctx":1e300}', MAX_WINDOW),
        ('{"num_ctx":1e999}', None),
        (f'{{"num_ctx":{MAX_WINDOW}}}', MAX_WINDOW),
        (f'{{"num_ctx":{MAX_WINDOW + 1}}}', MAX_WINDOW),
        (f'{{"num_ctx":{"9" * 400}}}', MAX_WINDOW),
    ],
)
def test_the_window_that_a_request_asks_for_is_read(options: str, num_ctx: int | None) -> None:
    assert num_ctx_of(fields(f'{{"options":{options}}}')) == num_ctx
    assert num_ctx_of(fields("{}")) is None


def test_a_load_has_the_options_of_the_reply_and_unloads_nothing() -> None:
    request = '{"model":"m","options":{"num_gpu":1,"seed":5},"shift":false,"keep_alive":0,"think":true,"tools":[1]}'
    assert json.loads(load_body(request, 7)) == {
        "model": "m",
        "options": {"num_gpu": 1, "seed": 5, "num_ctx": 7},
        "shift": False,
        "messages": [],
        "stream": False,
    }
    assert json.loads(load_body('{"model":"m"}', 0)) == {"model": "m", "messages": [], "stream": False}


@pytest.mark.parametrize("option", RUNNER_OPTIONS)
def test_each_request_for_a_reply_has_the_same_options_of_the_runner(option: str) -> None:
    """A request that differs in one of them would make Ollama load the model anew."""
    options: dict[str, Any] = {"num_predict": 50, option: 1}
    request = json.dumps({"model": "m", "options": options, "shift": False, "keep_alive": 5})
    transcript = Transcript()
    remaining = resume.remaining_request(request, transcript)
    assert remaining is not None
    sent = SentRequest(request, [Message("user", "a")])
    chat = resume.chat_to_continue(remaining, sent, transcript)
    for body in (
        chat,
        resume.rendering_body(chat, shorten=False),
        resume.raw_body(remaining, "prompt"),
        resume.with_token_limit(remaining, 3),
        load_body(request, 0),
    ):
        found = json.loads(body)
        assert (found["options"][option], found["shift"]) == (1, False)
