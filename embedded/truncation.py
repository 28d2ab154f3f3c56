"""What Ollama leaves out of a prompt that does not fit into the window (server/prompt.go, llm/llama_server.go)."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

Message = tuple[str, str]
"""Role and content."""

KEPT_TOKENS = 4
"""Tokens at the beginning of a prompt that stay (`num_keep` of DefaultOptions in Ollama's api/types.go)."""


def without_oldest(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> Sequence[Message]:
    """Return the conversation without as many of its oldest messages as it takes to fit.

    System messages stay, in front of the others, and so does the last message, even if it does not fit alone. Ollama
    tries message by message; the halving of intervals here finds the same conversation with fewer tries.
    """

    def since(first: int) -> Sequence[Message]:
        return [*(message for message in messages[:first] if message[0] == "system"), *messages[first:]]

    last = len(messages) - 1
    return since(bisect_left(range(last), True, key=lambda first: fits(since(first))))


def cut_to_half(tokens: Sequence[int], window: int) -> list[int]:
    """Return a prompt that leaves room for an answer; one that does not is cut to half the window, in its middle."""
    if len(tokens) < window:
        return list(tokens)
    keep = min(KEPT_TOKENS, window - 1)
    end = window - max((window - keep) // 2, 1) - keep
    return [*tokens[:keep], *tokens[len(tokens) - end :]]
