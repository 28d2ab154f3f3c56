"""How a reply is continued: what is sent to Ollama so that it goes on with given words. Pure: no I/O.

Whether a last message of the assistant is continued depends on the model's template. Some leave it open; others close
it, and a new answer begins; llama-server repeats it first. What is always continued is the rendered prompt, cut behind
the words, as a raw prompt (``/api/generate`` with ``raw``). docs/reliability.md has the table of all cases.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from db.messages import Message
from errors import UnreadableLine
from relay.generation.prompt import chat_body
from relay.generation.transcript import Transcript
from relay.ollama import chat_line
from relay.window.request_options import with_answer_limit

MAX_ATTEMPTS = 5
"""Consecutive adoptions without a new line; then the reply ends: it may be what makes processes crash."""

NOT_CONTINUABLE = "The reply was interrupted where it could not be continued."

GENERATE_FIELDS = ("model", "options", "keep_alive", "stream", "shift", "logprobs", "top_logprobs")
"""Fields of a chat request that ``/api/generate`` has, too, with the same meaning (ollama ``api/types.go``)."""

MESSAGE_FIELDS = ("images", "tool_calls", "tool_name", "tool_call_id", "thinking")
"""Fields of a message, besides role and content (ollama ``api/types.go``, ``Message``)."""

BOS_TEXTS = ("<|begin_of_text|>", "<s>", "<bos>", "<|startoftext|>", "<｜begin▁of▁sentence｜>", "[gMASK]<sop>")
"""Texts of beginning-of-sequence tokens with which known templates begin a prompt."""

_EMPTY = re.compile(rb'null|""|\[\s*\]')

TOKENIZERS_WITH_BOS = ("llama", "gemma4")
"""Values of ``tokenizer.ggml.model`` that add the token by default (llama.cpp ``llama-vocab.cpp``)."""


@dataclass(frozen=True, slots=True)
class SentRequest:
    """What is sent to Ollama for a reply.

    :ivar request: see :meth:`relay.generation.prompt.Prompt.stored_request`.
    :ivar messages: the conversation, oldest first, without the message that the reply continues.
    :ivar continued: the assistant's message that the reply continues, as it was when the reply began; None if the reply
        is a message of its own.
    """

    request: str
    messages: Sequence[Message]
    continued: Message | None = None

    def words(self, transcript: Transcript) -> str:
        """Return the words of the assistant's message so far."""
        return (self.continued.content if self.continued else "") + transcript.content


def replay(transcript: Transcript, lines: Sequence[bytes]) -> None:
    """Add lines from a reply's log to its transcript."""
    for line in lines:
        try:
            transcript.add(chat_line.read(line))
        except UnreadableLine:
            continue  # shown as an error event; not part of the model's message


def why_not_continuable(sent: SentRequest, transcript: Transcript) -> str | None:
    """Return why a reply with words cannot be continued; None if it may be.

    A tool call ends the model's turn. What a model does with the rest of a ``format``, or with pictures in a raw
    prompt, is unknown.
    """
    fields = _decode_object(sent.request)
    has_format = not _is_empty(fields.get("format"))
    has_pictures = any(message.extra and not _is_empty(message.fields().get("images")) for message in sent.messages)
    return NOT_CONTINUABLE if has_format or has_pictures or transcript.has_tool_calls else None


def refusable_fields(message: Message) -> list[str]:
    """Return the names of a message's fields, besides role and content, that Ollama reads and may refuse."""
    fields = message.fields()
    return [name for name in MESSAGE_FIELDS if not _is_empty(fields.get(name))]


def has_tools(request: str) -> bool:
    """Return whether the model may call tools: a raw response would show the calls as markup."""
    return not _is_empty(_decode_object(request).get("tools"))


def remaining_request(request: str, transcript: Transcript) -> str | None:
    """Return the request with ``options.num_predict``, its token limit, reduced by the transcript's tokens.

    :param request: see :meth:`relay.generation.prompt.Prompt.stored_request`.
    :returns: None if the limit is reached.
    """
    fields = _decode_object(request)
    try:
        options = _decode_object(fields.get("options", b"{}"))
        limit = int(msgspec.json.decode(options.get("num_predict", b"0"), type=int | float))  # Ollama cuts 7.5, too
    except msgspec.ValidationError:
        return request  # Ollama will report the error
    if limit <= 0:
        return request
    if limit <= transcript.estimated_tokens:
        return None
    return _with_options(fields, num_predict=limit - transcript.estimated_tokens)


def token_limit(request: str) -> int | None:
    """Return the request's token limit, ``options.num_predict``; None if it has none."""
    try:
        options = _decode_object(_decode_object(request).get("options", b"{}"))
        limit = msgspec.json.decode(options.get("num_predict", b"0"), type=int)
    except msgspec.ValidationError:
        return None
    return limit if limit > 0 else None


