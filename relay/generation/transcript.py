"""What the model has said so far, put together from its lines: the assistant's message to be."""

import re
from typing import Any

import msgspec

from db.messages import Message
from relay.ollama.chat_line import ChatLine


class Transcript:
    """Collects content, thinking and tool calls, each exactly as the model wrote it."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[Any] = []

    def add(self, line: ChatLine) -> None:
        """Take what one line says."""
        if line.content:
            self._content.append(line.content)
        if line.thinking:
            self._thinking.append(line.thinking)
        if line.tool_calls:
            self._tool_calls.extend(line.tool_calls)

    @property
    def content(self) -> str:
        """The text so far."""
        return "".join(self._content)

    @property
    def pieces(self) -> int:
        """How many lines brought text or thoughts: about as many tokens, as Ollama sends a line for each."""
        return len(self._content) + len(self._thinking)

    @property
    def has_tool_calls(self) -> bool:
        """Whether the model has called a tool."""
        return bool(self._tool_calls)

    @property
    def empty(self) -> bool:
        """Whether the model has said nothing at all."""
        return not (self._content or self._thinking or self._tool_calls)

    def message(self, collapse_whitespace: bool) -> Message | None:
        """The assistant's message; None if it would be blank.

        :param collapse_whitespace: make each run of white space one space, as the tutorial's server does.
        """
        content = self.content
        extra: dict[str, Any] = {}
        if self._thinking:
            extra["thinking"] = "".join(self._thinking)
        if self._tool_calls:
            extra["tool_calls"] = self._tool_calls
        if not extra and not content.strip():
            return None
        if collapse_whitespace:
            content = re.sub(r"\s+", " ", content)
        return Message("assistant", content, msgspec.json.encode(extra).decode() if extra else None)
