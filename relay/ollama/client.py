"""The client of Ollama's HTTP API: streaming calls that can be cancelled, and the texts of errors."""

import asyncio
import logging
from base64 import b64encode
from collections.abc import Callable
from ssl import SSLCertVerificationError, SSLError
from time import monotonic
from typing import Any
from urllib.parse import unquote, urlsplit

from tornado.httpclient import HTTPRequest, HTTPResponse

from errors import ChatterdError, UpstreamDisconnected, UpstreamSilent, UpstreamUnreachable, UpstreamUntrusted
from relay.ollama import foreign_server
from relay.ollama.foreign_server import OllamaState
from relay.ollama.http_client import StreamingClient
from relay.ollama.response_parser import RemoteProtocolError
from relay.outgoing import RequestBody
from settings import without_user_info

log = logging.getLogger("chatterd.relay")

SHORT_REQUEST_TIMEOUT = 10.0
"""Seconds until a short request (version, list of models) fails. A machine that wakes up, or lists models from a slow
disk, needs some; the page waits for 15 s (``static/shared/api.js``, ``REQUEST_TIMEOUT``)."""

MAX_SHORT_REQUESTS = 10
"""Maximum number of concurrent short requests; further ones are queued."""

MAX_GENERATES = 200
"""Maximum number of concurrent streaming calls other than chats; further ones are queued."""

ERROR_BODY_LIMIT = 65_536
"""Bytes of an error response's body to keep for :func:`relay.ollama.upstream_error.describe`."""


COLLECTED_BODY_LIMIT = 67_108_864
"""Maximum bytes of a response that :meth:`OllamaClient.post` collects: a rendered prompt."""

LOG_INTERVAL = 1.0
"""Seconds between two log lines that say that one URL is unreachable: during an outage, all replies try again."""

_logged_at: dict[str, float] = {}
"""When each URL was logged as unreachable, by ``time.monotonic``."""

NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
"""OpenSSL's reasons for a failed handshake with a server that speaks plain HTTP (``openssl/sslerr.h``)."""

CHAT, GENERATE, SHOW = "/api/chat", "/api/generate", "/api/show"
"""Paths of Ollama's API."""


