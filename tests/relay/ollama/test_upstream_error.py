"""Ollama's errors: the sentence that a viewer reads, and which of them are worth another attempt."""

import json
from time import process_time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.ollama.foreign_server import models_problem, page_title, state_of
from relay.ollama.upstream_error import (
    describe,
    is_retryable_status,
    is_runner_failure,
    may_refuse_a_message,
    readable,
    window_figures,
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
SHORTEN = "Shorten it, begin a new conversation, or choose a larger window (num_ctx)."
TOO_LONG_SENTENCE = (
    "The conversation is too long for the model: it has 1,510 tokens (words and parts of words), and the model's "
    f"window holds 512. {SHORTEN}"
)
WITHOUT_FIGURES_SENTENCE = f"The conversation is too long for the model's window. {SHORTEN}"
TOO_LONG_MAP = "map[code:400 message:too long n_ctx:512 n_prompt_tokens:1510 type:exceed_context_size_error]"
TOO_LONG_BEFORE_0_30 = "the input length exceeds the context length"
TOO_LONG_WITHOUT_SHIFT = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)
"""As recorded: tests/fakes/recordings.jsonl."""
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
        (f"error: {TOO_LONG_MAP}", TOO_LONG_SENTENCE),
        (TOO_LONG, TOO_LONG_SENTENCE),
        (TOO_LONG_BEFORE_0_30, WITHOUT_FIGURES_SENTENCE),
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
        (404, body("model 'nope' not found"), "model 'nope' not found (Ollama answered 404 Not Found). Choose another "
         "model, or install it: `ollama pull nope`."),
        (404, body('model "nope" not found, try pulling it first'), "model 'nope' not found, try pulling it first "
         "(Ollama answered 404 Not Found). Choose another model, or install it: `ollama pull nope`."),
        (404, body("model '`rm -r ~`' not found"), "model '`rm -r ~`' not found (Ollama answered 404 Not Found)"),
        (400, body(refusal(NO_PICTURES)), f"{NO_PICTURES} (Ollama answered 400 Bad Request)"),
        (400, refusal(NO_PICTURES).encode(), f"{NO_PICTURES} (Ollama answered 400 Bad Request)"),
        (400, body(refusal(SCHEMA)), f"{SCHEMA} (Ollama answered 400 Bad Request)"),
        (400, body(TOO_LONG), TOO_LONG_SENTENCE),
        (400, body(json.dumps({"error": TOO_LONG})), TOO_LONG_SENTENCE),
        (400, body({"type": "exceed_context_size_error"}), WITHOUT_FIGURES_SENTENCE),
        (400, body(TOO_LONG_BEFORE_0_30), WITHOUT_FIGURES_SENTENCE),
        (400, body(TOO_LONG_WITHOUT_SHIFT), WITHOUT_FIGURES_SENTENCE),
        (500, body('option "temperature" must be of type float32'), "Ollama rejected the request: option 'temperature' "
         "must be of type float32"),
        (500, body('invalid format: "x"; expected "json" or a valid JSON Schema object'), "Ollama rejected the "
         "request: invalid format: 'x'; expected 'json' or a valid JSON Schema object"),
        (500, body("llama runner died"), "llama runner died (Ollama answered 500 Internal Server Error)"),
        (599, b" \r\n", "Ollama answered 599 and gave no reason."),
        (500, b"\xff\x00", "\ufffd\ufffd (Ollama answered 500 Internal Server Error)"),
        (599, b'{"error":""}', "{'error':''} (Ollama answered 599)"),
        (418, b"[1]", "[1] (Ollama answered 418 I'm a Teapot)"),
        (400, body(json.dumps({"error": "a\0b\ud800"})), "a\ufffdb\ufffd (Ollama answered 400 Bad Request)"),
    ],
)  # fmt: skip
def test_an_error_response_becomes_a_sentence(status: int, answer: bytes, sentence: str) -> None:
    assert describe(status, answer).replace('"', "'") == sentence.replace('"', "'")


