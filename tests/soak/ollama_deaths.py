"""Campaigns in which Ollama, its runner or a chatterd dies while replies of models in all modes stream."""

import collections
import itertools
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
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
"""The minimum and maximum of seconds from a recovery to the next death. A sixth death of its Ollama ends a reply."""

LONG_GAP = (7.0, 9.0)
"""The same where a model may say all its words once more, unseen, which takes as long as it did at first."""

AWAY = (0.0, 1.0)
"""The minimum and maximum of seconds before a dead Ollama is started again."""

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]

Kinds = Mapping[str, Mapping[str, Any]]
"""Kinds of replies: fields of their requests, by name."""

KINDS: Kinds = {
    "open": {"model": "open"},
    "closed": {"model": "closed"},
    "echo": {"model": "echo"},
    "open with tools": {"model": "open", "tools": TOOLS},
    "echo with tools": {"model": "echo", "tools": TOOLS},
}
"""With tools a reply is continued as a chat, else as a raw prompt. (Closed with tools is not.)"""

OLD_KINDS: Kinds = {kind: KINDS[kind] for kind in ("open", "closed", "echo", "echo with tools")}
"""An Ollama that does not render prompts continues those of echo. Those of closed say the same words once more, which
are taken off; those of open are interrupted."""

Die = Callable[[], Awaitable[float]]


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


@dataclass
class Campaign:
    """What dies, and under which traffic.

    :ivar what: for the title.
    :ivar choose: the deaths, which take turns.
    :ivar effect: see :class:`tests.soak.traffic.Plan`.
    :ivar ollamas: how many; two are behind HAProxy.
    :ivar renders: whether they render prompts.
    :ivar gap: see :class:`tests.soak.traffic.Plan`.
    """

    what: str
    choose: Callable[[Deaths], Sequence[Die]]
    effect: str = "its reply was continued"
    ollamas: int = 1
    renders: bool = True
    kinds: Kinds = field(default_factory=lambda: KINDS)
    gap: tuple[float, float] = GAP

    def kind_of(self, name: str) -> str:
        """Return a reply's kind: those of one viewer take turns, and so do the viewers."""
        _, slot, turn = name.split("-")
        return list(self.kinds)[(int(slot) + int(turn)) % len(self.kinds)]

    def viewers(self, site: Site, chance: random.Random) -> Callable[[str], Viewer]:
        """Return what makes viewers of replies of all kinds."""

        def make(name: str) -> Viewer:
            words, by_post = chance.randint(*WORDS), chance.random() < 0.5
            return Viewer(site.port, name, words, chance, by_post, request=self.kinds[self.kind_of(name)])

        return make

    async def run(self, count: int, seed: int) -> Result:
        """Inject so many deaths."""
        chance = random.Random(seed)
        upstream = scripted(RHYTHM, self.ollamas, self.renders)
        with Site("haproxy", upstream) as site:
            deaths = Deaths(site, upstream, chance)
            turns = itertools.cycle(self.choose(deaths))

            async def die(_: int) -> float:
                return await next(turns)()

            title = f"{count} {self.what}, {VIEWERS} replies streaming"
            plan = Plan(title, VIEWERS, count, chance, self.gap, self.effect, self.viewers(site, chance))
            result, seen = await inject(plan, site, die)
            rows = await self._continuations(seen, site.database_url)
        if deaths.away:
            rows["dead until all Ollamas answered again: p50 / p99 / max"] = percentiles(deaths.away)
        result.rows = _insert(result.rows, rows)
        return result

    async def _continuations(self, seen: Sequence[Seen], database_url: str) -> dict[str, str]:
        """Return what the replies' rows have counted, and how many replies of each kind were continued."""
        connection = await asyncpg.connect(database_url)
        try:
            found = await connection.fetch("SELECT appid, status, continuations, attempts FROM replies")
        finally:
            await connection.close()
        continued = {row["appid"] for row in found if row["continuations"] or row["attempts"]}
        interrupted = {row["appid"] for row in found if row["status"] == "interrupted"}
        counts = [row["continuations"] for row in found]
        rows = {
            "continuations counted (replies.continuations), most of one reply": f"{sum(counts):,}, {max(counts)}",
            "adoptions counted (replies.attempts)": f"{sum(row['attempts'] for row in found):,}",
            "replies continued, of those of each kind": self._share(seen, continued - interrupted),
        }
        return rows | ({"replies interrupted, likewise": self._share(seen, interrupted)} if interrupted else {})

    def _share(self, seen: Sequence[Seen], names: Collection[str]) -> str:
        """Return, for each kind, how many of its replies are among the names."""
        all_of = collections.Counter(self.kind_of(one.name) for one in seen)
        of = collections.Counter(self.kind_of(one.name) for one in seen if one.name in names)
        return ", ".join(f"{kind} {of[kind]} of {all_of[kind]}" for kind in self.kinds)


def _insert(rows: dict[str, str], more: dict[str, str]) -> dict[str, str]:
    """Return the rows with more of them before the last one, the time in all."""
    *before, last = rows.items()
    return {**dict(before), **more, **dict([last])}


async def kill_ollama(count: int, seed: int) -> Result:
    """Send SIGKILL to the only Ollama."""
    return await Campaign("kill -9 of the only Ollama", lambda deaths: [deaths.ollama]).run(count, seed)


async def kill_ollama_of_two(count: int, seed: int) -> Result:
    """Send SIGKILL to one of two Ollamas behind HAProxy."""
    what = "kill -9 of one of two Ollamas behind HAProxy"
    return await Campaign(what, lambda deaths: [deaths.ollama], ollamas=2).run(count, seed)


async def kill_old_ollama(count: int, seed: int) -> Result:
    """Send SIGKILL to an Ollama that renders no prompts: see :data:`OLD_KINDS`."""
    what = "kill -9 of an old Ollama, which renders no prompts"
    campaign = Campaign(what, lambda deaths: [deaths.ollama], renders=False, kinds=OLD_KINDS, gap=LONG_GAP)
    return await campaign.run(count, seed)


async def kill_runner(count: int, seed: int) -> Result:
    """Let Ollama's runner die in mid-answer."""
    return await Campaign("deaths of the only Ollama's runner", lambda deaths: [deaths.runner]).run(count, seed)


async def kill_servers(count: int, seed: int) -> Result:
    """Send SIGKILL to one of three servers."""
    what = "kill -9 of one of three servers, models in all modes"
    return await Campaign(what, lambda deaths: [deaths.server], "its reply's owner died").run(count, seed)


async def kill_all(count: int, seed: int) -> Result:
    """Kill, in turn, one of two Ollamas, a runner, a server, both Ollamas."""
    what = (
        "deaths in turn (kill -9 of one of two Ollamas behind HAProxy, a runner, kill -9 of a server, of both Ollamas)"
    )

    def choose(deaths: Deaths) -> Sequence[Die]:
        return [deaths.ollama, deaths.runner, deaths.server, deaths.ollamas]

    return await Campaign(what, choose, ollamas=2).run(count, seed)
