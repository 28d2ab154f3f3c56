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
"""Growth of memory after the warm-up that is no leak, in megabytes: caches fill, and parts of pages stay in use."""


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
            for share in (WARM_UP, 1 - WARM_UP):
                campaign.send(round(share * count))
    finally:
        postgres.stop()
        shutil.rmtree(folder)
    rows = results(campaign, began)
    wrong = campaign.verdict.wrong
    for name, (first, *rounds) in zip(("without TLS and tokens", "with both"), campaign.memory, strict=True):
        if len(rounds) < 2:
            continue  # it has died, which is among what is wrong
        warm, last = rounds
        rows[f"memory of the server {name}"] = (
            f"{first.used:.0f} MB, {warm.used:.0f} MB after a fifth of them, {last.used:.0f} MB after all; "
            f"with what malloc keeps for later {last.resident:.0f} MB"
        )
        if last.used > warm.used + GROWTH:
            wrong.append(f"memory of the server {name} grew by {last.used - warm.used:.0f} MB after the warm-up")
    return Result(f"{count:,} requests of a grammar", rows, wrong)


def _new_database(url: str, name: str) -> str:
    """Create a database beside another, and return its URL."""
    execute(url, f"CREATE DATABASE {name}")
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
