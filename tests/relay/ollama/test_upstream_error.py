"""Ollama's errors: the sentence that a viewer reads, and which of them are worth another attempt."""

import json
from time import process_time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.ollama.upstream_error import (
    describe,
    is_retryable_status,
    is_runner_failure,
    may_refuse_a_message,
    readable,
)


def body(error: object) -> bytes:
    return json.dumps({"error": error}).encode()


def refusal(message: str, **more: object) -> str:
    """What llama-server refuses with, as it stands in Ollama's error."""
    return json.dumps({"error": {"code": 400, "message": message, "type": "invalid_request_error", **more}})


NO_PICTURES = "Multimodal data provided, but model does not support multimodal requests."
TOO_LONG = refusal(
    "request (1510 tokens) exceeds the available context size (512 tokens), try increasing it",
    type="exceed_context_size_error",
    n_prompt_tokens=1510,
    n_ctx=512,
)
TOO_LONG_SENTENCE = (
    "The conversation has 1,510 tokens, and the model's context window holds 512. "
    "Shorten it, or set a larger context length (num_ctx)."
)
SCHEMA = 'Field \'json_schema\': JSON schema conversion failed:\nUnrecognized schema: {"type":"nonsense"}'
STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
RUNNING = "an error was encountered while running the model: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ""),
        ("model 'nope' not found", "model 'nope' not found"),
        (refusal(NO_PICTURES), NO_PICTURES),
        (json.dumps({"error": refusal(NO_PICTURES)}), NO_PICTURES),
        (json.dumps({"error": json.dumps({"error": refusal(NO_PICTURES)})}), NO_PICTURES),
        (refusal(SCHEMA), SCHEMA),
        (f" {refusal('a')}\nCUDA error: out of memory", " a\nCUDA error: out of memory"),
        (f"llama-server error: {refusal('Loading model')}", "llama-server error: Loading model"),
        ('{ "error" : "a" }', "a"),
        (
            "llama-server chat error: map[code:500 message:no slot [1] type:server_error]",
            "llama-server chat error: no slot [1]",
        ),
        ("map[code:400 message:too long n_ctx:512 n_prompt_tokens:1510 type:exceed_context_size_error]", "too long"),
        ('{"error":{"code":400}}', '{"error":{"code":400}}'),
        ('{"error":{"message":""}}', '{"error":{"message":""}}'),
        ('{"error":"', '{"error":"'),
        ('{"message":"a"}', '{"message":"a"}'),
        ('{"error":' * 100_000, '{"error":' * 100_000),
    ],
)
def test_the_json_inside_an_error_is_opened(text: str, message: str) -> None:
    assert readable(text) == message


@pytest.mark.parametrize(
    ("status", "answer", "sentence"),
    [
        (404, body("model 'nope' not found"), "model 'nope' not found (Ollama answered 404 Not Found)"),
        (400, body(refusal(NO_PICTURES)), f"{NO_PICTURES} (Ollama answered 400 Bad Request)"),
        (400, refusal(NO_PICTURES).encode(), f"{NO_PICTURES} (Ollama answered 400 Bad Request)"),
        (400, body(refusal(SCHEMA)), f"{SCHEMA} (Ollama answered 400 Bad Request)"),
        (400, body(TOO_LONG), TOO_LONG_SENTENCE),
        (400, body(json.dumps({"error": TOO_LONG})), TOO_LONG_SENTENCE),
        (400, body({"type": "exceed_context_size_error"}), "{'type':'exceed_context_size_error'} (Ollama answered 400 "
         "Bad Request)"),
        (500, body('option "temperature" must be of type float32'), "Ollama rejected the request: option 'temperature' "
         "must be of type float32"),
        (500, body('invalid format: "x"; expected "json" or a valid JSON Schema object'), "Ollama rejected the "
         "request: invalid format: 'x'; expected 'json' or a valid JSON Schema object"),
        (500, body("llama runner died"), "llama runner died (Ollama answered 500 Internal Server Error)"),
        (403, b"", "Ollama answered 403 Forbidden and gave no reason."),
        (599, b" \r\n", "Ollama answered 599 and gave no reason."),
        (502, b"<h1>Bad Gateway</h1>", "<h1>Bad Gateway</h1> (Ollama answered 502 Bad Gateway)"),
        (500, b"\xff\x00", "\ufffd\ufffd (Ollama answered 500 Internal Server Error)"),
        (599, b'{"error":""}', "{'error':''} (Ollama answered 599)"),
        (429, b"[1]", "[1] (Ollama answered 429 Too Many Requests)"),
        (400, body(json.dumps({"error": "a\0b\ud800"})), "a\ufffdb\ufffd (Ollama answered 400 Bad Request)"),
    ],
)  # fmt: skip
def test_an_error_response_becomes_a_sentence(status: int, answer: bytes, sentence: str) -> None:
    assert describe(status, answer).replace('"', "'") == sentence.replace('"', "'")


