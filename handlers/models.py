"""What Ollama says of its models. ``GET /models``: its list, passed through. ``GET /window``: the window of one."""

from dataclasses import asdict

from tornado.routing import PathMatches, Rule

from auth.principal import Access
from errors import NotFound, UnprocessableContent, UpstreamForeign
from relay.ollama import foreign_server
from web.base import BaseHandler
from web.validation import query_argument


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


class WindowHandler(BaseHandler):
    """The window of a model: how many tokens it holds, and how much memory it takes."""

    route = "/window"
    access = Access.AUTHENTICATED

    async def get(self) -> None:
        """Respond with what Ollama says, and null for what it does not say. The model is not loaded for it.

        :raises UnprocessableContent: no model is named.
        :raises NotFound: Ollama does not have the model.
        """
        model = query_argument(self.request, "model")
        if not model or model.isspace():
            raise UnprocessableContent("model is missing: name a model, as in GET /window?model=llama3.2.")
        with self.services.upstreams.serving(model) as ollama:
            report = await self.services.windows.report(ollama, model)
        if report is None:
            raise NotFound("Ollama does not have this model. GET /models lists those that it has.")
        self.write_json({"model": model, **asdict(report)})


ROUTES = [Rule(PathMatches(r"/models/?"), ModelsHandler), Rule(PathMatches(r"/window/?"), WindowHandler)]
