"""The transcript of a reply: content, thinking and tool calls collected from its lines; becomes the message stored."""

import re
from typing import Any

import msgspec

from db.messages import Message
from relay.ollama.chat_line import ChatLine, storable


class Transcript:
    """Collects content, thinking and tool calls, exactly as the model sent them.

    NUL and lone surrogates, which PostgreSQL cannot store, are replaced by U+FFFD. The halves of a surrogate pair may
    be in two lines.

    :ivar continues: whether the content is appended to a message: white space alone counts then.
    """

    def __init__(self, continues: bool = False) -> None:
        self.continues = continues
        self._content: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[msgspec.Raw] = []

    def add(self, line: ChatLine) -> None:
        """Add the content of one line. A line that says that thinking was restarted removes the thought before it."""
        if line.thinking_restarted:
            self._thinking.clear()
        if line.content:
            self._content.append(line.content)
        if line.thinking:
            self._thinking.append(line.thinking)
        if line.tool_calls:
            self._tool_calls.extend(line.tool_calls)

    @property
    def content(self) -> str:
        """The content so far."""
        return storable("".join(self._content))

    @property
    def thinking(self) -> str:
        """The thought so far."""
        return storable("".join(self._thinking))

    @property
    def estimated_tokens(self) -> int:
        """Number of lines with content or thinking: Ollama sends about one line per token."""
        return len(self._content) + len(self._thinking)

    @property
    def has_tool_calls(self) -> bool:
        """Whether the model has called a tool."""
        return bool(self._tool_calls)

    @property
    def empty(self) -> bool:
        """Whether there is no content, thinking or tool call."""
        return not (self._content or self._thinking or self._tool_calls)

    def message(self, collapse_whitespace: bool) -> Message | None:
        """Return the assistant's message; None if it would be blank.

        :param collapse_whitespace: replace each run of white space in the content by one space, as the tutorial's
            server does.
        """
        content = self.content
        extra: dict[str, Any] = {}
        if self._thinking:
            extra["thinking"] = self.thinking
        if self._tool_calls:
            extra["tool_calls"] = self._tool_calls
        if not extra and not (content if self.continues else content.strip()):
            return None
        if collapse_whitespace:
            content = re.sub(r"\s+", " ", content)
        return Message("assistant", content, msgspec.json.encode(extra).decode() if extra else None)
