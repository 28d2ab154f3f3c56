"""What Ollama's errors mean: the sentence for a viewer, and whether to ask again. Pure.

An error response of Ollama is ``{"error": "<text>"}``; in mid-answer the same object is a line. What llama-server, its
runner, has refused comes as JSON inside the text (ollama ``llm/llama_server.go``, ``statusErrorMessage``).
"""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import ujson

from relay.ollama import chat_line, foreign_server
from relay.ollama.foreign_server import phrase

MAX_NESTING = 4
"""Layers of JSON that :func:`readable` opens. Ollama makes one, a proxy of Ollama's API a second."""

MAX_LENGTH = 65_536
"""Characters of a text that is examined; a longer one is no error of Ollama's making, and is shown as it is."""

UNAVAILABLE = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
"""Statuses of a proxy without a server, and of an Ollama whose queue is full (``server/sched.go``, ``ErrMaxQueue``)."""

_CANNOT_REACH = "It may be a proxy that cannot reach Ollama: check that Ollama is running."

_NO_SUCH_PATH = "Check whether OLLAMA_HOST is the address of an Ollama, without /api or /v1 at its end."

_HINTS: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: (
        "A proxy before Ollama wants a user and a password. Set them in OLLAMA_HOST: http://user:password@host."
    ),
    HTTPStatus.FORBIDDEN: "A proxy before Ollama does not let this server in.",
    HTTPStatus.NOT_FOUND: _NO_SUCH_PATH,
    HTTPStatus.METHOD_NOT_ALLOWED: _NO_SUCH_PATH,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "A proxy on the way to Ollama wants this server to sign in.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        "A proxy before Ollama limits the size of requests (nginx: client_max_body_size). Raise the limit, or begin a "
        "new conversation, without large pictures."
    ),
    HTTPStatus.TOO_MANY_REQUESTS: "Try again in a while.",
    HTTPStatus.BAD_GATEWAY: _CANNOT_REACH,
    HTTPStatus.SERVICE_UNAVAILABLE: _CANNOT_REACH,
    HTTPStatus.GATEWAY_TIMEOUT: _CANNOT_REACH,
    **dict.fromkeys(range(520, 531), _CANNOT_REACH),  # Cloudflare's own (developers.cloudflare.com, "5xx errors")
}
"""What to do about an error response that is not Ollama's, by status (RFC 9110, section 15.5)."""

_EMPTY_FORBIDDEN = (
    "Ollama does so if it is asked by a name that it does not know (server/routes.go, allowedHostsMiddleware): set "
    "OLLAMA_HOST to its IP address here, or to 0.0.0.0 where it is started."
)

_MODEL_NOT_FOUND = re.compile(r"""model ["']([^"'\s`]{1,200})["'] not found""")
"""Ollama's text for an unknown model (``server/routes.go``); older versions add ``, try pulling it first``."""

_NESTED = re.compile(r'\{\s*"error"\s*:')
_GO_MAP = re.compile(r"map\[code:\d+ message:(.*?)(?: n_ctx:\d+ n_prompt_tokens:\d+)? type:\w+\]", re.DOTALL)
_PROMPT_TOKENS = re.compile(r"n_prompt_tokens\W{1,20}(\d{1,9})(?!\d)")
_CONTEXT_TOKENS = re.compile(r"n_ctx\W{1,20}(\d{1,9})(?!\d)")
_FIGURES_IN_WORDS = re.compile(r"\((\d{1,9}) tokens\) exceeds the available context size \((\d{1,9}) tokens\)")

_REQUEST_FAULT = re.compile(r'option "[^"]*" must be |invalid format: ')
"""Faults of the request that Ollama reports with 500 (``api/types.go``, ``FromMap``; ``llm/llama_server.go``)."""

_DIED_IN_MID_ANSWER = "an error was encountered while running the model"

_DIED = (
    "model runner has unexpectedly stopped",
    "llama runner process no longer running",
    "llama-server process no longer running",
)

_MLX_DIED = re.compile(r"mlx runner failed: (?!.*\(exit: )", re.DOTALL)
"""The same of MLX models; with ``(exit: ...)`` the runner did not start."""

_BROKEN_CONNECTION = re.compile(
    r"\bEOF$|connection reset by peer|forcibly closed by the remote host|broken pipe|connection refused"
)

_TO_RUNNER = re.compile(r"127\.0\.0\.1:|error reading (?:llm|llama-server)(?: chat)? response: ")

_BARE = frozenset({"EOF", "unexpected EOF", "connection refused"})

_WINDOW_EXCEEDED = (
    "exceed_context_size_error",
    "input length exceeds the context length",
    "longer than the context length",
)
"""Texts of a prompt that does not fit into the window: llama-server's, with figures; the one of Ollama's own runner,
before 0.30; and the one of Ollama for a request with ``shift: false``."""

