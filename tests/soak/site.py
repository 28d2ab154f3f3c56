"""A whole site on this machine: PostgreSQL, what is asked for text, three chatterds and a load balancer."""

import asyncio
import collections
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from embedded.postgres import EmbeddedPostgres
from tests.balancers import Balancer, free_ports
from tests.program import Program
from tests.soak.upstream import Upstream

DRAIN = 2
"""Seconds that a server waits for its replies after SIGTERM."""

ERROR = re.compile(r"^\[E [^]]*\](.*)\n((?:    .*\n)*)", re.MULTILINE)
"""Matches a log entry of level error: its message and stack trace."""


class Site:
    """The processes of a site.

    :param balancer: ``haproxy`` or ``nginx``.
    :param upstream: what the servers ask for text.
    :param settings: of the servers.
    """

    def __init__(self, balancer: str, upstream: Upstream, **settings: object) -> None:
        self.upstream = upstream
        self._balancer_name = balancer
        self._folder = Path(tempfile.mkdtemp(prefix="chatterd-soak-"))
        self._postgres = EmbeddedPostgres(self._folder / "postgres")
        self._settings = settings
        ports = free_ports(4 + upstream.ports)
        self.port, self._ports, self._upstream_ports = ports[0], ports[1:4], ports[4:]
        self.servers: list[Program] = []
        self.ended: list[Program] = []
        self.database_url = ""
        self._over = False

    def __enter__(self) -> Self:
        self.database_url = self._postgres.start()
        self.upstream.start(self._upstream_ports)
        self.servers = [self._new_server(port) for port in self._ports]
        self._balancer = Balancer(self._balancer_name, self.port, self._ports)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over = True
        self._balancer.stop()
        for server in self.servers:
            if server.process.poll() is None:
                server.kill()
        self.upstream.stop()
        self._postgres.stop()
        shutil.rmtree(self._folder)

    def _new_server(self, port: int) -> Program:
        settings: dict[str, Any] = {"drain_timeout": DRAIN, **self._settings}
        server = Program(
            port=port, database_url=self.database_url, ollama_host=self.upstream.url, embedded_model=False, **settings
        )
        if self._over:  # Ctrl-C, while a thread waited for this one to start
            server.kill()
        return server

    async def kill(self, number: int) -> float:
        """Send SIGKILL to a server; return the time."""
        killed = time.monotonic()
        self.servers[number].process.kill()
        await asyncio.to_thread(self.servers[number].wait)
        return killed

    async def terminate(self, number: int) -> tuple[float, float, int]:
        """Send SIGTERM to a server; return the time, the duration of the shutdown, and the exit status."""
        began = time.monotonic()
        self.servers[number].process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(self.servers[number].wait)
        return began, time.monotonic() - began, status

    async def revive(self, number: int) -> None:
        """Restart a server on its port, and wait until it is ready."""
        self.ended.append(self.servers[number])
        self.servers[number] = await asyncio.to_thread(self._new_server, self._ports[number])
        await self.ready([number])

    async def ready(self, numbers: Iterable[int] = (0, 1, 2)) -> None:
        """Wait until these servers report that they are ready."""
        async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(30):
            for number in numbers:
                while (await client.get(f"{self.servers[number].url}/readyz")).status_code != 200:
                    await asyncio.sleep(0.05)

    async def kill_postgres(self) -> float:
        """Send SIGKILL to the postmaster and all its children; return the time."""
        postmaster = psutil.Process(int((self._folder / "postgres" / "postmaster.pid").read_text().split("\n")[0]))
        family = [*postmaster.children(recursive=True), postmaster]
        killed = time.monotonic()
        for process in reversed(family):
            if process.is_running():
                os.kill(process.pid, signal.SIGKILL)
        await asyncio.to_thread(psutil.wait_procs, family, 10)
        return killed

    async def revive_postgres(self) -> None:
        """Start PostgreSQL again on its data."""
        await asyncio.to_thread(self._postgres.start)

    def said_of(self, id: str) -> list[str]:
        """Return the log lines of all servers about this reply."""
        return [line for server in [*self.ended, *self.servers] for line in server.log.splitlines() if id in line]

    def alarms(self) -> Mapping[str, int]:
        """Count the errors in the servers' logs, by message and exception."""
        return collections.Counter(
            f"{what.strip()[:80]}: {trace.strip().splitlines()[-1][:120] if trace.strip() else ''}"
            for server in [*self.ended, *self.servers]
            for what, trace in ERROR.findall(server.log)
        )
