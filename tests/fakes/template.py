"""The prompt template of the scripted model: ChatML, with a last message of the assistant left open or closed."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

Mode = Literal["open", "closed", "echo"]
"""What becomes of a last message of the assistant: it goes on at the character; it is closed and the answer begins
anew; it goes on, and the first line repeats it."""

Change = Callable[[str], str]

START, END = "<|im_start|>", "<|im_end|>"
HEADER = f"{START}assistant\n"
THOUGHT, THOUGHT_END = "<think>", "</think>"

TEMPLATE = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
"""The template that the recordings were made with, as ``/api/show`` tells it."""

MARKUP = re.compile(rf"{re.escape(START)}\w*\n|{re.escape(END)}\n?")
LOST = re.compile(r"\s+(?=(?:\ue000\S*)?\Z)")
"""White space at the end of a text, also before a marker that begins with a character for private use."""


def strip_end(text: str) -> str:
    """A change that some renderers make to a message: white space at its end is lost, before a marker too."""
    return LOST.sub("", text)


def render(messages: Sequence[Mapping[str, Any]], mode: Mode, change: Change | None = None, bos: str = "") -> str:
    """The prompt that the model is given."""
    *before, last = messages
    said = last.get("role") == "assistant"
    text = bos + "".join(_turn(message, change) + f"{END}\n" for message in before) + _turn(last, change, thinks=said)
    return text if said and mode != "closed" else f"{text}{END}\n{HEADER}"


def head(messages: Sequence[Mapping[str, Any]], mode: Mode, change: Change | None = None, bos: str = "") -> str:
    """The prompt's part before what the model itself has said of the answer, and behind an ended thought."""
    *before, last = messages
    if last.get("role") != "assistant":
        return render(messages, mode, change, bos)
    return render([*before, {**last, "content": ""}], "open", change, bos)


def _turn(message: Mapping[str, Any], change: Change | None, thinks: bool = False) -> str:
    content = message.get("content") or ""
    calls = "".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in message.get("tool_calls") or [])
    thought = f"{THOUGHT}\n{message['thinking']}\n{THOUGHT_END}\n\n" if thinks and message.get("thinking") else ""
    return f"{START}{message.get('role', '')}\n{thought}{change(content) if change else content}{calls}"


def tokens(text: str) -> int:
    """The words of a prompt, without the template's own."""
    return len(MARKUP.sub(" ", text).split())


def fit(messages: Sequence[Mapping[str, Any]], window: int) -> list[Mapping[str, Any]]:
    """The messages without the oldest ones that do not fit; system messages and the last one stay."""
    kept = list(messages)
    while sum(tokens(message.get("content") or "") for message in kept) >= window:
        old = [message for message in kept[:-1] if message.get("role") != "system"]
        if not old:
            break
        kept.remove(old[0])
    return kept
