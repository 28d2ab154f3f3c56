"""Campaigns with the embedded model: a reply that was cut and continued has the text of one that was not.

That holds where the model itself is exact. When Ollama dies, the new one reads the words so far as a prompt. llama.cpp
evaluates prompts in batches, which round sums otherwise than the generation of one token after the other, and where two
tokens are almost equally likely the other one may win. Evaluated token by token, the texts are identical.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx

from tests.soak.results import Result, judge_plain, percentiles
from tests.soak.site import Site
from tests.soak.upstream import Processes, embedded
from tests.soak.viewer import Seen, Viewer

MODEL = "smollm2"

TOKENS = 60
"""The longest reply."""

LEFT = 3
"""Lines that an uninterrupted reply has after the latest death, so that there is something to continue."""

QUESTIONS = (
    "Tell me a short story about a lighthouse.",
    "Why is the sky blue?",
    "Describe a walk through a forest in autumn.",
    "What is a database transaction?",
    "Write a letter to a friend who has moved away.",
    "How is bread made?",
    "Explain how a bicycle stays upright.",
    "Describe the city of Paris.",
    "Name some animals of the sea and what they eat.",
    "What does a load balancer do?",
)
"""What the model is asked, in turn."""


@dataclass(frozen=True)
class Case:
    """One reply that was not cut, and the same one cut.

    :ivar killed: what died: ``Ollama`` or ``chatterd``.
    :ivar after: how many lines the viewer had then.
    """

    killed: str
    after: int
    whole: str
    continued: Seen

    @property
    def identical(self) -> bool:
        return self.whole == self.continued.text

    @property
    def pause(self) -> float:
        """The longest time between two lines, in seconds."""
        return max((later - before for before, later in itertools.pairwise(self.continued.times)), default=0.0)

    def difference(self) -> str:
        """Describe where the texts differ."""
        pairs = enumerate(zip(self.whole, self.continued.text, strict=False))
        at = next((place for place, (one, other) in pairs if one != other), len(self.whole))
        return (
            f"{self.continued.name}, {self.killed} killed after line {self.after}: the texts differ at character {at}: "
            f"{self.whole[max(0, at - 20) : at + 20]!r}, continued {self.continued.text[max(0, at - 20) : at + 20]!r}"
        )


async def _begin(site: Site, server: int, name: str, question: str) -> Viewer:
    """Begin a reply whose owner is that server; return its viewer, behind the balancer."""
    body: Mapping[str, Any] = {
        "appID": name,
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "options": {"num_predict": TOKENS, "temperature": 0, "seed": 1},
    }
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        response = await client.post(
            f"{site.servers[server].url}/llmchat", json=body, headers={"Prefer": "respond-async"}
        )
    viewer = Viewer(site.port, name, 0, random.Random(name))
    viewer.seen.path = response.raise_for_status().headers["Location"]
    return viewer


async def _cut(viewer: Viewer, after: int, die: Callable[[], Awaitable[None]]) -> Seen:
    """Watch a reply to its end; let something die when its viewer has so many lines."""
    watching = asyncio.create_task(viewer.watch())
    while len(viewer.seen.events) < after and not watching.done():
        await asyncio.sleep(0.002)
    await die()
    return await watching


async def _case(site: Site, upstream: Processes, number: int, chance: random.Random) -> Case:
    question, server = QUESTIONS[number // 2 % len(QUESTIONS)], chance.randrange(3)
    whole = await (await _begin(site, server, f"whole-{number}", question)).watch()
    after = chance.randint(1, max(1, len(whole.events) - LEFT))
    killed = "Ollama" if number % 2 == 0 else "chatterd"

    async def die() -> None:
        if killed == "Ollama":
            await upstream.kill(0)
        else:
            await site.kill(server)
            await site.revive(server)

    seen = await _cut(await _begin(site, server, f"cut-{number}", question), after, die)
    return Case(killed, after, whole.text, seen)


async def kill_embedded(count: int, seed: int) -> Result:
    """Kill the embedded model, or a reply's owner, at a random token of each reply; all texts must be identical."""
    result, cases = await _campaign(count, seed, exact=True)
    result.wrong += [case.difference() for case in _different(cases)]
    return result


async def kill_embedded_batched(count: int, seed: int) -> Result:
    """Do the same with prompts in batches, as the model is run by default; count how many texts are identical."""
    result, cases = await _campaign(count, seed, exact=False)
    result.rows |= {f"different text {number}": case.difference() for number, case in enumerate(_different(cases), 1)}
    return result


def _different(cases: list[Case]) -> list[Case]:
    return [case for case in cases if not case.identical]


async def _campaign(count: int, seed: int, exact: bool) -> tuple[Result, list[Case]]:
    chance, began, upstream = random.Random(seed), time.monotonic(), embedded(exact)
    cases: list[Case] = []
    with Site("haproxy", upstream) as site:
        await site.ready()
        for number in range(count):
            cases.append(await _case(site, upstream, number, chance))
            if number % 10 == 9:
                print(f"  {number + 1} of {count} after {time.monotonic() - began:.0f} s", flush=True)
        prompts = "token by token" if exact else "in batches"
        title = f"{count} replies of the embedded model (greedy, prompts {prompts}), each cut once at a random token"
        result = await judge_plain(title, [case.continued for case in cases], site.database_url)
        result.rows |= await _counted(site.database_url)
        result.rows["errors in the servers' logs"] = str(dict(site.alarms()) or "none")
    for killed in ("Ollama", "chatterd"):
        result.rows |= _rows(killed, [case for case in cases if case.killed == killed])
    result.rows["time in all"] = f"{time.monotonic() - began:.0f} s"
    return result, cases


def _rows(killed: str, cases: list[Case]) -> dict[str, str]:
    identical = sum(case.identical for case in cases)
    return {
        f"kill -9 of {killed}: texts identical to uninterrupted ones": f"{identical} of {len(cases)}",
        f"kill -9 of {killed}: viewer's longest pause, p50 / p99 / max": percentiles(case.pause for case in cases),
    }


async def _counted(database_url: str) -> dict[str, str]:
    connection = await asyncpg.connect(database_url)
    try:
        row = await connection.fetchrow("SELECT sum(continuations) AS continued, sum(attempts) AS adopted FROM replies")
    finally:
        await connection.close()
    assert row is not None
    return {
        "continuations counted (replies.continuations)": str(row["continued"]),
        "adoptions counted (replies.attempts)": str(row["adopted"]),
    }
