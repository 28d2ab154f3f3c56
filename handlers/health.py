"""GET /healthz: alive. GET /readyz: able to take requests."""

import asyncio

from tornado.routing import PathMatches, Rule

from auth.principal import Access
from errors import ServiceUnavailable, UpstreamUnreachable
from handlers.base import BaseHandler

PROBE_TIMEOUT = 3.0
"""Seconds for the database to answer; balancers do not wait longer either."""

OLLAMA_TIMEOUT = 0.5
"""Seconds for Ollama to answer: it is only told, and who asks shall not wait for that."""


class AliveHandler(BaseHandler):
    """Whether the event loop turns."""

    route = "/healthz"
    counted = False
    needs = Access.PUBLIC

    def get(self) -> None:
        """Say so."""
        self.write_json({"status": "alive"})


class ReadyHandler(BaseHandler):
    """Whether a balancer should send requests here."""

    route = "/readyz"
    counted = False
    needs = Access.PUBLIC

    async def get(self) -> None:
        """Answer 503 while draining or without database; a missing Ollama is told but is no reason to go elsewhere."""
        database, ollama = await asyncio.gather(self._database(), self._ollama())
        draining = self.services.replies.draining
        ready = database == "ok" and self.services.replies.ready
        if not ready:
            self.set_header("Retry-After", "2")
        self.write_json(
            {"ready": ready, "draining": draining, "database": database, "ollama": ollama}, 200 if ready else 503
        )

    async def _database(self) -> str:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT), self.services.database.acquire() as connection:
                await connection.execute("SELECT 1")
        except (ServiceUnavailable, TimeoutError):
            return "unreachable"
        return "ok"

    async def _ollama(self) -> str:
        try:
            async with asyncio.timeout(OLLAMA_TIMEOUT):
                return await self.services.ollama.state()
        except UpstreamUnreachable:
            return "unreachable"
        except TimeoutError:
            return "silent"


ROUTES = [
    Rule(PathMatches(r"/healthz/?"), AliveHandler),
    Rule(PathMatches(r"/readyz/?"), ReadyHandler),
]
