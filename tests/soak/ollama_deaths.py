"""Campaigns in which Ollama, its runner or a chatterd dies while replies of models in all modes stream."""

import collections
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import asyncpg

from tests.soak.results import Result, percentiles
from tests.soak.site import Site
from tests.soak.traffic import RHYTHM, Plan, inject
from tests.soak.upstream import Processes, scripted
from tests.soak.viewer import Seen, Viewer

VIEWERS = 50

WORDS = (30, 60)
"""The minimum and maximum number of words in a reply: with :data:`GAP`, few enough that no reply sees six deaths."""

GAP = (2.0, 3.5)
"""The minimum and maximum of seconds from a recovery to the next death. Five deaths of its Ollama end a reply."""

AWAY = (0.0, 1.0)
"""The minimum and maximum of seconds before a dead Ollama is started again."""

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]

KINDS: Mapping[str, Mapping[str, Any]] = {
    "open": {"model": "open"},
    "closed": {"model": "closed"},
    "echo": {"model": "echo"},
    "open with tools": {"model": "open", "tools": TOOLS},
    "echo with tools": {"model": "echo", "tools": TOOLS},
}
"""Kinds of requests. With tools a reply is continued as a chat, else as a raw prompt. (Closed with tools is not.)"""

Die = Callable[[], Awaitable[float]]


def kind_of(name: str) -> str:
    """Return a reply's kind: those of one viewer take turns, and so do the viewers."""
    _, slot, turn = name.split("-")
    return list(KINDS)[(int(slot) + int(turn)) % len(KINDS)]


class Deaths:
    """The ways in which parts of a site die, each a function without parameters that returns the time.

    :ivar away: how long an Ollama was dead, each time.
    """

    def __init__(self, site: Site, upstream: Processes, chance: random.Random) -> None:
        self.away: list[float] = []
        self._site = site
        self._upstream = upstream
        self._chance = chance

    async def _kill(self, *numbers: int) -> float:
        killed, away = await self._upstream.kill(*numbers, away=self._chance.uniform(*AWAY))
        self.away.append(away)
        return killed

    def _one(self) -> int:
        return self._chance.randrange(len(self._upstream.processes))

    async def ollamas(self) -> float:
        """Kill all Ollamas, and start them again after a moment."""
        return await self._kill(*range(len(self._upstream.processes)))

    async def ollama(self) -> float:
        """Kill one of the Ollamas, and start it again after a moment."""
        return await self._kill(self._one())

    async def runner(self) -> float:
        """Let the runner of one of the Ollamas die."""
        return self._upstream.processes[self._one()].kill_runner()

    async def server(self) -> float:
        """Kill a chatterd, and start it again."""
        number = self._chance.randrange(3)
        killed = await self._site.kill(number)
        await self._site.revive(number)
        return killed


async def _campaign(
    what: str, count: int, seed: int, ollamas: int, choose: Callable[[Deaths], Sequence[Die]], effect: str
) -> Result:
    """Inject the chosen deaths in turn."""
    chance = random.Random(seed)
    upstream = scripted(RHYTHM, ollamas)
    with Site("haproxy", upstream) as site:
        deaths = Deaths(site, upstream, chance)
        turns = itertools.cycle(choose(deaths))

        async def die(_: int) -> float:
            return await next(turns)()

        title = f"{count} {what}, {VIEWERS} replies streaming"
        plan = Plan(title, VIEWERS, count, chance, GAP, effect, _viewers(site, chance))
        result, seen = await inject(plan, site, die)
        rows = await _continuations(seen, site.database_url)
    if deaths.away:
        rows["dead until all Ollamas answered again: p50 / p99 / max"] = percentiles(deaths.away)
    result.rows = _insert(result.rows, rows)
    return result


def _insert(rows: dict[str, str], more: dict[str, str]) -> dict[str, str]:
    """Return the rows with more of them before the last one, the time in all."""
    *before, last = rows.items()
    return {**dict(before), **more, **dict([last])}


def _viewers(site: Site, chance: random.Random) -> Callable[[str], Viewer]:
    def make(name: str) -> Viewer:
        words, by_post = chance.randint(*WORDS), chance.random() < 0.5
        return Viewer(site.port, name, words, chance, by_post, request=KINDS[kind_of(name)])

    return make


async def _continuations(seen: Iterable[Seen], database_url: str) -> dict[str, str]:
    """Return what the replies' rows have counted, and how many replies of each kind were continued."""
    connection = await asyncpg.connect(database_url)
    try:
        found = await connection.fetch("SELECT appid, continuations, attempts FROM replies")
    finally:
        await connection.close()
    continued = {row["appid"] for row in found if row["continuations"] or row["attempts"]}
    all_of = collections.Counter(kind_of(one.name) for one in seen)
    of = collections.Counter(kind_of(one.name) for one in seen if one.name in continued)
    counts = [row["continuations"] for row in found]
    return {
        "continuations counted (replies.continuations), most of one reply": f"{sum(counts):,}, {max(counts)}",
        "adoptions counted (replies.attempts)": f"{sum(row['attempts'] for row in found):,}",
        "replies continued, of those of each kind": ", ".join(f"{kind} {of[kind]} of {all_of[kind]}" for kind in KINDS),
    }


async def kill_ollama(count: int, seed: int) -> Result:
    """Send SIGKILL to the only Ollama."""
    what = "kill -9 of the only Ollama"
    return await _campaign(what, count, seed, 1, lambda deaths: [deaths.ollama], "its reply was continued")


async def kill_ollama_of_two(count: int, seed: int) -> Result:
    """Send SIGKILL to one of two Ollamas behind HAProxy."""
    what = "kill -9 of one of two Ollamas behind HAProxy"
    return await _campaign(what, count, seed, 2, lambda deaths: [deaths.ollama], "its reply was continued")


async def kill_runner(count: int, seed: int) -> Result:
    """Let Ollama's runner die in mid-answer."""
    what = "deaths of the only Ollama's runner"
    return await _campaign(what, count, seed, 1, lambda deaths: [deaths.runner], "its reply was continued")


async def kill_servers(count: int, seed: int) -> Result:
    """Send SIGKILL to one of three servers."""
    what = "kill -9 of one of three servers, models in all modes"
    return await _campaign(what, count, seed, 1, lambda deaths: [deaths.server], "its reply's owner died")


async def kill_all(count: int, seed: int) -> Result:
    """Kill, in turn, one of two Ollamas, a runner, a server, both Ollamas."""
    what = (
        "deaths in turn (kill -9 of one of two Ollamas behind HAProxy, a runner, kill -9 of a server, of both Ollamas)"
    )

    def choose(deaths: Deaths) -> Sequence[Die]:
        return [deaths.ollama, deaths.runner, deaths.server, deaths.ollamas]

    return await _campaign(what, count, seed, 2, choose, "its reply was continued")
