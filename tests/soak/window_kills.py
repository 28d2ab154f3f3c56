"""A campaign in which servers die while conversations outgrow the model's window: cuts hold, whoever continues."""

import asyncio
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.soak.results import LETTERS, Result
from tests.soak.site import Site
from tests.soak.traffic import RHYTHM, Plan, inject
from tests.soak.upstream import InProcess, TimedWords
from tests.soak.viewer import Seen, Viewer

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


class ThinkingViewer(Viewer):
    """Reads the reply before, and types: in this time a summary is made."""

    async def watch(self) -> Seen:
        await asyncio.sleep(random.uniform(0, 1))
        return await super().watch()


Messages = Sequence[dict[str, Any]]


async def kill_servers_with_summaries(count: int, seed: int) -> Result:
    """Send SIGKILL to one of three servers that summarise what they leave out of conversations."""
    return await kill_servers(count, seed, summarize=True)


async def kill_servers(count: int, seed: int, summarize: bool = False) -> Result:
    """Send SIGKILL to one of three servers; each viewer has one conversation that goes on and on."""
    chance = random.Random(seed)
    upstream = InProcess(RHYTHM, LetterWords)
    with Site("haproxy", upstream, summarize=summarize) as site:

        async def die(number: int) -> float:
            killed = await site.kill(number)
            await site.revive(number)
            return killed

        def make(name: str) -> Viewer:
            _, slot, _ = name.split("-")
            words = chance.randint(*WORDS)
            request = {"appID": f"window-{slot}", "options": {"num_ctx": WINDOW, "num_predict": words}}
            kind = ThinkingViewer if summarize else Viewer
            return kind(site.port, name, words, chance, chance.random() < 0.5, request=request)

        title = f"{count} kill -9 of one of three servers, {VIEWERS} conversations outgrow a window of {WINDOW}"
        title += " (--summarize)" if summarize else ""
        plan = Plan(title, VIEWERS, count, chance, make=make)
        result, _ = await inject(plan, site, die)
        conversations = _conversations(upstream)
        summaries = sum(request.json.get("stream") is False for request in upstream.generations)
    turns, blocks = _count(conversations, result.wrong)
    *before, last = result.rows.items()
    result.rows = {
        **dict(before),
        "prompts sent, beginnings of conversations": f"{turns:,}, {blocks:,}",
        **(_count_summaries(conversations, summaries, result.wrong) if summarize else {}),
        **dict([last]),
    }
    return result


def _conversations(upstream: InProcess) -> dict[str, list[Messages]]:
    """Return the messages of each chat request, by conversation, in order."""
    found: dict[str, list[Messages]] = {}
    for request in upstream.generations:
        if request.path == "/api/chat" and request.json.get("stream") is not False:
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
            first = _without_summary(after)[0]
            if first["role"] != "user" or (first not in before and first is not after[-1]):
                wrong.append(f"conversation {key} begins with a message that was not sent before: {first}")
    turns = sum(map(len, conversations.values()))
    if blocks > turns / 2:
        wrong.append(f"{turns} prompts have {blocks} beginnings")
    return turns, blocks


def _without_summary(messages: Messages) -> Messages:
    return messages[1:] if messages[0]["role"] == "system" else messages


def _count_summaries(conversations: dict[str, list[Messages]], asked: int, wrong: list[str]) -> dict[str, str]:
    """Count the requests for summaries, and the prompts that were sent with one."""
    prompts = [messages for requests in conversations.values() for messages in requests]
    sent = sum(_without_summary(messages) is not messages for messages in prompts)
    if not sent:
        wrong.append("no prompt was sent with a summary")
    if any(message["role"] == "system" for messages in prompts for message in messages[1:]):
        wrong.append("a prompt was sent with two summaries, or with one in its middle")
    return {"summaries asked for, prompts with a summary": f"{asked:,}, {sent:,}"}
