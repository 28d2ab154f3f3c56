"""Campaigns against one chatterd: mutated requests, a flooding Ollama, tens of thousands of replies."""

import asyncio
import random
import time
from functools import partial

from tests.client import Client
from tests.fakes.ollama import Answer, Close, Head, Step, line, ndjson
from tests.hostile.campaign import results, send_mutated
from tests.soak.alone import MEGABYTE, Alone, alone
from tests.soak.results import Result
from tests.soak.viewer import Seen, Viewer

AT_ONCE = 20
"""Concurrent replies."""

WARM_UP = 0.2
"""The share of replies after which caches count as filled."""

GROWTH = 4.0
"""Growth of memory after the warm-up that is no leak, in megabytes: malloc and the PostgreSQL driver vary."""


async def mutated_requests(count: int, seed: int) -> Result:
    """Send invalid requests."""
    return await asyncio.to_thread(_mutated_requests, count, seed)


def _mutated_requests(count: int, seed: int) -> Result:
    began = time.monotonic()
    with alone() as site:
        before = site.memory
        verdict = send_mutated(site.program, site.ollama, site.database_url, seed, range(count))
        wrong = verdict.wrong + [f"the log says: {alarm}" for alarm in site.program.alarms([])]
        rows = results(verdict, seed, began)
        rows["memory before, after"] = f"{before:.1f} MB, {site.memory:.1f} MB"
    return Result(f"{count:,} mutated requests", rows, wrong)


async def memory(count: int, seed: int) -> Result:
    """Run many replies whose viewers disconnect at random, and measure memory."""
    began = time.monotonic()
    with alone() as site:
        wrong, seen, samples = await _take(site, count, random.Random(seed))
        rows = {
            "replies, seen to their end": f"{sum(one.ended for one in seen):,}",
            "connections that the viewers cut": f"{sum(one.cuts for one in seen):,}",
            "open files at first, in the end": f"{samples[0][2]}, {samples[-1][2]}",
            "memory after so many replies": ", ".join(f"{done:,}: {rss:.1f} MB" for done, rss, _ in samples),
            "time in all": f"{time.monotonic() - began:.0f} s",
        }
        wrong += [f"the log says: {alarm}" for alarm in site.program.alarms([])]
    warm = next(rss for done, rss, _ in samples if done >= WARM_UP * count)
    if samples[-1][1] > warm + GROWTH:
        wrong.append(f"memory grew by {samples[-1][1] - warm:.1f} MB after the first {WARM_UP:.0%} of the replies")
    if not all(one.ended for one in seen):
        wrong.append(f"{sum(not one.ended for one in seen)} replies never ended")
    return Result(f"Memory over {count:,} replies", rows, wrong)


async def _take(
    site: Alone, count: int, chance: random.Random
) -> tuple[list[str], list[Seen], list[tuple[int, float, int]]]:
    """Watch so many replies; return errors, results, and samples of (replies, memory, open files)."""
    seen: list[Seen] = []
    samples = [(0, site.memory, site.files)]
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            cuts = iter([chance.choice([None, 0, 300, 2_000])])
            cut = partial(next, cuts, None)  # the first connection only
            viewer = Viewer(site.port, f"memory-{number}", 20, chance, chance.random() < 0.5, cut)
            seen.append(await viewer.watch())
            if len(seen) % (count // 10) == 0:
                samples.append((len(seen), site.memory, site.files))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    wrong = [f"{one.name}: lines {[event.id for event in one.events]}" for one in seen if not _right(one)]
    return wrong, seen, samples


def _right(one: Seen) -> bool:
    return [event.id for event in one.events] == [*range(one.words + 1)]


class Flood(Step):
    """Sends ``megabytes`` of lines as fast as they are read."""

    def __init__(self, piece: bytes, megabytes: int) -> None:
        self._block = piece * (65_536 // len(piece))
        self._count = megabytes * MEGABYTE // len(self._block)

    async def play(self, answer: Answer) -> None:
        await Head(chunked=False).play(answer)
        for _ in range(self._count):
            await answer.send(self._block)
        await Close().play(answer)


FLOODS = {"lines of 1 kB": ndjson(line("x" * 900)), "lines of 14 bytes": b'{"model":"m"}\n', "no end of a line": b"x"}


async def flood(count: int, seed: int) -> Result:
    """Send megabytes from Ollama as fast as they are read."""
    return await asyncio.to_thread(_flood, count)


def _flood(count: int) -> Result:
    began = time.monotonic()
    rows: dict[str, str] = {}
    wrong: list[str] = []
    for name, piece in FLOODS.items():
        with alone() as site:
            site.ollama.script(Flood(piece, count))
            client = Client(site.program.url)
            before = most = site.memory
            with client.http, client.prompt("hi") as stream:
                number, last = 0, None
                while (event := stream.next()) is not None:
                    number, last = number + 1, event
                    if number % 1_000 == 0:
                        most = max(most, site.memory)
            most = max(most, site.memory)
            error = last.json.get("error") if last else None
            sent = site.ollama.generations[0].sent / MEGABYTE
            rows[name] = f"{sent:.0f} MB read; memory {before:.0f} MB, at most {most:.0f} MB; the end: {error}"
            wrong += [f"the log says: {alarm}" for alarm in site.program.alarms([])]
            if not error:
                wrong.append(f"{name}: no error at the end")
    rows["time in all"] = f"{time.monotonic() - began:.0f} s"
    return Result(f"An Ollama that sends {count:,} MB as fast as it can", rows, wrong)
