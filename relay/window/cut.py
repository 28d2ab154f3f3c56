"""Decides from which message on a conversation is sent to a model whose window it has outgrown. Pure.

A conversation is cut in blocks: once it does not fit any more, so much is left out at once that it fills two fifths of
the window, and then nothing changes at its beginning until the window is full again. So the model finds the beginning
of nearly every prompt in its cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass

KEPT_SHARE = 0.4
"""Share of the window that a conversation fills after a cut. After it the model evaluates all of that anew, once in as
many turns as fill the rest: the less is kept, the less that costs, and the less the model remembers."""

ANSWER_SHARE = 4
"""A reply that has no limit of its own gets one part in so many of the window."""

MARGIN_SHARE = 32
"""A prompt is taken to be longer than estimated by one part in so many."""

MARGIN = 16
"""Tokens that are kept free behind an answer."""


@dataclass(frozen=True, slots=True)
class Part:
    """A message and its cost.

    :ivar seq: ``chatts.seq``.
    """

    seq: int
    role: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Selection:
    """What is sent of a conversation.

    :ivar first: ``seq`` of the first message that is sent, system messages aside; None if there is none.
    :ivar system_after: system messages are sent if they have a greater ``seq`` only; None if all are.
    :ivar tokens: of all that is sent.
    :ivar messages: number of messages that are sent.
    :ivar system_left_out: number of system messages that are not sent.
    """

    first: int | None
    system_after: int | None
    tokens: int
    messages: int
    system_left_out: int


def reserve(window: int, num_predict: int | None) -> int:
    """Return the tokens of a window that are kept free for the answer.

    :param num_predict: the longest answer that is wanted; None, 0 or negative: that is not said.
    """
    return min(num_predict, window // 2) if num_predict and num_predict > 0 else window // ANSWER_SHARE


def room(window: int, tokens: int) -> int:
    """Return what a window has left for the answer to a prompt of so many tokens, by estimate."""
    return window - tokens - tokens // MARGIN_SHARE - MARGIN


def prompt_start(parts: Sequence[Part]) -> int:
    """Return the index of the newest message of the user: from there on everything is sent. Of a conversation without
    one it is the last message."""
    for index in range(len(parts) - 1, -1, -1):
        if parts[index].role == "user":
            return index
    return max(len(parts) - 1, 0)


def select_from(parts: Sequence[Part], first: int | None, fixed: int, window: int | None = None) -> Selection:
    """Return what is sent from a message on, and the system messages.

    :param parts: the conversation, oldest first.
    :param first: see :class:`Selection`; None: from its beginning.
    :param fixed: tokens of what is sent beside messages.
    :param window: system messages that fill more than half of it are left out, as :func:`cut` does; None: all are sent.
    """
    system_after, left_out = None, 0
    if window is not None:
        _, system_after, left_out = _newest_system(parts, window // 2)
    sent = [
        part
        for part in parts
        if (part.seq > (system_after or -1) if part.role == "system" else first is None or part.seq >= first)
    ]
    others = [part.seq for part in sent if part.role != "system"]
    tokens = fixed + sum(part.tokens for part in sent)
    return Selection(others[0] if others else None, system_after, tokens, len(sent), left_out)


def cut(parts: Sequence[Part], window: int, free: int, fixed: int) -> Selection:
    """Return what is sent of a conversation that does not fit: as many of its newest messages as fill
    :data:`KEPT_SHARE` of the window. They begin with a message of the user, so that no call of a tool is separated from
    its result, and the newest message of the user is always among them.

    System messages are all sent unless they fill half of the window; then the newest are.

    :param parts: the conversation, oldest first.
    :param free: tokens to keep free for the answer.
    :param fixed: tokens of what is sent beside messages.
    """
    system, system_after, left_out = _newest_system(parts, window // 2)
    others = [part for part in parts if part.role != "system"]
    start = prompt_start(others)
    always = fixed + system + sum(part.tokens for part in others[start:])
    # A long prompt leaves little of that: then the same share of what it leaves.
    most = round(max(KEPT_SHARE * window - always, KEPT_SHARE * (room(window, always) - free)))
    first, tokens = start, 0
    total = 0
    for index in range(start - 1, -1, -1):
        total += others[index].tokens
        if total > most:
            break
        if others[index].role == "user":
            first, tokens = index, total
    kept_system = sum(1 for part in parts if part.role == "system") - left_out
    return Selection(
        others[first].seq if others else None,
        system_after,
        always + tokens,
        len(others) - first + kept_system,
        left_out,
    )


def _newest_system(parts: Sequence[Part], limit: int) -> tuple[int, int | None, int]:
    """Select the newest system messages up to a number of tokens.

    :returns: their tokens, the ``seq`` of the newest one that is not selected, and the number of those.
    """
    tokens = left_out = 0
    after: int | None = None
    for part in reversed(parts):
        if part.role != "system":
            continue
        if after is None and tokens + part.tokens <= limit:
            tokens += part.tokens
            continue
        left_out += 1
        after = part.seq if after is None else after
    return tokens, after, left_out
