"""The client of Ollama's HTTP API: streaming calls that can be cancelled, and what goes wrong on the way, in words."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import pycurl
import ujson
from tornado.curl_httpclient import CurlAsyncHTTPClient, CurlError
from tornado.httpclient import HTTPClientError, HTTPRequest, HTTPResponse

from errors import AnswerBroken, ChatterdError, OllamaUnreachable
from relay import chat_line
from relay.curl import StreamingClient

log = logging.getLogger("chatterd.relay")

PROBE_TIMEOUT = 3.0
"""Seconds for the small questions: which models, are you there."""

OTHER_CALLS = 200
"""Streaming calls at once that are not chats; more of them wait for their turn."""

NO_LIMIT = 2**62
"""Bytes: a reply has a time limit, not a size limit."""

ERROR_BODY_LIMIT = 65_536
"""Bytes kept of the body of an answer that is an error."""

SHUT_RETRY = 0.01
"""Seconds until a call that is still not over is tried to be closed again."""

_BROKEN_OFF = {pycurl.E_GOT_NOTHING, pycurl.E_RECV_ERROR, pycurl.E_SEND_ERROR, pycurl.E_PARTIAL_FILE}
"""What curl says when a connection was made and then lost."""


class Call:
    """One streaming request to Ollama.

    :ivar head: done when status and content type are known: with the first bytes of the body, or at a clean end.
    :ivar status: Ollama's HTTP status, 0 until ``head`` is done.
    :ivar ended: done at the answer's end; if that was not a clean one, its exception is OllamaUnreachable or
        AnswerBroken.
    :ivar last_byte: when the last byte came, or the call began, by the event loop's clock.
    """

    def __init__(self, url: str, on_chunk: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.status = 0
        self.content_type = ""
        self.head: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.ended.add_done_callback(lambda ended: ended.exception())  # may have nobody who asks
        self.last_byte = loop.time()
        self._url = url
        self._on_chunk = on_chunk
        self._loop = loop
        self._curl: Any = None

    def take_handle(self, curl: Any) -> None:
        """Keep curl's handle for :meth:`cancel` (``prepare_curl_callback``)."""
        curl.call = self
        self._curl = curl
        curl.setopt(pycurl.NOPROXY, "*")
        # A connection of its own for each call: on a used one that breaks before the answer, also when cancel() breaks
        # it, curl would take it for stale and ask Ollama a second time.
        curl.setopt(pycurl.FRESH_CONNECT, 1)
        curl.setopt(pycurl.FORBID_REUSE, 1)

    def take_chunk(self, chunk: bytes) -> None:
        """Pass bytes of the body on (``streaming_callback``)."""
        if not self.status:
            # From curl itself: Tornado's header callbacks may come after the first bytes of a body.
            self._take_head(self._curl.getinfo(pycurl.RESPONSE_CODE), self._curl.getinfo(pycurl.CONTENT_TYPE))
        self.last_byte = self._loop.time()
        if not self.ended.done():
            self._on_chunk(chunk)

    def _take_head(self, status: int, content_type: str | None) -> None:
        if not self.head.done():
            self.status = status
            self.content_type = content_type or ""
            self.head.set_result(None)

    def take_end(self, fetch: "asyncio.Future[HTTPResponse]") -> None:
        """Note how the transfer ended."""
        self._curl = None
        error = fetch.exception()  # asked for even where nobody cares: asyncio logs an exception never looked at
        if self.ended.done():
            return
        if error is None:
            response = fetch.result()
            self._take_head(response.code, response.headers.get("Content-Type"))
            self._end(None)
        elif self.status:
            self._end(AnswerBroken("The connection to Ollama broke before the answer was complete."))
        elif isinstance(error, CurlError) and error.errno in _BROKEN_OFF:
            self._end(AnswerBroken("Ollama closed the connection without an answer."))
        else:
            self._end(unreachable(self._url))

    def cancel(self) -> None:
        """Close the connection to Ollama, which stops its work; :attr:`ended` is done at once."""
        if not self.ended.done():
            self._end(AnswerBroken("The request to Ollama was closed."))
            self._shut()

    def _end(self, error: ChatterdError | None) -> None:
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)

    def _shut(self) -> None:
        """Shut the transfer's socket, so that the fetch fails: it cannot be cancelled from outside otherwise.

        The handle goes to another request when this one is over, hence the look at whose it is. While curl is still
        connecting there is no socket yet, hence another try.
        """
        if self._curl is None or self._curl.call is not self or self._curl.info is None:
            return
        descriptor = self._curl.getinfo(pycurl.ACTIVESOCKET)
        if descriptor >= 0:
            with socket.socket(fileno=os.dup(descriptor)) as connection, suppress(OSError):  # the other side was faster
                connection.shutdown(socket.SHUT_RDWR)
        self._loop.call_later(SHUT_RETRY, self._shut)


