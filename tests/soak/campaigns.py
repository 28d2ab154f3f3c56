"""The fault-injection campaigns: kill parts of a site while many replies stream and are watched."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tests.soak import (
    abuse,
    database_faults,
    embedded_deaths,
    grammar,
    large_bodies,
    ollama_deaths,
    plain_clients,
    window_kills,
)
from tests.soak.results import Result, judge
from tests.soak.site import DRAIN, Site
from tests.soak.traffic import RHYTHM, Plan, Traffic, inject, refusals
from tests.soak.upstream import InProcess
from tests.soak.viewer import Viewer

CUT_AFTER = 6_000
"""The most bytes of a response, including its head, that a viewer reads before it disconnects."""


async def kill_servers(count: int, seed: int, balancer: str = "haproxy", viewers: int = 50) -> Result:
    """Send SIGKILL to one of three servers."""
    with Site(balancer, InProcess(RHYTHM)) as site:

        async def die(number: int) -> float:
            killed = await site.kill(number)
            await site.revive(number)
            return killed

        title = f"{count} kill -9 of one of three servers behind {balancer}, {viewers} replies streaming"
        return (await inject(Plan(title, viewers, count, random.Random(seed)), site, die))[0]


async def kill_servers_behind_nginx(count: int, seed: int) -> Result:
    """Send SIGKILL to one of three servers behind nginx."""
    return await kill_servers(count, seed, "nginx", 20)


async def terminate_servers(count: int, seed: int) -> Result:
    """Send SIGTERM to the three servers in turn: rolling restarts."""
    drained: list[float] = []
    statuses: list[int] = []
    turns = iter(range(count))
    viewers = 50
    with Site("haproxy", InProcess(RHYTHM)) as site:

        async def die(_: int) -> float:
            number = next(turns) % 3
            began, took, status = await site.terminate(number)
            drained.append(took)
            statuses.append(status)
            await site.revive(number)
            return began + DRAIN  # replies go on until then; some always take longer

        title = f"{count} SIGTERMs, one server after the other, {viewers} replies streaming (--drain-timeout={DRAIN})"
        result, _ = await inject(Plan(title, viewers, count, random.Random(seed)), site, die)
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
    with Site("haproxy", InProcess(RHYTHM)) as site:

        async def die(_: int) -> float:
            killed = await site.kill_postgres()
            await site.revive_postgres()
            away.append(time.monotonic() - killed)
            await site.ready()
            return killed

        title = f"{count} kill -9 of PostgreSQL, {viewers} replies streaming"
        result, _ = await inject(Plan(title, viewers, count, random.Random(seed)), site, die)
    result.rows["PostgreSQL itself was away for, at most"] = f"{max(away):.2f} s"
    return result


async def cut_viewers(count: int, seed: int) -> Result:
    """Close viewers' connections at random bytes."""
    chance = random.Random(seed)
    viewers = 10
    began = time.monotonic()
    with Site("haproxy", InProcess(0.01)) as site:
        traffic = Traffic(viewers, chance, _clumsy_viewers(site, chance, lambda: traffic.cuts < count))
        while traffic.cuts < count:
            await asyncio.sleep(1)
        seen = await traffic.end()
        result = await judge(f"{traffic.cuts} cuts of a viewer's connection at a random byte", seen, site.database_url)
        result.rows |= refusals(seen)
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
    "faults": (database_faults.fail_statements, 100),
    "cut-viewers": (cut_viewers, 1_000),
    "terminate-servers": (terminate_servers, 100),
    "kill-servers-nginx": (kill_servers_behind_nginx, 10),
    "plain-clients": (plain_clients.plain_clients, 35),
    "kill-ollama": (ollama_deaths.kill_ollama, 20),
    "kill-ollama-of-two": (ollama_deaths.kill_ollama_of_two, 20),
    "kill-old-ollama": (ollama_deaths.kill_old_ollama, 10),
    "kill-runner": (ollama_deaths.kill_runner, 20),
    "kill-servers-modes": (ollama_deaths.kill_servers, 20),
    "kill-servers-window": (window_kills.kill_servers, 20),
    "kill-servers-summaries": (window_kills.kill_servers_with_summaries, 20),
    "kill-all": (ollama_deaths.kill_all, 20),
    "kill-embedded": (embedded_deaths.kill_embedded, 20),
    "kill-embedded-batched": (embedded_deaths.kill_embedded_batched, 20),
    "mutated-requests": (abuse.mutated_requests, 10_000),
    "grammar": (grammar.grammar, 50_000),
    "flood": (abuse.flood, 200),
    "memory": (abuse.memory, 10_000),
    "large-bodies": (large_bodies.large_bodies, 1_000),
}
"""The campaigns by name, each with its default number of faults or repetitions."""
