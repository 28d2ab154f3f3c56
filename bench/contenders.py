"""Who is put under test: chatterd, with and without its log, and the peers of bench/peers."""

import os
import re
from collections.abc import Callable, Sequence

from bench.machine import PYTHON
from bench.peers import PEERS, Peer
from bench.postgres import PEERS_TABLE
from bench.servers import Contender

OPTIONS = ("--max-replies=4000", "--embedded-model=false", "--drain-timeout=0", "--logging=warning")

RUST = "rust"
"""The key of the peer that all others are compared with."""


def _python(*program: str) -> Callable[[int, str], Sequence[str]]:
    def command(port: int, ollama: str) -> Sequence[str]:
        return [str(PYTHON), *program, f"--port={port}", f"--ollama-host={ollama}", *OPTIONS]

    return command


def _environment(port: int, ollama: str, database_url: str) -> dict[str, str]:
    return os.environ | {"DATABASE_URL": database_url}


def _set_up_already() -> None:
    """``make bench`` has done that."""


CHATTERD = Contender(
    key="chatterd",
    label="chatterd",
    command=_python("server.py"),
    environment=_environment,
    set_up=_set_up_already,
    durable=True,
    ready_path="/readyz",
)

WITHOUT_LOG = Contender(
    key="without-log",
    label="chatterd without its log",
    command=_python("-m", "bench.without_log"),
    environment=_environment,
    set_up=_set_up_already,
    ready_path="/readyz",
)


def _peer(peer: Peer) -> Contender:
    words = re.findall(r"\w+", peer.name)
    return Contender(
        key=RUST if "Rust" in words else words[0].lower(),
        label=peer.name,
        command=peer.command,
        environment=peer.environment,
        set_up=peer.set_up,
        tables=PEERS_TABLE,
    )


CONTENDERS = [CHATTERD, WITHOUT_LOG, *map(_peer, PEERS)]
"""All, in the order of the table."""
