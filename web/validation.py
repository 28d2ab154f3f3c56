"""Validation of query arguments and headers."""

import re

from tornado.httputil import HTTPServerRequest

from errors import BadRequest


def query_argument(request: HTTPServerRequest, name: str) -> str | None:
    """Return a query argument exactly as it was sent; ``RequestHandler.get_query_argument`` drops control characters.

    :raises BadRequest: it is not UTF-8.
    """
    values = request.query_arguments.get(name)
    if not values:
        return None
    try:
        return values[-1].decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{name} is not valid UTF-8.") from error


def parse_whole_number(name: str, text: str) -> int:
    """Parse a whole number of 0 or more that fits PostgreSQL's bigint.

    :param name: of the argument or header, for the error.
    :raises BadRequest: it is not one.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
        raise BadRequest(f"{name} must be a whole number of 0 or more.")
    return int(text)
