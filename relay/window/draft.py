"""A conversation as it may be sent, in tokens. Pure."""

from dataclasses import replace

import msgspec

from db.context.cuts import Conversation, Cut
from db.messages import Message
from relay.window.context import SentContext
from relay.window.cut import Part, Selection, cut, prompt_start, room, select_from
from relay.window.request_options import Fields, WindowOptions, window_options
from relay.window.text_counts import TextCounts, count_message, count_text
from relay.window.tokens import TokenEstimator

OTHER_FIELDS = ("tools", "format")
"""Fields of a request, beside its messages, that become part of the prompt."""


class Draft:
    """A conversation in tokens.

    :ivar all: everything that may be sent.
    :ivar fixed: tokens of what is sent beside messages, the summary not counted.
    :ivar summary: tokens of the summary with which the reply was begun; 0 if there is none.
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
        self._until: int | None
        self._until, text = conversation.summary or (None, "")
        self._summary_counts = count_message(Message("system", text)) if text else TextCounts()
        self.summary = round(correction * estimator.estimate(self._summary_counts))
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

    def cut_to(self, window: int, free: int) -> tuple[Selection, bool]:
        """Return what is sent of a conversation that does not fit, and whether its summary is: not if the prompt does
        not fit with it, or what it summarises is sent.

        :param free: tokens to keep free for the answer.
        """
        if self._until is not None:
            selection = cut(self.parts, window, free, self.fixed + self.summary)
            if (selection.first or 0) > self._until and room(window, selection.tokens) >= free:
                return selection, True
        return cut(self.parts, window, free, self.fixed), False

    def context(
        self,
        model: str,
        selection: Selection,
        window: int | None,
        left_out: int = 0,
        with_summary: bool = False,
        is_new_cut: bool = False,
    ) -> SentContext:
        """Return the context of a selection.

        :param with_summary: whether the summary is sent, too, if there is one; its tokens are in the selection.
        """
        with_summary = with_summary and self._until is not None
        sent = [
            index
            for index, part in enumerate(self.parts)
            if (part.role == "system" and part.seq > (selection.system_after or -1))
            or (part.role != "system" and selection.first is not None and part.seq >= selection.first)
        ]
        counts = sum((self._counts[index] for index in sent), self._fixed_counts)
        if with_summary:
            counts += self._summary_counts
        return SentContext(
            model,
            selection.messages + with_summary,
            counts,
            selection.tokens,
            window,
            self.options,
            first=selection.first if left_out else None,
            left_out=left_out,
            images_left_out=sum(self._without_images[index] for index in sent),
            system_left_out=selection.system_left_out,
            summary=with_summary,
            is_new_cut=is_new_cut and left_out > 0,
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
        if stored is None:
            return select_from(self.parts, None, self.fixed, holds)
        return select_from(self.parts, stored.first, self.fixed + self.summary, holds)

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
        selection = select_from(self.parts, self.first, self.fixed + self.summary)
        return self.context(model, selection, window, left_out, with_summary=True)


def count_fields(fields: Fields) -> TextCounts:
    """Count what a request has beside its messages."""
    return sum((count_text(bytes(fields[name]).decode()) for name in OTHER_FIELDS if name in fields), TextCounts())
