"""Idle viewers: connections that have received the lines of a silent reply and wait for more."""

import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from bench.errors import BenchError
from bench.measuring import processes
from bench.measuring.load_generator import Traffic
from bench.measuring.site import Site
from bench.measuring.values import Values
from bench.servers.server import get

LINES = 10
SETTLE = 1.0
"""Seconds between the last viewer's first event and the reading of the server's memory."""


def idle(site: Site, counts: Sequence[int]) -> Iterator[tuple[int, Values]]:
    """Yield the server's memory with more and more idle viewers of one reply.

    :param counts: numbers of viewers, ascending.
    """
    traffic = Traffic(streams=1, rate=100, lines=LINES, appid="idle", hold=True)
    with site.load(traffic) as load, ExitStack() as connections:
        load.wait_for("steady")
        time.sleep(traffic.seconds)
        path = _reply_path(site)
        opened = 0
        for count in counts:
            for _ in range(count - opened):
                connections.enter_context(_view(site.server.port, path))
            opened = count
            time.sleep(SETTLE)
            memory = processes.memory(site.server.pid)
            yield count, {"rss": memory.rss, "uss": memory.uss}


def _reply_path(site: Site) -> str:
    body = get(site.server.port, "/llmchat?appID=idle-0")[1]
    return f"/llmchat/{json.loads(body)['reply']['id']}"


def _view(port: int, path: str) -> socket.socket:
    """Request a reply and read its lines."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    received = b""
    while received.count(b"\ndata:") < LINES:
        try:
            read = connection.recv(65_536)
        except TimeoutError:
            read = b""
        if not read:
            connection.close()
            raise BenchError(f"a viewer received only {received[-100:]!r}")
        received += read
    return connection
