"""The project's errors, each with its HTTP status. Nothing else knows statuses of its own making."""

from collections.abc import Mapping


class ChatterdError(Exception):
    """Something that a client is told about.

    ``str(error)`` is one clear sentence for the person at the client: what to do, nothing internal.
    """

    status = 500

    def __init__(self, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.headers: Mapping[str, str] = headers or {}


class BadRequest(ChatterdError):
    """What came is not what it claims to be: not JSON, not a number."""

    status = 400


class Unauthorized(ChatterdError):
    """Nobody is known by what the request says of its sender.

    :param problem: RFC 6750's code for what is wrong with the token (section 3.1); None if there was none.
    """

    status = 401

    def __init__(self, sentence: str, problem: str | None = None) -> None:
        super().__init__(sentence, {"WWW-Authenticate": f'Bearer error="{problem}"' if problem else "Bearer"})


class Forbidden(ChatterdError):
    """The sender is not allowed this, whoever it is."""

    status = 403


class NotFound(ChatterdError):
    """No such path, reply or conversation."""

    status = 404


class RequestTimeout(ChatterdError):
    """The client took too long to send its request."""

    status = 408


class NotAcceptable(ChatterdError):
    """The database refuses the text."""

    status = 406


class Conflict(ChatterdError):
    """The conversation has a reply being generated already; ``Location`` names it."""

    status = 409

    def __init__(self, sentence: str, location: str) -> None:
        super().__init__(sentence, {"Location": location})


class ContentTooLarge(ChatterdError):
    """The body exceeds ``--max-body-bytes``, or a prompt's text ``--max-prompt-characters``."""

    status = 413


class URITooLong(ChatterdError):
    """The URL exceeds ``--max-url-bytes``."""

    status = 414


class UnsupportedMediaType(ChatterdError):
    """The body is not declared as JSON."""

    status = 415


class UnprocessableContent(ChatterdError):
    """The body is JSON, but a field is missing or of the wrong kind; the sentence names the field."""

    status = 422


class TooManyRequests(ChatterdError):
    """The tenant or the address may do this again after ``Retry-After``, in seconds."""

    status = 429

    def __init__(self, sentence: str, retry_after: int = 2) -> None:
        super().__init__(sentence, {"Retry-After": str(retry_after)})


class HeadersTooLarge(ChatterdError):
    """The request's head exceeds ``--max-header-bytes``."""

    status = 431


class ServiceUnavailable(ChatterdError):
    """The server cannot do this now, but may soon: ``Retry-After`` says when to ask again, in seconds."""

    status = 503

    def __init__(self, sentence: str, retry_after: int = 2) -> None:
        super().__init__(sentence, {"Retry-After": str(retry_after)})


class ConnectionLost(ServiceUnavailable):
    """The database went away inside a statement: it may have been committed or not."""


class UpstreamUnreachable(ServiceUnavailable):
    """Nothing answers at Ollama's address."""


class UpstreamDisconnected(ChatterdError):
    """Ollama's answer broke off."""

    status = 502


class LineTooLong(ChatterdError):
    """Ollama sent a line beyond ``--max-line-bytes``."""


class UnreadableLine(ChatterdError):
    """A line from Ollama is not JSON, or not a line of a chat.

    :param line: the line, without its end.
    """

    def __init__(self, line: bytes) -> None:
        super().__init__("Ollama sent a line that could not be read.")
        self.line = line
