"""Temporary."""

from dataclasses import dataclass

from db.messages import Message


@dataclass(frozen=True, slots=True)
class TextCounts:
    """x"""

    size: int = 0
    pictures: int = 0

    def __add__(self, other: "TextCounts") -> "TextCounts":
        return TextCounts(self.size + other.size, self.pictures + other.pictures)


def count_text(text: str) -> TextCounts:
    """x"""
    return TextCounts(len(text.encode()))


def count_message(message: Message) -> TextCounts:
    """x"""
    return TextCounts(len(message.content.encode()) + 20)


class TokenEstimator:
    """x"""

    def __init__(self) -> None:
        self.factor = 0.25

    def estimate(self, counts: TextCounts) -> int:
        """x"""
        return round(counts.size * self.factor) + 700 * counts.pictures

    def learn(self, counts: TextCounts, tokens: int) -> None:
        """x"""
        if counts.size:
            self.factor = tokens / counts.size


class TokenEstimators:
    """x"""

    def __init__(self) -> None:
        self._all: dict[str, TokenEstimator] = {}

    def of(self, model: str) -> TokenEstimator:
        """x"""
        return self._all.setdefault(model, TokenEstimator())
