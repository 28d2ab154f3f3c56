"""A conversation as it may be sent, in tokens. Pure."""

from dataclasses import replace

import msgspec

from db.context.cuts import Conversation, Cut
from relay.window.context import SentContext
from relay.window.cut import Part, Selection, prompt_start, select_from
from relay.window.request_options import Fields, WindowOptions, window_options
from relay.window.text_counts import TextCounts, count_message, count_text
from relay.window.tokens import TokenEstimator

OTHER_FIELDS = ("tools", "format")
"""Fields of a request, beside its messages, that become part of the prompt."""


class Draft:
    """A conversation in tokens.

    :ivar all: everything that may be sent.
    :ivar fixed: tokens of what is sent beside messages.
    :ivar prompt_first: ``seq`` of the newest message of the user, or of the last message; None if there is none.
    """

    def __init__(self, conversation: Conversation, estimator: TokenEstimator, correction: float) -> None:
        fields = msgspec.json.decode(conversation.request, type=dict[str, msgspec.Raw])
        self.request = conversation.request
        self.options: WindowOptions = window_options(fields)
        self.cut = conversation.cut
        self.first = conversation.first
        self.continues = conversation.continues
        self._counts = [
            replace(count_message(sized.message), pictures=sized.pictures) for sized in conversation.messages
        ]
        self._without_images = [sized.without_images for sized in conversation.messages]
        self._fixed_counts = count_fields(fields)
        self.fixed = round(correction * estimator.estimate(self._fixed_counts))
        self.parts = [
            Part(sized.seq, sized.message.role, round(correction * estimator.estimate(counts)))
            for sized, counts in zip(conversation.messages, self._counts, strict=True)
        ]
        self.all = select_from(self.parts, None, self.fixed)
        others = [part for part in self.parts if part.role != "system"]
        self.prompt_first = others[prompt_start(others)].seq if others else None

    def count_before(self, first: int | None) -> int:
        """Return the number of messages before a ``seq``, system messages not counted."""
        return sum(1 for part in self.parts if part.role != "system" and first is not None and part.seq < first)

    def context(self, model: str, selection: Selection, window: int | None, left_out: int = 0) -> SentContext:
        """Return the context of a selection."""
        sent = [
            index
            for index, part in enumerate(self.parts)
            if (part.role == "system" and part.seq > (selection.system_after or -1))
            or (part.role != "system" and selection.first is not None and part.seq >= selection.first)
        ]
        counts = sum((self._counts[index] for index in sent), self._fixed_counts)
        return SentContext(
            model,
            selection.messages,
            counts,
            selection.tokens,
            window,
            self.options,
            first=selection.first if left_out else None,
            left_out=left_out,
            images_left_out=sum(self._without_images[index] for index in sent),
            system_left_out=selection.system_left_out,
        )

    def stored_cut(self, window: int) -> Cut | None:
        """Return the stored cut if it counts for a window."""
        return self.cut if self.cut and self.cut.window == window else None

    def select_from_cut(self, window: int, holds: int) -> Selection:
        """Return what is sent if nothing more is left out.

        :param window: the window for which a cut is stored.
        :param holds: the tokens that it is taken to hold.
        """
        stored = self.stored_cut(window)
        return select_from(self.parts, stored.first if stored else None, self.fixed, holds)

    def refused_first(self, prompt_messages: int) -> int | None:
        """Return the ``seq`` from which on a prompt that exceeds the window is left out. If it is the result of a call,
        the question and the call stay: another result may come.

        :param prompt_messages: number of messages at the end of the conversation that are the prompt.
        :returns: None if there is no message.
        """
        own = self.parts[-prompt_messages:]
        return None if self.prompt_first is None else max(self.prompt_first, own[0].seq)

    def begun_context(self, model: str, window: int | None) -> SentContext:
        """Return the context with which the reply was begun, or the one that was stored for it since."""
        left_out = self.cut.left_out if self.cut and self.cut.first == self.first else 0
        return self.context(model, select_from(self.parts, self.first, self.fixed), window, left_out)


def count_fields(fields: Fields) -> TextCounts:
    """Count what a request has beside its messages."""
    return sum((count_text(bytes(fields[name]).decode()) for name in OTHER_FIELDS if name in fields), TextCounts())