@pytest.mark.parametrize(
    ("answer", "figures"),
    [
        (body(TOO_LONG), (1510, 512)),
        (body(json.dumps({"error": TOO_LONG})), (1510, 512)),
        (TOO_LONG.encode(), (1510, 512)),
        (body(TOO_LONG_MAP), (1510, 512)),
        (body(refusal("request (9 tokens) exceeds the available context size (8 tokens)",
                      type="exceed_context_size_error")), (9, 8)),
        (body(TOO_LONG.replace("512", "0")), None),
        (body(TOO_LONG.replace("1510", "1" * 5_000)), None),
        (body({"type": "exceed_context_size_error"}), None),
        (body(TOO_LONG_BEFORE_0_30), None),
        (body(TOO_LONG_WITHOUT_SHIFT), None),
        (body("n_prompt_tokens: 2, n_ctx: 1"), None),
        (b"\xff", None),
        (b"", None),
    ],
)  # fmt: skip
def test_the_figures_of_a_prompt_that_exceeds_the_window_are_read(
    answer: bytes, figures: tuple[int, int] | None
) -> None:
    assert window_figures(answer) == figures


SIGN_IN = b'{"error":"unauthorized","signin_url":"https://ollama.com/connect?name=laptop&key=c3NoLWVkMjU1MTk"}'
"""The answer of an Ollama that is not signed in, to a request for a cloud model (ollama server/routes.go)."""

NGINX = b"""<html>\r
<head><title>%b</title></head>\r
<body>\r
<center><h1>%b</h1></center>\r
<hr><center>nginx/1.22.1</center>\r
</body>\r
</html>\r
"""
"""nginx's own pages (src/http/ngx_http_special_response.c)."""

CLOUDFLARE = b"""<!DOCTYPE html>
<!--[if lt IE 7]> <html class="no-js ie6 oldie" lang="en-US"> <![endif]-->
<head>
<title>gpu.example | 522: Connection timed out</title>
<meta charset="UTF-8" />"""

HAPROXY = (
    b"<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>\n"
)
"""HAProxy's own page (src/http.c)."""


def nginx(text: str) -> bytes:
    return NGINX % (text.encode(), text.encode())


@pytest.mark.parametrize(
    ("status", "answer", "said", "done"),
    [
        (401, SIGN_IN, "in Ollama's cloud", "Run `ollama signin` on Ollama's machine"),
        (401, nginx("401 Authorization Required"), '"401 Authorization Required"', "http://user:password@host"),
        (401, b"", "401 Unauthorized and gave no reason", "http://user:password@host"),
        (403, b"", "403 Forbidden and gave no reason", "allowedHostsMiddleware"),
        (403, nginx("403 Forbidden"), 'a web page, "403 Forbidden"', "does not let this server in"),
        (403, body("this model requires a subscription, upgrade for access: https://ollama.com/upgrade"),
         "this model requires a subscription", "https://ollama.com/upgrade"),
        (407, b"Proxy Authentication Required", "Proxy Authentication Required", "wants this server to sign in"),
        (413, nginx("413 Request Entity Too Large"), '"413 Request Entity Too Large"', "client_max_body_size"),
        (429, b"Too many requests\nfrom you\n", "Too many requests from you (Ollama", "Try again in a while."),
        (429, body("you have reached your hourly usage limit"), "you have reached your hourly usage limit", "429"),
        (502, nginx("502 Bad Gateway"), '502 Bad Gateway with a web page, "502 Bad Gateway"', "check that Ollama is"),
        (502, b"", "502 Bad Gateway and gave no reason", "check that Ollama is running"),  # Caddy
        (503, HAPROXY, '"503 Service Unavailable"', "check that Ollama is running"),
        (503, b"no available server\n", "no available server (Ollama answered 503", "check that Ollama is"),  # Traefik
        (503, body("server busy, please try again.  maximum pending requests exceeded"), "server busy", "503"),
        (504, nginx("504 Gateway Time-out"), '"504 Gateway Time-out"', "check that Ollama is running"),
        (522, CLOUDFLARE, '522 with a web page, "gpu.example | 522: Connection timed out"', "check that Ollama is"),
        (530, b"error code: 1033", "error code: 1033 (Ollama answered 530)", "check that Ollama is running"),
        (302, b'<a href="https://sso.example/?key=1">Found</a>.', "redirects to another address (302 Found)", "login"),
        (404, nginx("404 Not Found"), '404 Not Found with a web page, "404 Not Found"', "without /api or /v1"),
        (404, b"404 page not found", "404 page not found (Ollama answered 404 Not Found)", "without /api or /v1"),
        (405, b'{"detail":"Method Not Allowed"}', "Ollama answered 405", "is the address of an Ollama"),
    ],
)  # fmt: skip
def test_an_error_that_is_not_ollamas_says_what_sent_it_and_what_to_do(
    status: int, answer: bytes, said: str, done: str
) -> None:
    sentence = describe(status, answer)
    assert said in sentence and done in sentence
    assert "<" not in sentence and "key=" not in sentence and "\n" not in sentence
    assert len(sentence) < 300


