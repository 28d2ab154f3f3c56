"""The fault-injection campaigns: kill parts of a site while many replies stream and are watched."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from db.processes import RECOVERY_GRACE
from tests.soak import abuse
from tests.soak.results import Result, judge, pauses
from tests.soak.site import DRAIN, Site
from tests.soak.viewer import Seen, Viewer

RHYTHM = 0.1
"""Seconds between two words of the model."""

WORDS = (60, 120)
"""The minimum and maximum number of words in a reply."""

CUT_AFTER = 6_000
"""The most bytes of a response, including its head, that a viewer reads before it disconnects."""


class Traffic:
    """A constant number of viewers: each begins a reply, watches it to its end, and begins the next.

    :param make: makes a viewer for the name of its reply.
    """

    def __init__(self, count: int, chance: random.Random, make: Callable[[str], Viewer]) -> None:
        self.seen: list[Seen] = []
        self.watching: dict[str, Seen] = {}
        self._chance = chance
        self._make = make
        self._on = True
        self._tasks = [asyncio.create_task(self._slot(number)) for number in range(count)]

    async def _slot(self, number: int) -> None:
        turn = 0
        while self._on:
            viewer = self._make(f"soak-{number}-{turn}")
            self.watching[viewer.seen.name] = viewer.seen
            self.seen.append(await viewer.watch())
            del self.watching[viewer.seen.name]
            turn += 1

    @property
    def cuts(self) -> int:
        """Return how often its viewers have closed their connections."""
        return sum(one.cuts for one in [*self.seen, *self.watching.values()])

    async def flow(self) -> None:
        """Wait until every viewer has seen a line of its reply."""
        async with asyncio.timeout(60):
            while sum(bool(seen.events) for seen in self.watching.values()) < 0.9 * len(self._tasks):
                await asyncio.sleep(0.05)

    async def end(self) -> list[Seen]:
        """Begin no more replies, and wait for the running ones."""
        self._on = False
        await asyncio.gather(*self._tasks)
        return self.seen


def _viewers(site: Site, chance: random.Random) -> Callable[[str], Viewer]:
    def make(name: str) -> Viewer:
        return Viewer(site.port, name, chance.randint(*WORDS), chance, by_post=chance.random() < 0.5)

    return make


@asynccontextmanager
async def _traffic(site: Site, viewers: int, chance: random.Random) -> AsyncIterator[Traffic]:
    traffic = Traffic(viewers, chance, _viewers(site, chance))
    await site.ready()
    await traffic.flow()
    await asyncio.sleep(RECOVERY_GRACE)  # just after the start of PostgreSQL no process is declared dead
    yield traffic


async def _deaths(
    title: str, site: Site, viewers: int, count: int, chance: random.Random, die: Callable[[int], Awaitable[float]]
) -> Result:
    """Inject a fault ``count`` times, each time after the site has recovered and every viewer sees a reply."""
    deaths = []
    began = time.monotonic()
    async with _traffic(site, viewers, chance) as traffic:
        for turn in range(count):
            await asyncio.sleep(chance.uniform(0.2, 1.2))  # avoids synchrony with timers
            deaths.append(await die(chance.randrange(3)))
            await traffic.flow()
            if turn % 10 == 9:
                print(f"  {turn + 1} of {count} after {time.monotonic() - began:.0f} s", flush=True)
        seen = await traffic.end()
    result = await judge(title, seen, site.database_url)
    _tell_more(site, result.wrong)
    result.rows |= pauses(seen, deaths, site.model.asked)
    result.rows |= _refusals(seen)
    result.rows["errors in the servers' logs"] = str(dict(site.alarms()) or "none")
    result.rows["time in all"] = f"{time.monotonic() - began:.0f} s"
    return result


def _tell_more(site: Site, wrong: list[str]) -> None:
    """Print the log lines about replies with failed checks, and the requests to the model."""
    for id in sorted(set(re.findall(r"/llmchat/([0-9a-f-]{36})", "\n".join(wrong)))):
        print(f"  {id}:", *site.said_of(id), sep="\n    ", flush=True)
    for name in sorted(set(re.findall(r"soak-\d+-\d+", "\n".join(wrong)))):
        asked = [said for _, prompt, said in site.model.asked if prompt == name]
        print(f"  {name}: the model was asked to go on after so many words: {asked}", flush=True)


def _refusals(seen: list[Seen]) -> dict[str, str]:
    found: dict[int, int] = {}
    for one in seen:
        for _, status in one.refusals:
            found[status] = found.get(status, 0) + 1
    told = ", ".join(f"{status}: {times}" for status, times in sorted(found.items()))
    return {"requests refused, and made again (status: times)": told or "none"}


async def kill_servers(count: int, seed: int, balancer: str = "haproxy", viewers: int = 50) -> Result:
    """Send SIGKILL to one of three servers."""
    with Site(balancer, RHYTHM) as site:

        async def die(number: int) -> float:
            killed = await site.kill(number)
            await site.revive(number)
            return killed

        title = f"{count} kill -9 of one of three servers behind {balancer}, {viewers} replies streaming"
        return await _deaths(title, site, viewers, count, random.Random(seed), die)


async def kill_servers_behind_nginx(count: int, seed: int) -> Result:
    """Send SIGKILL to one of three servers behind nginx."""
    return await kill_servers(count, seed, "nginx", 20)


async def terminate_servers(count: int, seed: int) -> Result:
    """Send SIGTERM to the three servers in turn: rolling restarts."""
    drained: list[float] = []
    statuses: list[int] = []
    turns = iter(range(count))
    viewers = 50
    with Site("haproxy", RHYTHM) as site:

        async def die(_: int) -> float:
            number = next(turns) % 3
            began, took, status = await site.terminate(number)
            drained.append(took)
            statuses.append(status)
            await site.revive(number)
            return began + DRAIN  # replies go on until then; some always take longer

        title = f"{count} SIGTERMs, one server after the other, {viewers} replies streaming (--drain-timeout={DRAIN})"
        result = await _deaths(title, site, viewers, count, random.Random(seed), die)
    result.rows["from SIGTERM to the process's end: slowest"] = f"{max(drained):.2f} s"
    if max(drained) > DRAIN + 2:
        result.wrong.append(f"a server took {max(drained):.2f} s to leave, with --drain-timeout={DRAIN}")
    if any(statuses):
        result.wrong.append(f"{sum(map(bool, statuses))} servers ended with a status other than 0")
    return result


async def kill_postgres(count: int, seed: int) -> Result:
    """Send SIGKILL to all processes of PostgreSQL, and start it again on its data."""
    away: list[float] = []
    viewers = 20
    with Site("haproxy", RHYTHM) as site:

        async def die(_: int) -> float:
            killed = await site.kill_postgres()
            await site.revive_postgres()
            away.append(time.monotonic() - killed)
            await site.ready()
            return killed

        title = f"{count} kill -9 of PostgreSQL, {viewers} replies streaming"
        result = await _deaths(title, site, viewers, count, random.Random(seed), die)
    result.rows["PostgreSQL itself was away for, at most"] = f"{max(away):.2f} s"
    return result


async def cut_viewers(count: int, seed: int) -> Result:
    """Close viewers' connections at random bytes."""
    chance = random.Random(seed)
    viewers = 10
    began = time.monotonic()
    with Site("haproxy", 0.01) as site:
        traffic = Traffic(viewers, chance, _clumsy_viewers(site, chance, lambda: traffic.cuts < count))
        while traffic.cuts < count:
            await asyncio.sleep(1)
        seen = await traffic.end()
        result = await judge(f"{traffic.cuts} cuts of a viewer's connection at a random byte", seen, site.database_url)
        result.rows |= _refusals(seen)
        result.rows["errors in the servers' logs"] = str(dict(site.alarms()) or "none")
    result.rows["time in all"] = f"{time.monotonic() - began:.0f} s"
    return result


def _clumsy_viewers(site: Site, chance: random.Random, on: Callable[[], bool]) -> Callable[[str], Viewer]:
    """Run viewers that close each connection after at most :data:`CUT_AFTER` bytes while ``on()`` is true."""

    def cut() -> int | None:
        return chance.randint(1, CUT_AFTER) if on() else None

    def make(name: str) -> Viewer:
        return Viewer(site.port, name, 200, chance, by_post=chance.random() < 0.5, cut=cut)

    return make


CAMPAIGNS: dict[str, tuple[Callable[[int, int], Coroutine[Any, Any, Result]], int]] = {
    "kill-servers": (kill_servers, 100),
    "kill-postgres": (kill_postgres, 20),
    "cut-viewers": (cut_viewers, 1_000),
    "terminate-servers": (terminate_servers, 100),
    "kill-servers-nginx": (kill_servers_behind_nginx, 10),
    "mutated-requests": (abuse.mutated_requests, 10_000),
    "flood": (abuse.flood, 200),
    "memory": (abuse.memory, 10_000),
}
"""The campaigns by name, each with its default number of faults or repetitions."""