_SHORTEN = "Shorten it, begin a new conversation, or choose a larger window (num_ctx)."

_REFUSED_INPUT = re.compile(r"failed to process inputs|illegal base64|[Ii]nvalid image|Failed to load image")
"""Words about a message that Ollama or its runner cannot use (ollama issues 11320, 7388). Versions with a runner of
their own report it with 500, or in a line after 200."""

_OUT_OF_MEMORY = re.compile(
    r"out[ -]of[ -](?:device[ -])?memory|erroroutofmemory|(?:cuda|hip)malloc failed|failed to allocate"
    r"|allocation failed|not enough memory|insufficient memory|requires more system memory",
    re.IGNORECASE,
)
"""As ollama ``llm/status.go``, ``outOfMemorySubstrings``."""


def readable(text: str) -> str:
    """Return an error's text with llama-server's JSON inside it replaced by the message that the JSON holds.

    What stands before and after the JSON is kept: ``llama-server error:`` before it, a line of the runner's log behind
    it. llama-server's errors in mid-answer come as a map in Go's notation (``map[code:500 message:... type:...]``). A
    text without either is returned as it is. That the prompt exceeds the window is said in a sentence of our own.
    """
    if len(text) > MAX_LENGTH:
        return text
    if sentence := _window_exceeded(text):
        return sentence
    for _ in range(MAX_NESTING):
        opened = _open(text)
        if opened is None:
            break
        text = opened
    return _open_go_map(text)


def describe(status: int, body: bytes) -> str:
    """Describe an error response for a viewer: its error's text, or what was sent instead of one, and its status.

    What to do about it follows where the status tells. Of a web page only the title is quoted.
    """
    raw = chat_line.storable(body.decode(errors="replace").strip())
    text = _error_of(raw)
    if text is None:
        return _describe_foreign(status, body, raw)
    if foreign_server.is_chatterd(status, body):
        return foreign_server.CHATTERD
    if sentence := _window_exceeded(raw):
        return sentence
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and _REQUEST_FAULT.match(text):
        return f"Ollama rejected the request: {text}"
    if status == HTTPStatus.UNAUTHORIZED:
        # ollama server/routes.go, streamResponse: {"error":"unauthorized","signin_url":"https://ollama.com/connect?..."}
        return (
            "This model runs in Ollama's cloud, and Ollama is not signed in there. Run `ollama signin` on Ollama's "
            f"machine, then try again. ({text}; Ollama answered {phrase(status)})"
        )
    sentence = f"{text} (Ollama answered {phrase(status)})"
    if status == HTTPStatus.NOT_FOUND and (found := _MODEL_NOT_FOUND.match(text)):
        return f"{sentence}. Choose another model, or install it: `ollama pull {found[1]}`."
    return sentence


def _describe_foreign(status: int, body: bytes, text: str) -> str:
    """Describe a response that is not an error of Ollama's making: of a proxy, or of something else."""
    if foreign_server.is_redirect(status):
        return foreign_server.describe_redirect(status)
    if foreign_server.is_page(body):
        sentence = foreign_server.describe_page(status, body)
    elif text:
        words = " ".join(text.split()) if len(text) <= MAX_LENGTH else text
        sentence = f"{words} (Ollama answered {phrase(status)})"
    else:
        sentence = f"Ollama answered {phrase(status)} and gave no reason."
    hint = _EMPTY_FORBIDDEN if status == HTTPStatus.FORBIDDEN and not text else _HINTS.get(status, "")
    if not hint:
        return sentence
    return f"{sentence}{'' if sentence.endswith('.') else '.'} {hint}"


def is_runner_failure(error: str) -> bool:
    """Return whether an error's text says that the process that runs the model has died, or is gone.

    Ollama starts a new one for the next request, so the answer can be continued. The texts, from ollama
    ``llm/server.go``, ``llm/llama_server.go`` and ``x/mlxrunner/client.go``, with issues of ollama/ollama:

    * ``an error was encountered while running the model: `` with ``unexpected EOF`` (8258, 8599), ``read tcp
      127.0.0.1:...: wsarecv: An existing connection was forcibly closed by the remote host`` (12334), or the runner's
      last line of log, such as ``CUDA error``. It is said only after the runner has begun to answer.
    * ``model runner has unexpectedly stopped, this may be due to resource limitations or an internal error`` (11380,
      14093): the connection broke before the runner answered. Before 0.7: ``POST predict: Post
      "http://127.0.0.1:.../completion": EOF`` (7640, 10953).
    * ``llama runner process no longer running: -1`` (ollama-python 269), ``llama-server process no longer running``,
      ``connection refused``, ``health resp: Get "http://127.0.0.1:.../health": ...``: the request waited while the
      runner died.
    * ``error reading llm response: ...`` (6937), ``error reading llama-server response: ...`` with a broken connection.
    * ``mlx runner failed: ...`` or the bare ``unexpected EOF``: the runner of MLX models.

    Not among them: ``llama runner process has terminated``, which says that a model could not be loaded (4775, 8770),
    and texts that name a lack of memory, which the next attempt would lack, too. In mid-answer such a runner did have
    the memory to begin: that one counts.
    """
    text = readable(error)[:MAX_LENGTH].strip()
    if text.startswith(_DIED_IN_MID_ANSWER):
        return True
    if _OUT_OF_MEMORY.search(text):
        return False
    if text.startswith(_DIED) or text in _BARE or _MLX_DIED.match(text):
        return True
    return bool(_TO_RUNNER.search(text) and _BROKEN_CONNECTION.search(text))


