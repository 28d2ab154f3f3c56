"""How a request's body is read: kept up to its limit, or dropped if the request is refused."""

import re
from typing import NoReturn

from tornado.web import RequestHandler, stream_request_body

from errors import ChatterdError, ContentTooLarge, ServiceUnavailable, UnsupportedMediaType
from handlers.connection import DROP_LIMIT
from handlers.services import Services

CONTENT_LENGTH = re.compile(r"[0-9]{1,99}")


@stream_request_body
class ReadingHandler(RequestHandler):
    """A handler that reads its request's body up to ``--max-body-bytes``."""

    services: Services
    _refused = False
    _body: bytearray | None = None

    def check_length(self) -> None:
        """Refuse a body that says it is too large before it is sent, if its client waits for that or it is far too
        large (RFC 9110, section 10.1.1).

        Any other is read and dropped first: a client that is still sending would see no answer, only a cut connection.

        :raises TooLarge: it is to be refused now.
        """
        length = self.request.headers.get("Content-Length", "")
        limit = self.services.settings.max_body_bytes + (0 if self._waits_for_leave else DROP_LIMIT)
        if CONTENT_LENGTH.fullmatch(length) and int(length) > limit:
            raise self._too_large()

    @property
    def _waits_for_leave(self) -> bool:
        return self.request.headers.get("Expect", "").lower() == "100-continue"

    def refuse(self, error: ChatterdError) -> None:
        """Raise ``error`` in the place of the request's method, when its body has been read and dropped; at once if
        its client waits for leave to send one."""
        if self._waits_for_leave:
            raise error
        self._refuse_when_read(error)

    def _refuse_when_read(self, error: ChatterdError) -> None:
        def refuse(*_args: object) -> NoReturn:
            raise error

        self._refused = True
        setattr(self, str(self.request.method).lower(), refuse)

    def data_received(self, chunk: bytes) -> None:
        """Keep a part of the body (called by Tornado); beyond the limit by one byte only, so that :meth:`json_body`
        sees the excess."""
        if self._refused:
            return
        body = bytearray() if self._body is None else self._body
        kept = chunk[: self.services.settings.max_body_bytes + 1 - len(body)]
        if self.services.bodies.take(len(kept)):
            body += kept
            self._body = body
        else:
            self._drop_body()
            self._refuse_when_read(
                ServiceUnavailable("The server is reading as many large requests as it can. Try again in a moment.")
            )

    def _drop_body(self) -> None:
        if self._body is not None:
            self.services.bodies.give_back(len(self._body))
            self._body = None

    def on_connection_close(self) -> None:
        """Keep nothing of a body that will not be whole (called by Tornado): what is left of the request waits for
        Python's cyclic garbage collector, which knows nothing of sizes."""
        if not self.request._body_future.done():
            self._refused = True
            self._drop_body()
        super().on_connection_close()

    def on_finish(self) -> None:
        """Keep nothing of a body that nobody asked for (called by Tornado)."""
        self._drop_body()
        super().on_finish()

    def json_body(self) -> bytes:
        """The request's body, which claims to be JSON. It is kept no longer: a reply may be shown for half an hour.

        :raises UnsupportedMediaType: the content type is another.
        :raises TooLarge: it exceeds ``--max-body-bytes``.
        """
        media_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaType("Send the body as JSON, with the header Content-Type: application/json.")
        body = self._body or b""
        if len(body) > self.services.settings.max_body_bytes:
            raise self._too_large()
        whole = bytes(body)
        self._drop_body()
        return whole

    def _too_large(self) -> ContentTooLarge:
        return ContentTooLarge(f"The body is larger than {self.services.settings.max_body_bytes} bytes.")
