"""A scripted Ollama whose lines are of the grammar: the request decides which, so that a seed reproduces them."""

import random
import zlib

from tests.fakes.ollama import Answer, Head, Lines, Step, last_line, line
from tests.hostile.grammar.bodies import Object, places, put, tree, write
from tests.hostile.grammar.values import KINDS, text

LINE = {
    "model": "fake",
    "created_at": "2026-08-01T12:00:00Z",
    "message": {
        "role": "assistant",
        "content": "word ",
        "thinking": "t",
        "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "b": [0.5]}}}],
    },
    "done": False,
    "eval_count": 5,
    "x": {"y": [1]},
}
"""A line with all fields that chatterd reads."""


class GrammarModel(Step):
    """Answers every request with a few lines; in one answer of ``rare`` one of them is of the grammar.

    :param size: bytes of a value at most.
    """

    def __init__(self, rare: int, size: int) -> None:
        self._rare = rare
        self._size = size

    async def play(self, answer: Answer) -> None:
        chance = random.Random(zlib.crc32(answer.request.body))
        answer.request.body = b""  # the script keeps its requests
        lines = [line("Hello"), last_line()]
        if chance.randrange(self._rare) == 0:
            lines.insert(1, odd_line(chance, self._size))
        await Head().play(answer)
        await Lines(*lines).play(answer)


def odd_line(chance: random.Random, size: int) -> bytes:
    """Return a line with a value of the grammar in one of its places."""
    root = tree(LINE)
    assert isinstance(root, Object)
    if chance.random() < 0.5:
        del root.pairs[2:3]
        root.pairs.append((b'"message"', tree({"role": "assistant", "content": "word "})))
    put(
        chance,
        chance.choice(places(root)),
        KINDS[chance.choice([*KINDS])](chance, size),
        text(chance, min(size, 1_000)),
    )
    return write(chance, root, 0.0).replace(b"\n", b" ")
