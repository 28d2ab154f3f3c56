"""A campaign in which servers die while conversations outgrow the model's window: cuts hold, whoever continues."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.soak.results import LETTERS, Result
from tests.soak.site import Site
from tests.soak.traffic import RHYTHM, Plan, inject
from tests.soak.upstream import InProcess, TimedWords
from tests.soak.viewer import Viewer

VIEWERS = 30

WORDS = (30, 60)
"""The minimum and maximum number of words in a reply."""

WINDOW = 300
"""Words that the model holds: a conversation fills half of it in three turns."""

_AS_LETTERS = str.maketrans("0123456789", LETTERS)


class LetterWords(TimedWords):
    """Says words of letters: a tokenizer makes about one token of each, as this model does, but two or three of w17."""

    def pieces(self, given: str, request: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        return ((number, text.translate(_AS_LETTERS)) for number, text in super().pieces(given, request))


Messages = Sequence[dict[str, Any]]


async def kill_servers(count: int, seed: int) -> Result:
    """Send SIGKILL to one of three servers; each viewer has one conversation that goes on and on."""
    chance = random.Random(seed)
    upstream = InProcess(RHYTHM, LetterWords)
    with Site("haproxy", upstream) as site:

        async def die(number: int) -> float:
            killed = await site.kill(number)
            await site.revive(number)
            return killed

        def make(name: str) -> Viewer:
            _, slot, _ = name.split("-")
            words = chance.randint(*WORDS)
            request = {"appID": f"window-{slot}", "options": {"num_ctx": WINDOW, "num_predict": words}}
            return Viewer(site.port, name, words, chance, chance.random() < 0.5, request=request)

        title = f"{count} kill -9 of one of three servers, {VIEWERS} conversations outgrow a window of {WINDOW}"
        plan = Plan(title, VIEWERS, count, chance, make=make)
        result, _ = await inject(plan, site, die)
        conversations = _conversations(upstream)
    turns, blocks = _count(conversations, result.wrong)
    *before, last = result.rows.items()
    result.rows = {
        **dict(before),
        "prompts sent, beginnings of conversations": f"{turns:,}, {blocks:,}",
        **dict([last]),
    }
    return result


def _conversations(upstream: InProcess) -> dict[str, list[Messages]]:
    """Return the messages of each chat request, by conversation, in order."""
    found: dict[str, list[Messages]] = {}
    for request in upstream.generations:
        if request.path == "/api/chat":
            key = request.headers["x-conversation-key"]
            found.setdefault(key, []).append(request.json["messages"])
    return found


def _count(conversations: dict[str, list[Messages]], wrong: list[str]) -> tuple[int, int]:
    """Count prompts, and how often the beginning of one differs from that of the one before it."""
    blocks = 0
    for key, requests in conversations.items():
        blocks += 1
        for before, after in itertools.pairwise(requests):
            if after[: len(before)] == before:
                continue
            blocks += 1
            if after[0]["role"] != "user" or after[0] not in before:
                wrong.append(f"conversation {key} begins with a message that was not sent before: {after[0]}")
    turns = sum(map(len, conversations.values()))
    if blocks > turns / 2:
        wrong.append(f"{turns} prompts have {blocks} beginnings")
    return turns, blocks
