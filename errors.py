"""The exceptions that are reported to clients, each with its HTTP status (RFC 9110, unless noted), and to operators."""

from collections.abc import Mapping


class StartupError(Exception):
    """The program cannot start. The message tells the operator what to change; the program exits with status 1."""


class ChatterdError(Exception):
    """Base class of all errors reported to clients.

    :param message: what happened and what to do, for the user; contains nothing internal. Returned by ``str(error)``.
    :param headers: headers of the response.
    """

    status = 500

    def __init__(self, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers: Mapping[str, str] = headers or {}


class BadRequest(ChatterdError):
    """Malformed request: invalid JSON, a parameter that is not a number."""

    status = 400


class Unauthorized(ChatterdError):
    """Missing or invalid credentials.

    :param problem: error code of the token (RFC 6750, section 3.1); None if the request contains no token.
    """

    status = 401

    def __init__(self, message: str, problem: str | None = None) -> None:
        super().__init__(message, {"WWW-Authenticate": f'Bearer error="{problem}"' if problem else "Bearer"})


class Forbidden(ChatterdError):
    """The principal, or the origin of the page, may not send this request."""

    status = 403


class NotFound(ChatterdError):
    """Unknown path, reply or conversation."""

    status = 404


class RequestTimeout(ChatterdError):
    """The request did not arrive in time."""

    status = 408


class NotAcceptable(ChatterdError):
    """The database cannot store the text."""

    status = 406


class Conflict(ChatterdError):
    """The conversation already has a reply in progress, or is not in the state that the request assumes.

    :param location: path of that reply, for the header ``Location``; None if there is none.
    """

    status = 409

    def __init__(self, message: str, location: str | None = None) -> None:
        super().__init__(message, {"Location": location} if location else None)


class ContentTooLarge(ChatterdError):
    """The body exceeds the limit of its route, or the text of a prompt ``--max-prompt-characters``."""

    status = 413


class URITooLong(ChatterdError):
    """The URL exceeds ``--max-url-bytes``."""

    status = 414


class UnsupportedMediaType(ChatterdError):
    """The body is not JSON, or it is compressed."""

    status = 415


class UnprocessableContent(ChatterdError):
    """A field of the JSON body is missing or invalid; the message names the field."""

    status = 422


class TooManyRequests(ChatterdError):
    """The tenant or the address exceeds a limit (RFC 6585).

    :param retry_after: seconds after which to try again.
    """

    status = 429

    def __init__(self, message: str, retry_after: int = 2) -> None:
        super().__init__(message, {"Retry-After": str(retry_after)})


class HeadersTooLarge(ChatterdError):
    """Request line and headers exceed ``--max-header-bytes`` (RFC 6585)."""

    status = 431


class ServiceUnavailable(ChatterdError):
    """The server cannot process the request at the moment.

    :param retry_after: seconds after which to try again.
    """

    status = 503

    def __init__(self, message: str, retry_after: int = 2) -> None:
        super().__init__(message, {"Retry-After": str(retry_after)})


class ConnectionLost(ServiceUnavailable):
    """The connection to the database was lost during a statement, which may or may not have been committed."""


class StatementFailed(ServiceUnavailable):
    """The database has rolled a statement back: nothing of it is stored.

    :param perhaps_refused: whether the reason may be in the text of the statement.
    """

    def __init__(self, message: str, perhaps_refused: bool) -> None:
        super().__init__(message)
        self.perhaps_refused = perhaps_refused


class UpstreamUnreachable(ServiceUnavailable):
    """Ollama does not accept connections, or sends no response.

    :cvar retryable: whether that may change soon.
    """

    retryable = True


class UpstreamSilent(UpstreamUnreachable):
    """Ollama did not respond in time."""


class UpstreamForeign(ChatterdError):
    """The server at Ollama's address answers, but not as Ollama does."""

    status = 502


class UpstreamUntrusted(UpstreamUnreachable):
    """The TLS connection to Ollama failed: its certificate is not trusted, or it does not speak TLS."""

    retryable = False


class UpstreamDisconnected(ChatterdError):
    """Ollama closed the connection before its response was complete."""

    status = 502


class LineTooLong(ChatterdError):
    """A line from Ollama exceeds ``--max-line-bytes``."""


class UnreadableLine(ChatterdError):
    """A line from Ollama is not JSON, or not an object of the chat API.

    :param line: the line without its line feed.
    """

    def __init__(self, line: bytes) -> None:
        super().__init__("Ollama sent a line that could not be read.")
        self.line = line
