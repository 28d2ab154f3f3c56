"""Parse one HTTP/1.1 response with httptools. Pure: bytes in, head and body out."""

import httptools
from tornado.httputil import HTTPHeaders, HTTPInputError

FRAMING_LIMIT = 262_144
"""Bytes that may arrive in a row without a byte of the body among them: a head, a chunk's extensions, a trailer."""


class RemoteProtocolError(Exception):
    """The connection was made, and then it was closed too early, or what was received is not a valid response."""


class ResponseParser:
    """Parse one response; ignore interim responses (1xx), trailers, and whatever follows the response.

    httptools cannot be stopped from a callback. The callbacks therefore only record what they are passed: they do
    nothing once the response is complete or invalid, and raise nothing.

    :ivar status: HTTP status; 0 until the head is complete.
    :ivar headers: of the response, complete if ``status`` is not 0.
    :ivar complete: the whole response was received.
    :ivar error: why the response is invalid; None while it is valid.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers = HTTPHeaders()
        self.complete = False
        self.error: RemoteProtocolError | None = None
        self._body: list[bytes] = []
        self._framing_bytes = 0
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the response (RFC 9112, section 6.3)."""
        return self.status != 0 and "Content-Length" not in self.headers and "Transfer-Encoding" not in self.headers

    def feed(self, data: bytes) -> list[bytes]:
        """Parse the next bytes of the connection. Return the pieces of the body among them, in order.

        Check :attr:`error` and :attr:`complete` afterwards: a piece may precede an error in the same bytes.
        """
        if self._parser is None:
            return []
        self._body = []
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"invalid HTTP response: {error}")
        self._framing_bytes = 0 if self._body else self._framing_bytes + len(data)
        if self._framing_bytes > FRAMING_LIMIT:
            self._fail(f"more than {FRAMING_LIMIT} bytes of headers, chunk extensions or trailers")
        return self._body

    def close(self) -> None:
        """Break the reference cycle with the httptools parser, which holds the callbacks of this object."""
        self._parser = None

    def _fail(self, reason: str) -> None:
        if not self.complete and not self.error:
            self.error = RemoteProtocolError(reason)

    # Callbacks of httptools.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Record a header; ignore a trailer."""
        if self.status or self.error:
            return
        try:
            self.headers.add(name.decode("latin1"), value.decode("latin1"))
        except HTTPInputError as error:
            self._fail(f"invalid HTTP header: {error}")

    def on_headers_complete(self) -> None:
        """Record the status, except that of an interim response."""
        if self.status or self.error or self._parser is None:
            return
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
        else:
            self.headers = HTTPHeaders()

    def on_body(self, piece: bytes) -> None:
        """Record a piece of the body."""
        if not self.complete and not self.error:
            self._body.append(piece)

    def on_message_complete(self) -> None:
        """Record the end of the response, unless it is an interim one."""
        if self.status and not self.error:
            self.complete = True
