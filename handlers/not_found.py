"""The handler of paths without a route."""

from auth.principal import Access
from errors import NotFound
from web import cors
from web.base import BaseHandler


class NotFoundHandler(BaseHandler):
    """Responds with 404 to every method, once the request's body has been received."""

    access = Access.PUBLIC

    def respond(self) -> None:
        """Respond with 404.

        :raises NotFound: always.
        """
        raise NotFound("There is nothing at this address.")

    get = head = post = put = patch = delete = respond

    def check_route(self) -> None:
        """Reject the request before its body arrives, unless it is a preflight request.

        :raises NotFound: it is none.
        """
        if not cors.is_preflight(self.request, self.services.origins):
            self.respond()

    def options(self, *path: str) -> None:
        """Respond to a preflight request, so that a page can read the 404.

        :raises NotFound: it is none.
        """
        if not cors.is_preflight(self.request, self.services.origins):
            self.respond()
        super().options(*path)