def is_retryable_status(status: int, body: bytes) -> bool:
    """Return whether the same request, sent again, may succeed: nothing answered, or the runner has died."""
    if status in UNAVAILABLE:
        return True
    if status != HTTPStatus.INTERNAL_SERVER_ERROR:
        return False
    text = body.decode(errors="replace").strip()
    return is_runner_failure(_error_of(text) or text)


def is_window_exceeded(status: int, body: bytes) -> bool:
    """Return whether an error response says that the prompt does not fit into the model's window.

    Ollama says so if the request has ``truncate: false`` (``server/routes.go``; older ones without figures).
    """
    return status == HTTPStatus.BAD_REQUEST and any(text.encode() in body for text in _WINDOW_EXCEEDED)


def window_figures(body: bytes) -> tuple[int, int] | None:
    """Return the figures of an error that says that the prompt does not fit into the model's window.

    :returns: the tokens of the prompt and those of the window, as llama-server counts them; None if the error is
        another one, or does not say them, as before Ollama 0.30.
    """
    return _figures(body[:MAX_LENGTH].decode(errors="replace"))


def may_refuse_a_message(status: int, body: bytes) -> bool:
    """Return whether an error response may be about one of the messages: an image that cannot be read, or that the
    model cannot see, a field of the wrong type.

    Ollama does not say which message, and uses 400 for faults of the whole request, too.
    """
    if status == HTTPStatus.BAD_REQUEST:
        return not is_window_exceeded(status, body)
    return status == HTTPStatus.INTERNAL_SERVER_ERROR and is_refused_input(body.decode(errors="replace"))


def is_refused_input(error: str) -> bool:
    """Return whether an error's text is about a message that cannot be used."""
    return _REFUSED_INPUT.search(error[:MAX_LENGTH]) is not None


def _error_of(body: str) -> str | None:
    """Return the text of a body ``{"error": ...}``; None if it has none."""
    if len(body) > MAX_LENGTH:
        return None
    try:
        value = ujson.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not value.get("error"):
        return None
    return chat_line.storable(readable(_message_of(value) or chat_line.error_text(value["error"])))


def _open(text: str) -> str | None:
    """Replace the first ``{"error": ...}`` in a text by its message; None if there is none."""
    found = _NESTED.search(text)
    if found is None:
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(text, found.start())
    except (ValueError, RecursionError):
        return None
    message = _message_of(value)
    return None if message is None else text[: found.start()] + message + text[end:]


def _open_go_map(text: str) -> str:
    """Replace the first map in Go's notation by its message. One attempt: a search would be quadratic in the length."""
    found = _GO_MAP.match(text, start) if (start := text.find("map[code:")) >= 0 else None
    return text[: found.start()] + found[1] + text[found.end() :] if found and found[1] else text


def _message_of(value: dict[str, Any]) -> str | None:
    """Return the message of ``{"error": "<message>"}`` or ``{"error": {"message": "<message>"}}``, unless empty."""
    error = value.get("error")
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) and error else None


def _window_exceeded(text: str) -> str | None:
    """Return a sentence if an error says that the prompt does not fit into the window; None if it does not."""
    if not any(one in text for one in _WINDOW_EXCEEDED):
        return None
    figures = _figures(text)
    if figures is None:
        return f"The conversation is too long for the model's window. {_SHORTEN}"
    prompt, window = figures
    return (
        f"The conversation is too long for the model: it has {prompt:,} tokens (words and parts of words), and the "
        f"model's window holds {window:,}. {_SHORTEN}"
    )


def _figures(text: str) -> tuple[int, int] | None:
    """See :func:`window_figures`."""
    if "exceed_context_size_error" not in text:
        return None
    prompt, window = _PROMPT_TOKENS.search(text), _CONTEXT_TOKENS.search(text)
    if prompt and window:
        figures = int(prompt[1]), int(window[1])
    elif found := _FIGURES_IN_WORDS.search(text):
        figures = int(found[1]), int(found[2])
    else:
        return None
    return figures if all(figures) else None