class Ollama:
    """Ollama at one address.

    :param url: base URL, no trailing slash.
    :param max_chats: chats at once.
    :param connect_timeout: seconds.
    """

    def __init__(self, url: str, max_chats: int, connect_timeout: float) -> None:
        self.url = url
        self._connect_timeout = connect_timeout
        self._chats = StreamingClient(force_instance=True, max_clients=max_chats, max_body_size=NO_LIMIT)
        self._others = StreamingClient(force_instance=True, max_clients=OTHER_CALLS, max_body_size=NO_LIMIT)
        self._probes = CurlAsyncHTTPClient(force_instance=True, max_clients=10)

    def chat(self, body: bytes, on_chunk: Callable[[bytes], None]) -> Call:
        """POST to ``/api/chat`` and hand the answer's bytes to ``on_chunk`` as they come, however the status."""
        return self._post(self._chats, "/api/chat", body, on_chunk)

    def generate(self, body: bytes, on_chunk: Callable[[bytes], None]) -> Call:
        """POST to ``/api/generate`` likewise. However many do, they take no place from the chats."""
        return self._post(self._others, "/api/generate", body, on_chunk)

    def _post(self, client: CurlAsyncHTTPClient, path: str, body: bytes, on_chunk: Callable[[bytes], None]) -> Call:
        call = Call(self.url, on_chunk)
        request = HTTPRequest(
            self.url + path,
            method="POST",
            headers={"Content-Type": "application/json"},
            body=body,
            connect_timeout=self._connect_timeout,
            request_timeout=0,
            follow_redirects=False,
            decompress_response=False,
            prepare_curl_callback=call.take_handle,
            streaming_callback=call.take_chunk,
        )
        client.fetch(request, raise_error=False).add_done_callback(call.take_end)
        return call

    async def get(self, path: str) -> HTTPResponse:
        """GET a small answer whole.

        :raises OllamaUnreachable: nothing answers within :data:`PROBE_TIMEOUT`.
        """
        request = HTTPRequest(
            self.url + path,
            connect_timeout=PROBE_TIMEOUT,
            request_timeout=PROBE_TIMEOUT,
            follow_redirects=False,
            prepare_curl_callback=lambda curl: curl.setopt(pycurl.NOPROXY, "*"),
        )
        try:
            return await self._probes.fetch(request, raise_error=False)
        except HTTPClientError as error:  # no answer at all: answers of any status are returned
            raise unreachable(self.url) from error

    @classmethod
    async def answers(cls, url: str) -> bool:
        """Whether an Ollama answers at ``url``."""
        asked = cls(url, 1, PROBE_TIMEOUT)
        try:
            return (await asked.get("/api/version")).code == 200
        except OllamaUnreachable:
            return False
        finally:
            asked.close()

    def close(self) -> None:
        """Close all connections."""
        self._chats.close()
        self._others.close()
        self._probes.close()


def unreachable(url: str) -> OllamaUnreachable:
    """Tell the client that nothing answers at Ollama's address, and the log which one that is."""
    log.info("Nothing answers at %s.", url)
    return OllamaUnreachable("Ollama cannot be reached. Whoever runs this server should see that it is started.")


def refusal(status: int, body: bytes) -> str:
    """Say why Ollama refused: its own words if it had any (``{"error": ...}``), and its status."""
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    text = chat_line.storable(body.decode(errors="replace").strip())
    try:
        said = ujson.loads(text)
    except ValueError:
        said = None
    if isinstance(said, dict) and said.get("error"):
        text = chat_line.error_text(said["error"])
    return f"{text} (Ollama answered {phrase})" if text else f"Ollama answered {phrase} and gave no reason."
