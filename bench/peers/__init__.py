"""The servers that chatterd is compared with.

Each relays Ollama as the tutorial's server does. It takes ``PORT``, ``OLLAMA_HOST`` and ``DATABASE_URL`` from its
environment, listens on 127.0.0.1, and is ready when the port accepts; SIGTERM ends it. It needs two file descriptors
for each stream and inherits the limit (``RLIMIT_NOFILE``), so the benchmark raises that first.
"""

import os
from collections.abc import Callable, Mapping, Sequence

from bench.peers import commands, setup
from bench.servers.contender import Contender

TABLES = """
    CREATE TABLE chatts (
        username varchar NOT NULL, message varchar NOT NULL, id uuid, appid varchar(155), time timestamptz DEFAULT now()
    );
    CREATE INDEX chatts_conversation ON chatts (appid, time);
"""
"""The table of the tutorial's server, with the index without which every prompt would scan all of it."""


def _environment(port: int, ollama: str, database_url: str) -> Mapping[str, str]:
    own = {"PORT": str(port), "OLLAMA_HOST": ollama, "DATABASE_URL": database_url, "NODE_ENV": "production"}
    return os.environ | own


def _peer(key: str, label: str, command: Callable[[int, str], Sequence[str]], set_up: Callable[[], None]) -> Contender:
    return Contender(key, label, command, _environment, setup.reporting_unavailable(set_up), tables=TABLES)


RUST = _peer("rust", "hyper + reqwest + tokio-postgres (Rust)", commands.rust, setup.rust)

PEERS = (
    RUST,
    _peer("fastapi", "FastAPI + aiohttp + asyncpg (Python)", commands.uvicorn("fastapi_aiohttp"), setup.python),
    _peer("starlette", "Starlette + httpx + psycopg (Python)", commands.uvicorn("starlette_httpx"), setup.python),
    _peer("node", "node:http + pg (Node.js)", commands.node, setup.node),
    # Passes bytes on: it answers in Ollama's NDJSON instead of events, and records nothing.
    _peer("nginx", "nginx, proxying only", commands.nginx, setup.nginx),
)
