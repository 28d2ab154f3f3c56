"""Any path that no route knows."""

from auth.principal import Access
from errors import NotFound
from handlers.base import BaseHandler


class UnknownPath(BaseHandler):
    """Says so, whatever the method, when the request's body has been read."""

    needs = Access.PUBLIC

    def answer(self) -> None:
        """Refuse the request."""
        raise NotFound("There is nothing at this address.")

    get = head = post = put = patch = delete = options = answer
