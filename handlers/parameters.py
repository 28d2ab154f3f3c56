"""Single values that a client sends beside the body: in the query, or as a header."""

import re

from tornado.httputil import HTTPServerRequest

from errors import BadRequest


def query(request: HTTPServerRequest, name: str) -> str | None:
    """A value from the query, exactly as it was sent (Tornado's own reading drops control characters).

    :raises BadRequest: it is not UTF-8.
    """
    values = request.query_arguments.get(name)
    if not values:
        return None
    try:
        return values[-1].decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{name} is not valid UTF-8.") from error


def whole_number(name: str, text: str) -> int:
    """Read a whole number of 0 or more that fits a bigint.

    :raises BadRequest: it is not one; the sentence says ``name``.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
        raise BadRequest(f"{name} must be a whole number of 0 or more.")
    return int(text)
