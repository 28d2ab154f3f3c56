"""One request on a connection, and its answer: Tornado's HTTP/1, which here says what is wrong before it hangs up."""

from collections.abc import Coroutine
from contextlib import suppress
from socket import SHUT_WR, socket
from typing import Any, Protocol

from tornado.concurrent import Future
from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
    parse_request_start_line,
)
from tornado.iostream import IOStream, StreamClosedError

from errors import BadRequest, ChatterdError, ContentTooLarge, URITooLong

FAR_TOO_LARGE = "The body is far larger than it may be."


class Watch(Protocol):
    """Is told how an exchange goes on, to know how long to wait for its client."""

    def body_expected(self) -> None:
        """The request's head was read, its body comes."""

    def body_came(self, size: int) -> None:
        """So many bytes of it came."""

    def request_read(self) -> None:
        """The request was read, its answer comes."""

    def leaving(self) -> None:
        """The client was told all that it will be, and only what it still sends is read and dropped."""


class Exchange(HTTP1Connection):
    """Reads one request for a handler to answer it.

    :ivar fault: why no handler was found for it.
    :param most: bytes of a body that are read at most, to keep or to drop.
    """

    def __init__(
        self, stream: IOStream, params: HTTP1ConnectionParameters, context: object, watch: Watch, most: int, url: int
    ) -> None:
        super().__init__(stream, False, params, context)
        self.fault: ChatterdError | None = None
        self._watch = watch
        self._most = most
        self._url = url

    @property
    def answering(self) -> bool:
        """Whether an answer has begun."""
        return self._response_start_line is not None

    @property
    def answered(self) -> bool:
        """Whether the answer is complete; the client may not have taken all of it."""
        return self._write_finished

    @property
    def last(self) -> bool:
        """Whether the connection ends with this exchange."""
        return self._disconnect_on_finish

    def _parse_headers(self, data: bytes) -> tuple[str, HTTPHeaders]:
        try:
            line, headers = super()._parse_headers(data)
        except HTTPInputError as error:
            raise BadRequest("A header of the request is malformed.") from error
        try:
            _, url, version = parse_request_start_line(line)
        except HTTPInputError as error:
            raise BadRequest("This is not an HTTP/1.1 request.") from error
        if version == "HTTP/1.0" and "Transfer-Encoding" in headers:  # what stands in front may not see chunks here
            raise BadRequest("HTTP/1.0 knows no chunks: announce the body's length with Content-Length.")
        if len(url) > self._url:
            raise URITooLong(f"The URL is longer than {self._url} bytes.")
        return line, headers

    def _read_body(
        self, code: int, headers: HTTPHeaders, delegate: HTTPMessageDelegate
    ) -> Coroutine[Any, Any, None] | None:
        if self.fault:
            raise self.fault
        length = headers.get("Content-Length", "")
        if length.isascii() and length.isdecimal() and (len(length) > 18 or int(length) > self._most):
            raise ContentTooLarge(FAR_TOO_LARGE)
        try:
            reading = super()._read_body(code, headers, delegate)
        except HTTPInputError as error:
            raise BadRequest("How long the body is cannot be told from the request's headers.") from error
        if reading is None:
            self._watch.request_read()
            return None
        self._watch.body_expected()
        return self._read_whole_body(reading)

    async def _read_whole_body(self, reading: Any) -> None:
        try:
            await reading
        except HTTPInputError as error:
            if "too large" in str(error):  # of a chunk; Tornado has no kinds of this error
                raise ContentTooLarge(FAR_TOO_LARGE) from error
            raise BadRequest("The body's chunks are malformed.") from error
        self._watch.request_read()

    def _deliver_body(self, delegate: HTTPMessageDelegate, data: bytes) -> Coroutine[Any, Any, None]:
        self._watch.body_came(len(data))
        return super()._deliver_body(delegate, data)

    def _finish_request(self, future: "Future[None] | None") -> None:
        """End the exchange when its answer is sent (called by Tornado).

        A client that is still sending its body is read to that end first. It would otherwise not see the answer, only
        a cut connection (RFC 9112, section 9.6).
        """
        if self._disconnect_on_finish and not self._read_finished and not self.stream.closed():
            self._clear_callbacks()
            with suppress(StreamClosedError):  # whoever reads on finds out
                say_no_more(self.stream)
            self._watch.leaving()
            if not self._finish_future.done():
                self._finish_future.set_result(None)
        else:
            super()._finish_request(future)


class Delegate(HTTPMessageDelegate):
    """Stands before Tornado's choice of a handler, and notes what it finds wrong with a request."""

    def __init__(self, inner: HTTPMessageDelegate, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.finish = inner.finish  # type: ignore[method-assign]
        self.on_connection_close = inner.on_connection_close  # type: ignore[method-assign]

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> Any:
        """Find a handler (called by Tornado)."""
        try:
            return self._inner.headers_received(start_line, headers)
        except (HTTPInputError, ValueError) as error:  # a port of 5,000 digits is a ValueError to Tornado
            fault = BadRequest("The Host header is missing or malformed, or the query is.")
            fault.__cause__ = error
            self._exchange.fault = fault
            return None


def say_no_more(stream: IOStream) -> None:
    """Tell the client that nothing follows, and go on reading."""
    if stream.closed():
        raise StreamClosedError(stream.error)
    try:
        socket.shutdown(stream.socket, SHUT_WR)  # SSLSocket's own would end the reading too
    except OSError as error:
        stream.close((type(error), error, error.__traceback__))
        raise StreamClosedError(error) from error
