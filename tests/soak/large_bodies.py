"""A campaign of prompts with large images: none of them stays in memory."""

import asyncio
import base64
import os
import time
from collections.abc import Iterator

import asyncpg
import httpx

from tests.soak.alone import Alone, alone
from tests.soak.results import Result

IMAGE_BYTES = 15_000_000
"""Bytes of an image; 20 MB as base64."""

AT_ONCE = 3
"""Concurrent prompts."""

WARM_UP = 0.1
"""The share of prompts after which memory must not grow."""

GROWTH = 40.0
"""Growth of memory after the warm-up that is no leak, in megabytes: two images may be on their way more or less."""

ROUND = 30
"""Prompts after which memory is measured."""


async def large_bodies(count: int, seed: int) -> Result:
    """Send prompts with an image of 20 MB, see each reply to its end, and measure memory."""
    began = time.monotonic()
    image = base64.b64encode(os.urandom(IMAGE_BYTES)).decode()
    with alone() as site:
        connection = await asyncpg.connect(site.database_url)
        try:
            wrong, samples = await _send(site, connection, image, count)
        finally:
            await connection.close()
        wrong += [f"the log says: {alarm}" for alarm in site.program.alarms([])]
        shown = samples[:: len(samples) // 10 or 1]
        rows = {
            "prompts with an image of 20 MB, seen to their end": f"{count:,}, {AT_ONCE} at a time",
            "memory after so many": ", ".join(f"{done:,}: {rss:.0f} MB" for done, rss in shown),
            "memory, at most": f"{max(rss for _, rss in samples):.0f} MB",
            "time in all": f"{time.monotonic() - began:.0f} s",
        }
    warm = max(rss for done, rss in samples if done <= max(WARM_UP * count, samples[1][0]))
    if samples[-1][1] > warm + GROWTH:
        wrong.append(f"memory grew by {samples[-1][1] - warm:.0f} MB after the first {WARM_UP:.0%} of the prompts")
    return Result(f"Memory over {count:,} prompts with large images", rows, wrong)


async def _send(
    site: Alone, connection: asyncpg.Connection, image: str, count: int
) -> tuple[list[str], list[tuple[int, float]]]:
    wrong: list[str] = []
    samples = [(0, site.memory)]

    async def ask(http: httpx.AsyncClient, number: int) -> None:
        name = f"large-{number}"
        prompt = {"appID": name, "model": "fake", "messages": [{"role": "user", "content": "look", "images": [image]}]}
        response = await http.post("/llmchat", json=prompt)
        if '"done":true' not in response.text:
            wrong.append(f"{name}: {response.status_code} {response.text[-200:]}")
        await http.delete("/llmchat", params={"appID": name})

    async with httpx.AsyncClient(base_url=site.program.url, timeout=120, trust_env=False) as http:
        for done in range(0, count, ROUND):
            turns = iter(range(done, min(done + ROUND, count)))

            async def work(turns: Iterator[int] = turns) -> None:
                for number in turns:
                    await ask(http, number)

            await asyncio.gather(*(work() for _ in range(AT_ONCE)))
            samples.append((min(done + ROUND, count), site.memory))
            site.ollama.forget()  # it keeps all requests
            await connection.execute("VACUUM chatts")
    return wrong, samples
