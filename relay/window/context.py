"""The context of a reply: how much of its conversation the model was sent, in messages and tokens."""

from dataclasses import dataclass
from typing import Any

from relay.window.cut import MARGIN
from relay.window.request_options import WindowOptions
from relay.window.text_counts import TextCounts

MIN_ANSWER = 16
"""Tokens that an answer may have at least."""


@dataclass(slots=True)
class SentContext:
    """What a model was sent for one reply.

    :ivar model: its name.
    :ivar messages: number of messages that were sent.
    :ivar counts: what they consist of.
    :ivar tokens: of the prompt, as estimated; with ``counted`` of prompt and reply together, as Ollama counted them.
    :ivar window: of the model, in tokens; None if it is not known.
    :ivar options: what the request says about the window.
    :ivar first: ``chatts.seq`` of the first message that was sent; None if none was left out before it.
    :ivar left_out: number of earlier messages that were not, system messages not counted.
    :ivar images_left_out: number of messages that were sent without their images.
    :ivar system_left_out: number of system messages that were not sent.
    :ivar summary: whether a summary of what is before ``first`` is one of the messages.
    :ivar is_new_cut: whether more messages are left out than of the prompt before.
    :ivar answer_limit: tokens that the answer may have so that it ends within the window; None if there is no limit.
    :ivar counted: whether ``tokens`` are those that Ollama counted.
    :ivar is_cut_short: whether the answer has ended at a limit, its own or that of the window.
    """

    model: str
    messages: int
    counts: TextCounts
    tokens: int
    window: int | None
    options: WindowOptions
    first: int | None = None
    left_out: int = 0
    images_left_out: int = 0
    system_left_out: int = 0
    summary: bool = False
    is_new_cut: bool = False
    answer_limit: int | None = None
    counted: bool = False
    is_cut_short: bool = False

    def is_plausible(self, prompt_tokens: int) -> bool:
        """Return whether a number can be that of all tokens of the prompt, and not only of those that are not in the
        model's cache."""
        return prompt_tokens * 2 + MARGIN > self.tokens

    def as_json(self) -> dict[str, Any]:
        """Return it as clients see it (docs/api.md)."""
        return {
            "model": self.model,
            "from": self.first,
            "messages": self.messages,
            "left_out": self.left_out,
            "tokens": self.tokens,
            "estimated": not self.counted,
            "window": self.window,
            **({"images_left_out": self.images_left_out} if self.images_left_out else {}),
            **({"system_left_out": self.system_left_out} if self.system_left_out else {}),
            **({"summary": True} if self.summary else {}),
            **({"done_reason": "length"} if self.is_cut_short else {}),
        }
