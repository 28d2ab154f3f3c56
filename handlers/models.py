"""``GET /models``: Ollama's ``/api/tags``, passed through."""

from tornado.routing import PathMatches, Rule

from auth.principal import Access
from web.base import BaseHandler


class ModelsHandler(BaseHandler):
    """Ollama's list of models."""

    route = "/models"
    access = Access.AUTHENTICATED

    async def get(self) -> None:
        """Respond with Ollama's status and body."""
        response = await self.services.ollama.get("/api/tags")
        self.set_status(response.code)
        self.set_header("Content-Type", response.headers.get("Content-Type", "application/json; charset=utf-8"))
        # Whatever the content is, no browser may run it as a page of this origin.
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", "sandbox")
        self.finish(response.body or None)  # with a 204 Tornado refuses even an empty body

    head = get


ROUTES = [Rule(PathMatches(r"/models/?"), ModelsHandler)]
