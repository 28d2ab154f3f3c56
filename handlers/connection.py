"""One client's connection: reads its requests one after the other, and knows for how long it is waited for."""

import asyncio
import logging
import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from tornado.http1connection import HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import HTTPServerConnectionDelegate
from tornado.iostream import IOStream, StreamClosedError, UnsatisfiableReadError

from errors import ChatterdError, HeadersTooLarge, RequestTimeout, URITooLong
from handlers import refusal
from handlers.exchange import Delegate, Exchange, say_no_more
from handlers.observed import note_refused
from relay.metrics import Metrics
from settings import Settings

log = logging.getLogger("chatterd.http")

HEAD_END = re.compile(rb"\r?\n\r?\n")
"""Where a request's head ends, as Tornado sees it."""

FIELDS_LIMIT = 200
"""Headers of a request."""

DROP_LIMIT = 67_108_864
"""Bytes of a body beyond its limit that are read and dropped, for its client to see the answer."""

LEAVE_SECONDS = 5.0
"""Seconds for which a client that was refused may go on sending."""

BODY_RATE = 1_024
"""Bytes of a body that must come each second on average; a pause of ``--body-timeout`` is the longest, whatever came
before it. What came of a body is kept in memory, and must not be for hours."""


class Stage(Enum):
    """What is waited for."""

    FIRST = auto()
    """The first byte of the first request."""

    NEXT = auto()
    """The first byte of another request."""

    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    """Our own answer, or that the client takes it."""

    LEAVING = auto()
    """That the client has seen why it was refused, and closes."""


