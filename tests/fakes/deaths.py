"""How an answer ends that nobody stopped: runner or Ollama dies, a proxy finds nobody, a model repeats itself."""

import asyncio
from dataclasses import dataclass

from .lines import encode, ndjson, speak
from .script import Answer, Head, Step, Whole

RUNNER_DIED = "an error was encountered while running the model: unexpected EOF"

REPEATED = 31
"""Lines with the same token after which Ollama ends an answer (llm/server.go, Completion)."""


class RunnerDies(Step):
    """The runner dies in mid-answer: Ollama says so in a line and ends cleanly. Before the first line: a 500."""

    ends = True

    async def play(self, answer: Answer) -> None:
        error = encode({"error": RUNNER_DIED})
        answer.runner.loaded = None
        if not answer.request.sent:
            return await Whole(500, error).play(answer)
        await answer.body(ndjson(error))
        await answer.end()


@dataclass(eq=False)
class OllamaDies(Step):
    """Ollama dies: every connection is reset, and new ones are refused until ``listen_again``.

    :param broken: the piece of a line that is sent before.
    :param back_after: seconds after which it listens again by itself; None: it does not.
    """

    broken: bytes = b""
    back_after: float | None = None
    ends = True

    async def play(self, answer: Answer) -> None:
        if self.broken:
            if not answer.request.sent:
                await Head().play(answer)
            await answer.body(self.broken)
        answer.kill(self.back_after)
        await asyncio.Event().wait()  # the death ends this


@dataclass(eq=False)
class Repeats(Step):
    """A model says one token again and again, until Ollama ends the answer: cleanly, without ``done``."""

    token: str = "w0 "
    ends = True

    async def play(self, answer: Answer) -> None:
        if not answer.request.sent:
            await Head().play(answer)
        for _ in range(REPEATED):
            await answer.body(ndjson(speak(answer.request.json, self.token)))
        await answer.end()


def no_backend(status: int = 503) -> Whole:
    """What a proxy answers whose Ollama is away: 502 or 503, a page (HAProxy's)."""
    reason = {502: "Bad Gateway", 503: "Service Unavailable"}[status]
    page = f"<html><body><h1>{status} {reason}</h1>\nNo server is available to handle this request.\n</body></html>\n"
    return Whole(status, page.encode(), "text/html")