@pytest.mark.parametrize(
    ("page", "title"),
    [
        (b"<title>Sign in</title>", "Sign in"),
        (b"<!doctype html><TITLE lang=en>\n  A &amp; B\n\t&lt;C&gt; </TITLE>", "A & B <C>"),
        (b"<html><head><title></title></head><h1 class='a'>Bad <b>Gateway</b></h1>", "Bad"),
        (b"<html>", ""),
        (b"<title", ""),
        (b"<title>", ""),
        ("<p>\u0130\u0130\u0130\u0130<title>A</title>".encode(), "A"),
        (b"<title>" + b"x" * 1000, "x" * 100 + " ..."),
        (b"<title>\xff\x00\x1b[31m</title>", "\ufffd[31m"),
        (b"<title" * 20_000, ""),
    ],
)
def test_the_title_of_a_page_is_one_short_line(page: bytes, title: str) -> None:
    assert page_title(page) == title


@pytest.mark.parametrize(
    ("status", "answer", "name", "words"),
    [
        (200, b'{"version":"0.12.0"}', "ok", ""),
        (200, b'{"version":"0.0.0"}\n', "ok", ""),
        (200, nginx("Welcome to nginx!"), "not ollama", '"Welcome to nginx!"'),
        (200, b"Ollama is running", "not ollama", "not one of Ollama's API"),
        (200, b'{"status":"ok"}', "not ollama", "not one of Ollama's API"),
        (200, b"", "not ollama", "not one of Ollama's API"),
        (302, b"", "answered 302", "redirects"),
        (401, b"", "answered 401", "a user and a password"),
        (404, b'{"error":"There is nothing at this address."}', "answered 404", "is chatterd, not Ollama"),
        (404, b'{"detail":"Not Found"}', "answered 404", "answered 404 Not Found"),
        (502, nginx("502 Bad Gateway"), "answered 502", '"502 Bad Gateway"'),
    ],
)
def test_what_answers_instead_of_ollama_is_named(status: int, answer: bytes, name: str, words: str) -> None:
    state = state_of(status, answer)
    assert (state.name, bool(state.problem), state.ok) == (name, name != "ok", name == "ok")
    assert words in state.problem


def test_a_list_of_models_or_an_error_of_ollama_is_passed_on() -> None:
    assert not models_problem(200, b'{"models":[{"name":"a"}]}')
    assert not models_problem(200, b'{"models":null}')
    assert not models_problem(500, body("disk full"))
    assert not models_problem(204, b"")
    assert "a user and a password" in models_problem(401, body("unauthorized"))
    assert '"Sign in"' in models_problem(200, b"<title>Sign in</title>")
    assert "502" in models_problem(502, b"")


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
