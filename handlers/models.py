"""``GET /models``: Ollama's ``/api/tags``, passed through."""

from tornado.routing import PathMatches, Rule

from auth.principal import Access
from errors import UpstreamForeign
from relay.ollama import foreign_server
from web.base import BaseHandler


class ModelsHandler(BaseHandler):
    """Ollama's list of models."""

    route = "/models"
    access = Access.AUTHENTICATED

    async def get(self) -> None:
        """Respond with Ollama's status and body.

        :raises UpstreamForeign: the response is not Ollama's.
        """
        response = await self.services.upstreams.listing.get("/api/tags")
        if problem := foreign_server.models_problem(response.code, response.body):
            raise UpstreamForeign(problem)
        self.set_status(response.code)
        self.set_header("Content-Type", response.headers.get("Content-Type", "application/json; charset=utf-8"))
        # Whatever the content is, no browser may run it as a page of this origin.
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", "sandbox")
        self.finish(response.body or None)  # with a 204 Tornado refuses even an empty body

    head = get


ROUTES = [Rule(PathMatches(r"/models/?"), ModelsHandler)]
