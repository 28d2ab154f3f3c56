"""Deterministic models: one that says numbered words, and one that has a whole text to say."""

import asyncio
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .lines import ending, ndjson, speak
from .refusals import no_shift, refusal, too_long
from .runner import NoSuchPrompt, Prompt, Runner
from .script import Answer, Gate, Head, Step, Whole
from .template import END, THOUGHT, Mode

WORDS = 5
"""Words that ``Words`` says in all, if the request does not say."""

MOST_WORDS = 1_000
"""A larger ``num_predict`` is what remains of the window; no model says something until then."""


@dataclass(frozen=True)
class Piece:
    """What one line says: of the answer, at this place in it, or of the thought before it."""

    content: str = ""
    place: int | None = None
    thinking: str = ""


@dataclass(eq=False, kw_only=True)
class Speaker(Step):
    """A model that says the same whenever it is asked; :meth:`pieces` is what.

    :param mode: how it takes a last message of the assistant.
    :param thinks: the lines of its thought, if it begins an answer.
    :param pause: seconds before each line.
    :param hold: gates to wait at, each before the piece of that number, counted from the beginning of the answer.
    """

    mode: Mode = "open"
    thinks: Sequence[str] = ()
    pause: float = 0.0
    hold: Mapping[int, Gate] = field(default_factory=dict)

    def pieces(self, given: str, request: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        """Yield what comes after the words that have been said, each piece with its number.

        :raises NoSuchPrompt: it would never have said these words.
        """
        raise NotImplementedError

    def mode_for(self, request: Mapping[str, Any]) -> Mode:
        """Return how it takes a last message of the assistant in this request."""
        return self.mode

    def signature(self, prompt: Prompt) -> Mapping[str, Any]:
        """Return further fields for each line of the answer to this prompt; called once for each."""
        return {}

    async def play(self, answer: Answer) -> None:
        request = answer.request.json
        if refused := refusal(request, answer.runner.model):
            await refused.play(answer)
        elif not request.get("messages") and not request.get("prompt"):
            await _load(request, answer.runner).play(answer)
        else:
            await self._answer(answer, request, answer.runner.read(request, self.mode_for(request)))

    async def _answer(self, answer: Answer, request: Mapping[str, Any], prompt: Prompt) -> None:
        if not prompt.fits and request.get("truncate") is False:
            return await too_long(prompt.tokens, prompt.window).play(answer)
        if not prompt.fits and request.get("shift") is False:
            return await no_shift().play(answer)
        signature = self.signature(prompt)
        if not prompt.fits:  # the model sees the ends of a prompt only, and says nothing
            limit, pieces, count = None, iter([Piece()]), prompt.cut
        else:
            limit, pieces, count = _limit(request, prompt), self._lines(request, prompt), prompt.tokens
        taken = Taken(itertools.islice(pieces, limit), limit, count, _context(request), prompt.loaded_anew)
        if request.get("stream", True):
            await self._stream(answer, request, taken, signature)
        else:
            await Whole(200, taken.whole(request, signature)).play(answer)

    def _lines(self, request: Mapping[str, Any], prompt: Prompt) -> Iterator[Piece]:
        given = prompt.given
        if not given and not request.get("raw") and request.get("think") is not False:
            yield from (Piece(thinking=thought) for thought in self.thinks)
        pieces = self.pieces(given, request)
        if self.mode_for(request) == "echo" and "messages" in request and given:
            number, first = next(pieces, (None, ""))
            yield Piece(given + first, number)
        for number, piece in pieces:
            yield Piece(piece, number)

    async def _stream(
        self, answer: Answer, request: Mapping[str, Any], taken: "Taken", signature: Mapping[str, Any]
    ) -> None:
        await Head().play(answer)
        for piece in taken:
            await self._wait(piece.place, answer)
            if piece.content or piece.thinking:
                await answer.body(ndjson(speak(request, piece.content, piece.thinking, **signature)))
        await answer.body(ndjson(speak(request, "", **taken.ending, **signature)))
        await answer.end()

    async def _wait(self, place: int | None, answer: Answer) -> None:
        if self.pause:
            await asyncio.sleep(self.pause)
        if place is not None and place in self.hold:
            await self.hold[place].play(answer)


@dataclass(eq=False)
class Taken:
    """The pieces that an answer consists of, counted as they are taken."""

    pieces: Iterable[Piece]
    limit: int | None
    prompt_tokens: int
    context: Mapping[str, Any]
    loaded_anew: bool
    count: int = 0

    def __iter__(self) -> Iterator[Piece]:
        for piece in self.pieces:
            self.count += 1
            yield piece

    def whole(self, request: Mapping[str, Any], signature: Mapping[str, Any]) -> bytes:
        """The answer as one object."""
        pieces = list(self)
        text, thought = "".join(piece.content for piece in pieces), "".join(piece.thinking for piece in pieces)
        return speak(request, text, thought, **self.ending, **signature)

    @property
    def ending(self) -> dict[str, Any]:
        reason = "length" if self.count and self.count == self.limit else "stop"
        figures = ending(
            max(self.prompt_tokens, 1), self.count, reason, self.loaded_anew
        )  # the template's own are never nothing
        return {"done": True, "done_reason": reason, **self.context, **figures}


@dataclass(eq=False, kw_only=True)
class Words(Speaker):
    """A deterministic model: says ``w0 w1 w2 ...``, a word per line, five in all.

    Where it goes on, it goes on with the next word and ends with the same last one, so a reply that was cut and
    continued reads as one that was not. With a small ``num_predict`` it says so many words more instead, without end if
    that is negative; a larger one than :data:`MOST_WORDS` is a limit that it does not reach.
    """

    def pieces(self, given: str, request: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        if END in given:
            raise NoSuchPrompt(f"a prompt that was not cut where the words end: {given!r}")
        said = len(given.split())
        wanted = (request.get("options") or {}).get("num_predict")
        numbers = itertools.count(said) if wanted is not None and wanted <= MOST_WORDS else iter(range(said, WORDS))
        return ((number, f"w{number} ") for number in numbers)


@dataclass(eq=False)
class Text(Speaker):
    """A model that has a whole text to say, cut into pieces: into words, if the test does not say how.

    It goes on anywhere in the text, also in the middle of a piece. Words that its text does not begin with fail the
    test.
    """

    text: str
    parts: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.parts = self.parts or re.findall(r"\s*\S+|\s+$", self.text)
        if "".join(self.parts) != self.text or not all(self.parts):
            raise ValueError("The pieces are the text, cut, and none is empty.")

    def pieces(self, given: str, request: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        if not self.text.startswith(given):
            raise NoSuchPrompt(f"this model would never have said {given!r}")
        place = len(given)
        if request.get("raw") and request.get("think") is not False and self.text.startswith(THOUGHT, place):
            place += len(THOUGHT)  # taken for the beginning of a thought
        return self._after(place)

    def _after(self, place: int) -> Iterator[tuple[int, str]]:
        end = 0
        for number, part in enumerate(self.parts):
            end += len(part)
            if end > place:
                yield number, part[max(place - end, -len(part)) :]


def _limit(request: Mapping[str, Any], prompt: Prompt) -> int | None:
    """Lines that the answer may have; None: any number."""
    wanted = (request.get("options") or {}).get("num_predict")
    limits = [] if wanted is None or wanted < 0 else [int(wanted)]
    if request.get("shift") is False:
        limits.append(prompt.window - prompt.tokens)
    return min(limits, default=None)


def _context(request: Mapping[str, Any]) -> dict[str, Any]:
    return {} if "messages" in request or request.get("raw") else {"context": [1, 2, 3]}


def _load(request: Mapping[str, Any], runner: Runner) -> Whole:
    if request.get("keep_alive") in (0, "0", "0s"):
        runner.loaded, reason = None, "unload"
    else:
        runner.load(request)
        reason = "load"
    return Whole(200, speak(request, "", done=True, done_reason=reason))