class StreamingCall:
    """A streaming request to Ollama.

    :ivar headers: future that is done when the head of the response was received. It stays pending if none arrives.
    :ivar status: HTTP status of the response; 0 until ``headers`` is done.
    :ivar content_type: of the response; empty if it has none.
    :ivar done: future that is done when the call has ended. Its exception is None if the response is complete, else
        UpstreamUnreachable or UpstreamDisconnected.
    """

    def __init__(
        self, client: StreamingClient, request: HTTPRequest, body: RequestBody, on_chunk: Callable[[bytes], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.status = 0
        self.content_type = ""
        self.headers: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.done.add_done_callback(_retrieve_exception)
        self._client = client
        self._request = request
        self._body = body
        request.header_callback = self._on_head_line
        request.streaming_callback = on_chunk
        client.fetch(request, raise_error=False).add_done_callback(self._on_fetched)

    def cancel(self) -> None:
        """Close the connection at once, so that Ollama stops generating; :attr:`done` fails, unless it is done."""
        if not self.done.done():
            self.done.set_exception(UpstreamDisconnected("The request to Ollama was cancelled."))
            self._client.cancel(self._request)

    def _on_head_line(self, line: str) -> None:
        if line.startswith("HTTP/"):
            self.status = int(line.split()[1])
        elif line.lower().startswith("content-type:"):
            self.content_type = line.partition(":")[2].strip()
        elif line == "\r\n":
            self.headers.set_result(None)

    def _on_fetched(self, fetch: "asyncio.Future[HTTPResponse]") -> None:
        self._request.header_callback = self._request.streaming_callback = None  # break the reference cycle
        self._body.discard()
        error = fetch.exception()
        if error is None:
            fetch.result().error = None  # for an error status it refers to the response: another cycle
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        elif not isinstance(error, RemoteProtocolError | OSError):
            log.error("Processing the response from %s failed.", self._request.url, exc_info=error)
            self.done.set_exception(UpstreamDisconnected("Internal server error. The server's log has the details."))
        elif self.status:
            self.done.set_exception(
                UpstreamDisconnected("The connection to Ollama was lost before the response was complete.")
            )
        elif isinstance(error, RemoteProtocolError):
            self.done.set_exception(UpstreamDisconnected("Ollama closed the connection without an answer."))
        else:
            _log_unreachable(self._request.url, error)
            self.done.set_exception(_unreachable(error))


class OllamaClient:
    """Client of the Ollama at one URL.

    :param url: base URL without a trailing slash. Its user and password, if any, are sent as ``Authorization: Basic``
        (RFC 7617), and are nowhere else: no log line and no error contains them.
    :param max_chats: maximum number of concurrent chats; further ones are queued.
    :param connect_timeout: seconds until connecting for a streaming call fails.
    :ivar url: the URL without user and password.
    """

    def __init__(self, url: str, max_chats: int, connect_timeout: float) -> None:
        self.url = without_user_info(url)
        self._authorization = _basic_authorization(url)
        self._max_chats = max_chats
        self._connect_timeout = connect_timeout
        # One more for a summary (relay.summary), which never delays a reply.
        self._chats = StreamingClient(force_instance=True, max_clients=max_chats + 1)
        self._generates = StreamingClient(force_instance=True, max_clients=MAX_GENERATES)
        self._short_requests = StreamingClient(force_instance=True, max_clients=MAX_SHORT_REQUESTS)

    def at(self, url: str) -> "OllamaClient":
        """Return a client of another Ollama with the same limits."""
        return OllamaClient(url, self._max_chats, self._connect_timeout)

    def stream(
        self, path: str, body: RequestBody, on_chunk: Callable[[bytes], None], conversation_key: str
    ) -> StreamingCall:
        """POST a request whose response belongs to a reply.

        :param body: gone from memory once it is sent, or the call has failed.
        :param on_chunk: called with each piece of the response's body as it arrives, whatever the status is. If it
            raises, the call fails and the exception is logged.
        :param conversation_key: sent as ``X-Conversation-Key``; lets a balancer choose the Ollama that has the
            conversation in its cache. Empty for none.
        """
        return self._post(self._chats, path, body, on_chunk, conversation_key)

    async def post(self, path: str, body: bytes, seconds: float, conversation_key: str) -> tuple[int, bytes]:
        """POST a request and collect its response. The connection is closed if this is cancelled.

        :param seconds: how long to wait for all of it.
        :returns: status and body.
        :raises UpstreamUnreachable: there is no connection.
        :raises UpstreamDisconnected: the response is not complete.
        :raises TimeoutError: the response is not complete in time.
        :raises ChatterdError: the response is larger than :data:`COLLECTED_BODY_LIMIT`.
        """
        response = bytearray()

        def collect(chunk: bytes) -> None:
            response.extend(chunk)
            if len(response) > COLLECTED_BODY_LIMIT:
                call.cancel()

        call = self.stream(path, RequestBody(body), collect, conversation_key)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wait([call.done])
        finally:
            call.cancel()
        if len(response) > COLLECTED_BODY_LIMIT:
            raise ChatterdError("Ollama's response is too large.")
        if error := call.done.exception():
            # A copy: the error itself would refer to this frame by its traceback, a cycle that holds the body.
            raise type(error)(*error.args)
        return call.status, bytes(response)

    def generate(self, body: RequestBody, on_chunk: Callable[[bytes], None]) -> StreamingCall:
        """POST to ``/api/generate`` for a client. Its limit is separate: these calls never delay a reply."""
        return self._post(self._generates, GENERATE, body, on_chunk)

    def _post(
        self,
        client: StreamingClient,
        path: str,
        body: RequestBody,
        on_chunk: Callable[[bytes], None],
        conversation_key: str = "",
    ) -> StreamingCall:
        headers = {"Content-Type": "application/json", "Content-Length": str(body.size), **self._authorization}
        if conversation_key:
            headers["X-Conversation-Key"] = conversation_key
        request = HTTPRequest(
            self.url + path,
            method="POST",
            headers=headers,
            body_producer=body.send,  # type: ignore[arg-type]  # the client awaits it, and what it awaits of write
            connect_timeout=self._connect_timeout,
            request_timeout=0,
        )
        return StreamingCall(client, request, body, on_chunk)

    async def get(
        self, path: str, seconds: float | None = None, quiet: bool = False, conversation_key: str = ""
    ) -> HTTPResponse:
        """GET a small response.

        :param seconds: how long to wait for it; by default :data:`SHORT_REQUEST_TIMEOUT`.
        :param quiet: whether a failure is not logged, because the caller asks again and again.
        :param conversation_key: see :meth:`stream`.
        :raises UpstreamSilent: there is no complete response in time.
        :raises UpstreamUnreachable: there is no connection, or it broke.
        """
        seconds = SHORT_REQUEST_TIMEOUT if seconds is None else seconds
        headers = self._authorization | ({"X-Conversation-Key": conversation_key} if conversation_key else {})
        request = HTTPRequest(self.url + path, headers=headers, connect_timeout=0, request_timeout=0)
        fetch = self._short_requests.fetch(request, raise_error=False)
        fetch.add_done_callback(_retrieve_exception)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(
                    fetch
                )  # Tornado logs an error when a fetch fails after its future was cancelled
        except TimeoutError as error:
            if not quiet:
                _log_unreachable(self.url, f"no response within {seconds:g} s")
            raise UpstreamSilent(
                f"Ollama has not responded within {seconds:g} seconds. It may be starting, or busy. Try again soon."
            ) from error
        except (OSError, RemoteProtocolError) as error:
            if not quiet:
                _log_unreachable(self.url, error)
            raise _unreachable(error) from error
        finally:
            self._short_requests.cancel(request)

    async def state(self, seconds: float | None = None, quiet: bool = False) -> OllamaState:
        """Send ``GET /api/version`` and tell what answers. The parameters are those of :meth:`get`."""
        try:
            response = await self.get("/api/version", seconds, quiet)
        except UpstreamSilent:
            return OllamaState(foreign_server.SILENT)
        except UpstreamUntrusted as error:
            return OllamaState(foreign_server.UNREACHABLE, str(error))
        except UpstreamUnreachable:
            return OllamaState(foreign_server.UNREACHABLE)
        return foreign_server.state_of(response.code, response.body)

    def close(self) -> None:
        """Close all connections; pending calls fail."""
        self._chats.close()
        self._generates.close()
        self._short_requests.close()


def _retrieve_exception(future: "asyncio.Future[Any]") -> None:
    """Mark a future's exception as retrieved, so that asyncio does not log it if the caller does not await it."""
    if not future.cancelled():
        future.exception()


def _basic_authorization(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {b64encode(credentials.encode()).decode()}"}


def _log_unreachable(url: str, reason: object) -> None:
    """Log the URL and the cause, which clients must not see."""
    now = monotonic()
    if now - _logged_at.get(url, -LOG_INTERVAL) >= LOG_INTERVAL:
        _logged_at[url] = now
        log.info("Cannot reach Ollama at %s: %s", url, reason)


def _unreachable(error: BaseException) -> UpstreamUnreachable:
    """Return the error for the client."""
    if isinstance(error, SSLCertVerificationError):
        return UpstreamUntrusted(
            "Ollama's certificate is not trusted. Check that it is valid and that its issuer is in the server's trust "
            "store (SSL_CERT_FILE)."
        )
    if isinstance(error, SSLError) and error.reason in NOT_TLS:
        return UpstreamUntrusted(
            "The server at Ollama's address does not speak TLS as it should. Check whether OLLAMA_HOST must begin with "
            "http:// instead of https://."
        )
    return UpstreamUnreachable("Ollama cannot be reached. Check that it is running.")