RUNNER_FAILURES = [
    f"{RUNNING}unexpected EOF",
    f"{RUNNING}EOF",
    f"{RUNNING}read tcp 127.0.0.1:58428->127.0.0.1:58426: wsarecv: An existing connection was forcibly closed by the "
    "remote host.",
    f"{RUNNING}read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer",
    f"{RUNNING}CUDA error: an illegal memory access was encountered",
    f"{RUNNING}CUDA error: out of memory",
    STOPPED,
    f"{STOPPED}: GGML_ASSERT(n > 0) failed",
    "llama runner process no longer running: -1 ",
    "llama-server process no longer running: -1 error: killed",
    'POST predict: Post "http://127.0.0.1:42623/completion": EOF',
    'health resp: Get "http://127.0.0.1:42623/health": dial tcp 127.0.0.1:42623: connect: connection refused',
    "error reading llm response: read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer",
    "error reading llama-server response: unexpected EOF",
    "error reading llama-server chat response: EOF",
    "mlx runner failed: panic: index out of range",
    "unexpected EOF",
    "connection refused",
    json.dumps({"error": f"{RUNNING}unexpected EOF"}),
]


@pytest.mark.parametrize("error", RUNNER_FAILURES)
def test_a_dead_runner_is_recognised(error: str) -> None:
    assert is_runner_failure(error)
    assert is_retryable_status(500, body(error))
    assert not is_retryable_status(400, body(error))


@pytest.mark.parametrize(
    "error",
    [
        "",
        "model 'nope' not found",
        "model requires more system memory (8.0 GiB) than is available (4.0 GiB)",
        "llama-server reported out-of-memory during startup: cudaMalloc failed",
        "llama runner process has terminated: exit status 2",
        "llama-server process has terminated: signal: killed",
        f"{STOPPED}: CUDA error: out of memory",
        "llama-server process no longer running: 1 ggml_backend_alloc: failed to allocate buffer",
        "mlx runner failed: failed to initialize MLX (exit: exit status 1)",
        "mlx runner failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "error reading llama-server response: bufio.Scanner: token too long",
        'Post "https://ollama.com:443/api/chat": EOF',
        'option "temperature" must be of type float32',
        refusal(NO_PICTURES),
        TOO_LONG,
        "What does 'unexpected EOF' mean?",
    ],
)
def test_other_errors_are_not_tried_again(error: str) -> None:
    assert not is_runner_failure(error)
    assert not is_retryable_status(500, body(error))


def test_an_unavailable_server_is_tried_again_whatever_it_says() -> None:
    assert all(is_retryable_status(status, b"<html>") for status in (502, 503, 504))
    assert is_retryable_status(503, body("server busy, please try again.  maximum pending requests exceeded"))
    assert not any(is_retryable_status(status, b"") for status in (0, 200, 301, 400, 401, 403, 404, 429, 500, 501))


answers = st.one_of(
    st.binary(),
    st.text().map(body),
    st.text().map(lambda text: body(refusal(text))),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("error") | st.text(max_size=5), inner),
        max_leaves=5,
    ).map(body),
)


@settings(deadline=None)
@given(status=st.integers(-1, 1_000), answer=answers)
@example(status=500, answer=b'{"error":' * 100_000)
@example(status=500, answer=b'{"error":' * 7_000)
@example(status=500, answer=b'{"error":' + b"9" * 60_000 + b"}")
@example(status=400, answer=body('{"error":' + "9" * 60_000 + "}"))
def test_any_response_becomes_a_sentence(status: int, answer: bytes) -> None:
    sentence = describe(status, answer)
    assert sentence.strip() and "\0" not in sentence
    assert sentence.encode()  # no lone surrogate: PostgreSQL stores it
    assert isinstance(is_retryable_status(status, answer), bool)


@pytest.mark.parametrize(
    "part",
    ["map[code:1 message:", "{", '{"error"', '{"error" ', '{"error":"', "127.0.0.1: EOF ", "mlx runner failed: "],
)
def test_a_long_text_does_not_take_long(part: str) -> None:
    started = process_time()
    for length in (60_000, 30_000_000):
        text = part * (length // len(part))
        readable(text)
        is_runner_failure(text)
        describe(500, text.encode())
    assert process_time() - started < 5  # seconds; an attempt for each part would take minutes


@settings(deadline=None)
@given(st.text())
def test_any_text_is_readable(text: str) -> None:
    assert readable(refusal(text) if text else "a")
    assert isinstance(is_runner_failure(readable(text)), bool)


@pytest.mark.parametrize(
    ("status", "error", "may"),
    [
        (400, "illegal base64 data at input byte 0", True),
        (400, "Multimodal data provided, but model does not support multimodal requests.", True),
        (400, "json: cannot unmarshal string into Go struct field ChatRequest.messages.tool_calls", True),
        (400, '"smollm2" does not support thinking', True),  # one more request tells
        (400, "the input length exceeds the context length", False),
        (404, "model 'nope' not found", False),
        (500, "Failed to create new sequence: failed to process inputs: image: unknown format", True),
        (500, 'option "temperature" must be of type float32', False),
        (500, "an error was encountered while running the model: unexpected EOF", False),
        (503, "illegal base64 data at input byte 0", False),
    ],
)
def test_which_errors_may_be_about_a_message(status: int, error: str, may: bool) -> None:
    assert may_refuse_a_message(status, body(error)) == may