def with_token_limit(request: str, limit: int) -> str:
    """Return the request with another token limit."""
    return _with_options(_decode_object(request), num_predict=limit)


def within_window(request: str, answer_limit: int | None) -> str:
    """Return the request with a token limit that lets the reply end within the window.

    :param answer_limit: see :func:`relay.window.request_options.with_answer_limit`.
    """
    return msgspec.json.encode(with_answer_limit(_decode_object(request), answer_limit)).decode()


def new_marker() -> str:
    """Return a random text that no conversation contains, of a private-use character and hexadecimal digits."""
    return "\ue000" + secrets.token_hex(8)


def chat_to_continue(request: str, sent: SentRequest, transcript: Transcript, marker: str = "") -> bytes:
    """Return a body for ``/api/chat`` whose last message is the assistant's, with an ended thought beside its words.

    :param request: the request with its remaining token limit.
    :param marker: text to add behind the words.
    """
    last = sent.continued or Message("assistant", "")
    if thinking := transcript.thinking:
        fields = last.fields()
        thinking = _text(fields.get("thinking")) + thinking  # as the message is stored
        last = replace(last, extra=msgspec.json.encode({**fields, "thinking": thinking}).decode())
    last = replace(last, content=sent.words(transcript) + marker)
    return chat_body(request, [*sent.messages, last])


def rendering_body(body: bytes, shorten: bool) -> bytes:
    """Change a body for ``/api/chat`` so that Ollama returns the rendered prompt and does not generate.

    ``_debug_render_only`` exists since Ollama 0.11.5. An older one, or a model in the cloud, generates one token.

    :param shorten: whether Ollama may leave out the oldest messages if the prompt does not fit into the model's window.
    """
    fields = _decode_object(body)
    fields.pop("keep_alive", None)  # 0 would unload the model
    fixed = {"stream": False, "truncate": shorten, "_debug_render_only": True}
    return _with_options({**fields, **_raw(fixed)}, num_predict=1).encode()


def cut_at_marker(rendering: str, words: str, marker: str) -> str | None:
    """Return the rendered prompt up to the end of ``words``; None if the template changes them."""
    prompt, found, _ = rendering.partition(marker)
    return prompt if found and prompt.endswith(words) else None


def raw_body(request: str, prompt: str) -> bytes:
    """Return a body for ``/api/generate`` that continues a rendered prompt.

    ``think`` is false: a leading ``<think>`` in the continuation would be removed otherwise.

    :param request: the request with its remaining token limit.
    """
    fields = {name: value for name, value in _decode_object(request).items() if name in GENERATE_FIELDS}
    fixed = {"prompt": prompt, "raw": True, "think": False, "truncate": False}
    return msgspec.json.encode({**fields, **fixed})


def begins_with_bos(prompt: str) -> bool:
    """Return whether a rendered prompt begins with the text of a beginning-of-sequence token."""
    return prompt.startswith(BOS_TEXTS)


def without_bos(prompt: str, model_info: dict[str, object]) -> str:
    """Remove the beginning-of-sequence token if the tokenizer adds it to a raw prompt, too: it would come twice.

    :param model_info: of ``/api/show``.
    """
    adds_bos = model_info.get("tokenizer.ggml.add_bos_token")
    if adds_bos is None:
        adds_bos = (
            model_info.get("tokenizer.ggml.model") in TOKENIZERS_WITH_BOS
            or model_info.get("tokenizer.ggml.pre") == "llama-bpe"
        )
    if not adds_bos:
        return prompt
    return prompt.removeprefix(next((text for text in BOS_TEXTS if prompt.startswith(text)), ""))


def _decode_object(value: str | bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(value, type=dict[str, msgspec.Raw])


def _is_empty(value: msgspec.Raw | None) -> bool:
    return value is None or _EMPTY.fullmatch(bytes(value)) is not None


def _text(value: msgspec.Raw | None) -> str:
    """Return a text; the empty one for anything else."""
    try:
        return "" if value is None else msgspec.json.decode(value, type=str)
    except msgspec.ValidationError:
        return ""


def _raw(fields: Mapping[str, object]) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}


def _with_options(fields: dict[str, msgspec.Raw], **options: object) -> str:
    """Return a request with options added to, or replaced in, its ``options``."""
    try:
        given = _decode_object(fields.get("options", b"{}"))
    except msgspec.ValidationError:
        given = {}
    merged = {**given, **_raw(dict(options))}
    return msgspec.json.encode({**fields, "options": merged}).decode()
