"""``GET /healthz``: the process is alive. ``GET /readyz``: it can take requests."""

from tornado.routing import PathMatches, Rule

from auth.principal import Access
from web.base import BaseHandler

OLLAMA_TIMEOUT = 0.5
"""Seconds for Ollama to respond: its state is only reported, and must not delay the response."""


class LivenessHandler(BaseHandler):
    """Whether the event loop runs."""

    route = "/healthz"
    rate_limited = False
    access = Access.PUBLIC

    def get(self) -> None:
        """Respond with 200."""
        self.write_json({"status": "alive"})

    head = get


class ReadinessHandler(BaseHandler):
    """Whether a balancer should send requests here."""

    route = "/readyz"
    rate_limited = False
    access = Access.PUBLIC

    async def get(self) -> None:
        """Respond with 503 while draining or without a database that works. Ollama's absence is reported, but no other
        process would be better off."""
        reason, ollama = await self.services.health.ping(OLLAMA_TIMEOUT)
        ready = reason is None and self.services.replies.ready
        if not ready:
            self.set_header("Retry-After", "2")
        draining = self.services.replies.draining
        database = "ok" if reason is None else "unreachable"
        document = {"ready": ready, "draining": draining, "database": database, "ollama": ollama.name}
        if reason:
            document["reason"] = reason.value
        if ollama.problem:
            document["ollama_problem"] = ollama.problem
        self.write_json(document, 200 if ready else 503)

    head = get


ROUTES = [
    Rule(PathMatches(r"/healthz/?"), LivenessHandler),
    Rule(PathMatches(r"/readyz/?"), ReadinessHandler),
]