class Connection(HTTP1ServerConnection):
    """Serves one client.

    No timer is set for it: :meth:`check` is called for all connections together now and then.
    """

    def __init__(
        self,
        stream: IOStream,
        params: HTTP1ConnectionParameters,
        context: object,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        super().__init__(stream, params, context)
        self._settings = settings
        self._metrics = metrics
        self._now: Callable[[], float] = asyncio.get_running_loop().time
        self._head = b""
        self._exchange: Exchange | None = None
        self._more_by = 0.0
        self._sent = 0
        self._enter(Stage.FIRST)

    def _enter(self, stage: Stage) -> None:
        self._stage = stage
        self._since = self._heard = self._now()

    def body_expected(self) -> None:
        """The request's body comes (see :class:`handlers.exchange.Watch`)."""
        if self._stage is not Stage.LEAVING:
            self._enter(Stage.BODY)
            self._more_by = self._since + self._settings.body_timeout

    def body_came(self, size: int) -> None:
        """A piece of it came."""
        self._heard = self._now()
        self._more_by = min(self._more_by + size / BODY_RATE, self._heard + self._settings.body_timeout)

    def request_read(self) -> None:
        """The request was read."""
        if self._stage is not Stage.LEAVING:
            self._head = b""
            self._enter(Stage.ANSWER)

    def leaving(self) -> None:
        """The client was refused while it is still sending."""
        self._enter(Stage.LEAVING)

    async def _server_request_loop(self, delegate: HTTPServerConnectionDelegate) -> None:
        try:
            while await self._serve(delegate):
                self._exchange = None
                self._enter(Stage.NEXT)
                await asyncio.sleep(0)
        except (StreamClosedError, UnsatisfiableReadError, asyncio.CancelledError):
            pass  # the client has left, or we have
        except Exception:
            log.exception("A connection failed.")
        finally:
            self._exchange = None
            self.stream.close()
            delegate.on_close(self)

    async def _serve(self, delegate: HTTPServerConnectionDelegate) -> bool:
        """Serve one request; False if the connection ends with it."""
        try:
            await self._await_head()
            self._enter(Stage.ANSWER)  # whether the body may come is ours to say first
            exchange = self._exchange = Exchange(
                self.stream,
                self.params,
                self.context,
                self,
                self._settings.max_body_bytes + DROP_LIMIT,
                self._settings.max_url_bytes,
            )
            goes_on = await exchange.read_response(Delegate(delegate.start_request(self, exchange), exchange))
            return goes_on and not exchange.last
        except ChatterdError as error:
            await self._refuse(error)
            return False

    async def _await_head(self) -> None:
        """Wait until the head of a request has come, and leave it where Tornado will read it.

        Tornado would close a connection whose head is too long.

        :raises HeadersTooLarge: it is longer than it may be.
        :raises AddressTooLong: so is its first line.
        """
        most = self._settings.max_header_bytes
        head = await self.stream.read_bytes(most, partial=True)
        self._enter(Stage.HEAD)
        searched = 0
        while not (end := HEAD_END.search(head, searched)):
            self._head = head
            searched = max(0, len(head) - 3)
            if len(head) >= most:
                raise self._head_too_large(head)
            head += await self.stream.read_bytes(most - len(head), partial=True)
        self._head = head[: end.end()]
        if self._head.count(b"\n") > FIELDS_LIMIT + 2:
            raise HeadersTooLarge(f"The request has more than {FIELDS_LIMIT} headers.")
        self.stream._read_buffer[:0] = head
        self.stream._read_buffer_size += len(head)

    def _head_too_large(self, head: bytes) -> ChatterdError:
        most = self._settings.max_url_bytes
        if len(head.partition(b"\n")[0]) > most:
            return URITooLong(f"The URL is longer than {most} bytes.")
        return HeadersTooLarge(f"The request's headers are larger than {self._settings.max_header_bytes} bytes.")

    async def _refuse(self, error: ChatterdError) -> None:
        """Say what is wrong, then read and drop what the client still sends until it leaves: it would otherwise see no
        answer, only a cut connection (RFC 9112, section 9.6)."""
        if self._exchange and self._exchange.answering:
            if not self._exchange.answered or self.stream.writing():
                return
        else:
            self._say(error)
        say_no_more(self.stream)
        self._enter(Stage.LEAVING)
        dropped = 0
        while dropped < DROP_LIMIT:
            dropped += len(await self.stream.read_bytes(self.params.chunk_size, partial=True))

    def _say(self, error: ChatterdError) -> None:
        id = refusal.request_id(self._head)
        note_refused(self._metrics, self._head, id, str(self.context), error)
        self.stream.write(refusal.answer(error, id, not self._head.startswith(b"HEAD ")))

    def check(self, now: float) -> None:
        """Close the connection if it was waited for long enough.

        :param now: the event loop's time, in seconds.
        """
        if self.stream.closed():  # what is under way for it ends by itself
            return
        waited, settings = now - self._since, self._settings
        if self._stage is Stage.ANSWER:
            if self._exchange and self._exchange.answered and self.stream.writing():
                self._check_taken(now)
        elif self._stage is Stage.NEXT:
            self._close_if(waited > settings.keep_alive_timeout)
        elif self._stage is Stage.FIRST:
            self._close_if(waited > settings.header_timeout)
        elif self._stage is Stage.HEAD:
            if waited > settings.header_timeout:
                self._give_up(f"The request's headers did not come within {settings.header_timeout:g} seconds.")
        elif self._stage is Stage.BODY:
            if now - self._heard > settings.body_timeout:
                self._give_up(f"Nothing of the request's body came for {settings.body_timeout:g} seconds.")
            elif now > self._more_by:
                self._give_up(f"The request's body comes too slowly: {BODY_RATE} bytes a second are the least.")
        else:
            self._close_if(waited > LEAVE_SECONDS)

    def _check_taken(self, now: float) -> None:
        """Close the connection if the client has taken nothing of a complete answer for long."""
        sent: Any = self.stream._total_write_done_index
        if sent != self._sent:
            self._sent, self._heard = sent, now
        self._close_if(now - self._heard > self._settings.client_write_timeout)

    def _give_up(self, sentence: str) -> None:
        """Say what did not come, and close. The client is not sending, so nothing keeps it from seeing that."""
        if not (self._exchange and self._exchange.answering):
            self._say(RequestTimeout(sentence))
        self.stream.close()

    def _close_if(self, due: bool) -> None:
        if due:
            self.stream.close()
