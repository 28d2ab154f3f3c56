"""GET /models: what Ollama has, passed through."""

from tornado.routing import PathMatches, Rule

from auth.principal import Access
from handlers.base import BaseHandler


class ModelsHandler(BaseHandler):
    """Ollama's list of models."""

    route = "/models"
    needs = Access.AUTHENTICATED

    async def get(self) -> None:
        """Answer what ``/api/tags`` answers."""
        answer = await self.services.ollama.get("/api/tags")
        self.set_status(answer.code)
        self.set_header("Content-Type", answer.headers.get("Content-Type", "application/json; charset=utf-8"))
        # Whatever it is, no browser shall run it as a page of ours.
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", "sandbox")
        self.finish(answer.body or None)  # not even nothing may be written with a 204


ROUTES = [Rule(PathMatches(r"/models/?"), ModelsHandler)]
