"""A campaign of requests that a grammar makes, to two servers: without TLS and tokens, and with both."""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from embedded.postgres import EmbeddedPostgres
from tests.database import execute
from tests.fakes.ollama import ScriptedOllama
from tests.hostile.grammar.attempts import Sizes
from tests.hostile.grammar.campaign import Campaign, results, two_servers
from tests.soak.results import Result

SIZES = Sizes(rare=100, most=33_000_000)
"""Bytes of values; the largest bodies are about as large as they may be."""

WARM_UP = 0.2
"""The share of requests after which memory must not grow."""

GROWTH = 30.0
"""Growth of memory after the warm-up that is no leak, in megabytes: malloc keeps parts of what large bodies took."""


async def grammar(count: int, seed: int) -> Result:
    """Send requests of the grammar."""
    return await asyncio.to_thread(_grammar, count, seed)


def _grammar(count: int, seed: int) -> Result:
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="chatterd-soak-"))
    postgres = EmbeddedPostgres(folder / "postgres")
    try:
        urls = [_new_database(postgres.start(), name) for name in ("plain", "secure")]
        with ScriptedOllama() as ollama, two_servers(urls, ollama, folder) as servers:
            campaign = Campaign(servers, ollama, seed, SIZES)
            memory = [campaign.memory]
            for share in (WARM_UP, 1 - WARM_UP):
                campaign.send(round(share * count))
                memory.append(campaign.memory)
    finally:
        postgres.stop()
        shutil.rmtree(folder)
    rows = results(campaign, began)
    wrong = campaign.verdict.wrong
    for number, (first, warm, last) in enumerate(zip(*memory, strict=True)):
        name = ("plain", "with TLS and tokens")[number]
        rows[f"memory of the server {name}"] = f"{first:.0f} MB, {warm:.0f} MB after a fifth, {last:.0f} MB after all"
        if last > warm + GROWTH:
            wrong.append(f"memory of the server {name} grew by {last - warm:.0f} MB after the first {WARM_UP:.0%}")
    return Result(f"{count:,} requests of a grammar", rows, wrong)


def _new_database(url: str, name: str) -> str:
    """Create a database beside another, and return its URL."""
    execute(url, f"CREATE DATABASE {name}")
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
