"""Remove from a response the words that the model was given and repeats before it continues them. Pure.

Ollama's llama-server, where it applies the chat template inside a model's file, answers a last message of the assistant
with that message's words and the first new token in one line (seen with Ollama's source of 2026-08-21).
"""

import ujson

from errors import UnreadableLine
from relay.ollama import chat_line


class NotContinued(Exception):
    """The response does not begin with the words given: the model has begun a new answer."""


class EchoFilter:
    """Passes on a response's lines without the words that it repeats.

    :param words: the words that the model was given as its own, not empty.
    :param required: whether the response must begin with the words, in one or several lines. If False, the model is
        known to continue its words, and only a first line that begins with all of them is changed.
    """

    def __init__(self, words: str, required: bool) -> None:
        self._words = words
        self._required = required
        self._position = 0
        self._passed = False

    def feed(self, line: bytes) -> bytes | None:
        """Return the line without repeated words; None if it has nothing else.

        :raises NotContinued: the response differs from the words.
        """
        if self._passed:
            return line
        try:
            parsed = chat_line.read(line)
        except UnreadableLine:
            return line
        if parsed.error is not None:
            return line
        if parsed.done and not parsed.content:
            if self._position:
                raise NotContinued  # a shorter answer
            return line
        if not parsed.content and not parsed.thinking and not parsed.tool_calls:
            return None
        remaining = len(self._words) - self._position
        if len(parsed.content) >= remaining and parsed.content.startswith(self._words[self._position :]):
            return self._last_repeated(line, parsed.content[remaining:], parsed.done)
        if not self._required:
            self._passed = bool(parsed.content)
            return line
        if parsed.thinking or parsed.tool_calls or parsed.done:
            raise NotContinued
        if not self._words.startswith(parsed.content, self._position):
            raise NotContinued
        self._position += len(parsed.content)
        return None

    def _last_repeated(self, line: bytes, new: str, done: bool) -> bytes | None:
        self._passed = True
        return _with_content(line, new) if new or done else None


def _with_content(line: bytes, content: str) -> bytes:
    """Replace the content of a chat line."""
    fields = ujson.loads(line)
    fields["message"]["content"] = content
    return ujson.dumps(fields, escape_forward_slashes=False).encode()  # in ASCII: lone surrogates are not lost
