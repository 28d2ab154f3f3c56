"""The request for a summary, and what is taken for one. Pure."""

import re

import msgspec

from db.context.summaries import MAX_CHARACTERS, Unsummarised
from relay.ollama.chat_line import storable
from relay.window.cut import room
from relay.window.request_options import LOAD_FIELDS
from relay.window.text_counts import count_text
from relay.window.tokens import TokenEstimator

MAX_TOKENS = 512
"""Tokens of a summary at most."""

WINDOW_SHARE = 8
"""A summary gets at most one part in so many of the window."""

INSTRUCTIONS = (
    "Above is the beginning of a conversation between a user and an assistant. Summarise it, so that the conversation "
    "can go on without it: the facts, names, numbers, decisions and wishes that may matter later, and what is still "
    "open. Use the language of the conversation. Answer with the summary alone, in at most {words} words."
)
"""Behind the conversation: there small models follow them better."""

ROLES = {"user": "User", "assistant": "Assistant", "tool": "Tool"}

_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)


class NoSummary(Exception):
    """Nothing that can be taken for a summary. Its text says why, for the log."""


class _Message(msgspec.Struct):
    content: str = ""


class _Answer(msgspec.Struct):
    message: _Message
    done: bool = False


def summary_body(unsummarised: Unsummarised, window: int, estimator: TokenEstimator) -> bytes:
    """Return a body for ``/api/chat`` that asks for a summary of an earlier one and of the messages after it.

    Its options of the runner are those of the replies: others would make Ollama load the model anew. Of the messages
    it has the newest that fit into the window.

    :param window: of the model, in tokens.
    :raises NoSummary: the window is too small.
    """
    limit = min(MAX_TOKENS, window // WINDOW_SHARE)
    instructions = INSTRUCTIONS.format(words=max(limit // 2, 1))
    earlier = []
    if unsummarised.earlier and unsummarised.earlier.text:
        earlier.append(f"Summary of what was before:\n{unsummarised.earlier.text}")

    def tokens(text: str) -> int:
        return estimator.estimate(count_text(text)) + 1

    left = room(window, sum(map(tokens, [*earlier, instructions]))) - limit
    messages: list[str] = []
    for role, content in reversed(unsummarised.messages):
        text = f"{ROLES.get(role, role)}: {content}"
        size = tokens(text)
        if size > left:
            if not messages and left > 0:
                messages.append(text[: len(text) * left // size])
            break
        messages.append(text)
        left -= size
    if not messages:
        raise NoSummary("The window is too small for a summary.")
    content = "\n\n".join([*earlier, *reversed(messages), instructions])
    fields = msgspec.json.decode(unsummarised.request, type=dict[str, msgspec.Raw])
    kept = {name: raw for name, raw in fields.items() if name in (*LOAD_FIELDS, "keep_alive")}
    try:
        options = msgspec.json.decode(kept.pop("options", b"null"), type=dict[str, msgspec.Raw] | None) or {}
    except msgspec.ValidationError as error:
        raise NoSummary("The request's options are no object.") from error
    options.pop("stop", None)  # ends answers, not summaries
    options["num_predict"] = msgspec.Raw(msgspec.json.encode(limit))
    return msgspec.json.encode(
        {
            **kept,
            "options": options,
            "messages": [{"role": "user", "content": content}],
            "stream": False,
            "truncate": False,
            "think": False,
        }
    )


def read_summary(status: int, body: bytes) -> str:
    """Return the summary that Ollama has answered with.

    :raises NoSummary: it is an error, empty, incomplete or too long.
    """
    if status != 200:
        raise NoSummary(f"Ollama answered with status {status}.")
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise NoSummary("Ollama's answer could not be read.") from error
    text = _THOUGHT.sub("", storable(answer.message.content), count=1).strip()
    if not answer.done or not text:
        raise NoSummary("Ollama's answer was empty or incomplete.")
    if len(text) > MAX_CHARACTERS:
        raise NoSummary(f"Ollama's answer was longer than {MAX_CHARACTERS} characters.")
    return text
