"""Parse one HTTP/1.1 response with httptools. Pure: bytes in, head and pieces of the body out."""

from collections.abc import Callable

import httptools
from tornado.httputil import HTTPHeaders, HTTPInputError

FRAMING_LIMIT = 262_144
"""Bytes that may arrive in a row without a byte of the body among them: a head, a chunk's extensions, a trailer."""


class RemoteProtocolError(Exception):
    """The connection was made, and then it was closed too early, or what was received is not a valid response."""


class ResponseParser:
    """Parse one response; ignore interim responses (1xx), trailers, and whatever follows the response.

    :param on_head: called without arguments once :attr:`status` and :attr:`headers` are complete.
    :param on_body: called with each piece of the body.
    :ivar status: HTTP status; 0 until the head is complete.
    :ivar headers: of the response, complete if ``status`` is not 0.
    :ivar complete: the whole response was received.
    """

    def __init__(self, on_head: Callable[[], object], on_body: Callable[[bytes], object]) -> None:
        self.status = 0
        self.headers = HTTPHeaders()
        self.complete = False
        self._on_head = on_head
        self._on_body = on_body
        self._framing_bytes = 0
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the response (RFC 9112, section 6.3)."""
        return self.status != 0 and "Content-Length" not in self.headers and "Transfer-Encoding" not in self.headers

    def feed(self, data: bytes) -> None:
        """Parse the next bytes of the connection; does nothing once the response is complete.

        :raises RemoteProtocolError: the response is invalid.
        :raises Exception: what a callback raised. The rest of ``data`` is not parsed.
        """
        if self._parser is None or self.complete:
            return
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise _cause(error) from None
        if self._framing_bytes > FRAMING_LIMIT:
            raise RemoteProtocolError(f"more than {FRAMING_LIMIT} bytes of headers, chunk extensions or trailers")

    def close(self) -> None:
        """Call no callback any more, and break the reference cycles with them and with the httptools parser."""
        self._parser = None
        self._on_head = self._on_body = _ignore

    # Callbacks of httptools. An exception stops its parser.

    def on_message_begin(self) -> None:
        """Stop before a second response.

        :raises RemoteProtocolError: the first one is complete.
        """
        if self.complete:
            raise RemoteProtocolError("more than one response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Record a header; ignore a trailer.

        :raises RemoteProtocolError: the header is invalid.
        """
        if self.status:
            return
        try:
            self.headers.add(name.decode("latin1"), value.decode("latin1"))
        except HTTPInputError as error:
            raise RemoteProtocolError(f"invalid HTTP header: {error}") from error

    def on_headers_complete(self) -> None:
        """Record the status, except that of an interim response."""
        status = self._parser.get_status_code() if self._parser else 0
        if status >= 200:
            self.status = status
            self._on_head()
        else:
            self.headers = HTTPHeaders()

    def on_body(self, piece: bytes) -> None:
        """Pass on a piece of the body."""
        self._framing_bytes = 0
        self._on_body(piece)

    def on_message_complete(self) -> None:
        """Record the end of the response, unless it is an interim one."""
        self.complete = self.status != 0


def _cause(error: Exception) -> BaseException:
    """Return what a callback raised, or else a RemoteProtocolError."""
    if isinstance(error, httptools.HttpParserCallbackError) and error.__context__:
        return error.__context__
    return RemoteProtocolError(f"invalid HTTP response: {error}")


def _ignore(*arguments: object) -> None:
    """Be a callback that does nothing."""
