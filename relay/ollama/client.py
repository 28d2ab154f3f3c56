"""The client of Ollama's HTTP API: streaming calls that can be cancelled, and what goes wrong on the way, in words."""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from ssl import SSLCertVerificationError

import ujson
from tornado.httpclient import HTTPRequest, HTTPResponse

from errors import UpstreamDisconnected, UpstreamUnreachable
from relay.ollama import chat_line
from relay.ollama.http_client import StreamingClient
from relay.ollama.response_parser import RemoteProtocolError

log = logging.getLogger("chatterd.relay")

PROBE_TIMEOUT = 3.0
"""Seconds for the small questions: which models, are you there."""

PROBES = 10
"""Small questions at once."""

OTHER_CALLS = 200
"""Streaming calls at once that are not chats; more of them wait for their turn."""

ERROR_BODY_LIMIT = 65_536
"""Bytes kept of the body of an answer that is an error."""


class StreamingCall:
    """One streaming request to Ollama.

    :ivar head: done when status and content type are known: with the first bytes of the body, or at a clean end.
    :ivar status: Ollama's HTTP status, 0 until ``head`` is done.
    :ivar ended: done at the answer's end; if that was not a clean one, its exception is OllamaUnreachable or
        AnswerBroken.
    """

    def __init__(self, client: StreamingClient, request: HTTPRequest, on_chunk: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.status = 0
        self.content_type = ""
        self.headers: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.done.add_done_callback(lambda ended: ended.exception())  # may have nobody who asks
        self._client = client
        self._request = request
        request.header_callback = self._take_head_line
        request.streaming_callback = on_chunk
        client.fetch(request, raise_error=False).add_done_callback(self._take_end)

    def cancel(self) -> None:
        """Close the connection to Ollama, which stops its work; :attr:`ended` is done at once."""
        if not self.done.done():
            self.done.set_exception(UpstreamDisconnected("The request to Ollama was closed."))
            self._client.cancel(self._request)

    def _take_head_line(self, line: str) -> None:
        if line.startswith("HTTP/"):
            self._status_to_be = int(line.split()[1])
        elif line.lower().startswith("content-type:"):
            self.content_type = line.partition(":")[2].strip()
        elif line == "\r\n":
            self.status = self._status_to_be
            self.headers.set_result(None)

    def _take_end(self, fetch: "asyncio.Future[HTTPResponse]") -> None:
        self._request.header_callback = self._request.streaming_callback = None  # they lead back here
        error = fetch.exception()  # asked for even where nobody cares: asyncio logs an exception never looked at
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        elif not isinstance(error, RemoteProtocolError | OSError):
            log.error("What Ollama at %s answered could not be taken.", self._request.url, exc_info=error)
            self.done.set_exception(UpstreamDisconnected("Something went wrong in the server; its log has more."))
        elif self.status:
            self.done.set_exception(
                UpstreamDisconnected("The connection to Ollama broke before the answer was complete.")
            )
        elif isinstance(error, RemoteProtocolError):
            self.done.set_exception(UpstreamDisconnected("Ollama closed the connection without an answer."))
        else:
            self.done.set_exception(unreachable(self._request.url, error))


class OllamaClient:
    """Ollama at one address.

    :param url: base URL, no trailing slash.
    :param max_chats: chats at once.
    :param connect_timeout: seconds.
    """

    def __init__(self, url: str, max_chats: int, connect_timeout: float) -> None:
        self.url = url
        self._connect_timeout = connect_timeout
        self._chats = StreamingClient(force_instance=True, max_clients=max_chats)
        self._others = StreamingClient(force_instance=True, max_clients=OTHER_CALLS)
        self._probes = StreamingClient(force_instance=True, max_clients=PROBES)

    def chat(self, body: bytes, on_chunk: Callable[[bytes], None]) -> StreamingCall:
        """POST to ``/api/chat`` and hand the answer's bytes to ``on_chunk`` as they come, however the status."""
        return self._post(self._chats, "/api/chat", body, on_chunk)

    def generate(self, body: bytes, on_chunk: Callable[[bytes], None]) -> StreamingCall:
        """POST to ``/api/generate`` likewise. However many do, they take no place from the chats."""
        return self._post(self._others, "/api/generate", body, on_chunk)

    def _post(
        self, client: StreamingClient, path: str, body: bytes, on_chunk: Callable[[bytes], None]
    ) -> StreamingCall:
        request = HTTPRequest(
            self.url + path,
            method="POST",
            headers={"Content-Type": "application/json"},
            body=body,
            connect_timeout=self._connect_timeout,
            request_timeout=0,
        )
        return StreamingCall(client, request, on_chunk)

    async def get(self, path: str) -> HTTPResponse:
        """GET a small answer whole.

        :raises OllamaUnreachable: nothing answers within :data:`PROBE_TIMEOUT`.
        """
        request = HTTPRequest(self.url + path, connect_timeout=0, request_timeout=0)
        fetch = self._probes.fetch(request, raise_error=False)
        fetch.add_done_callback(lambda fetch: fetch.exception())  # may have nobody who asks
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                return await asyncio.shield(fetch)  # Tornado logs an error if what was cancelled itself then fails
        except (OSError, RemoteProtocolError) as error:
            raise unreachable(self.url, error) from error
        finally:
            self._probes.cancel(request)

    async def state(self) -> str:
        """How it is: ``ok``, or ``answered <status>``.

        :raises OllamaUnreachable: nothing answers within :data:`PROBE_TIMEOUT`.
        """
        answer = await self.get("/api/version")
        return "ok" if answer.code == 200 else f"answered {answer.code}"

    @classmethod
    async def is_reachable(cls, url: str) -> bool:
        """Whether an Ollama answers at ``url``."""
        asked = cls(url, 1, PROBE_TIMEOUT)
        try:
            return (await asked.get("/api/version")).code == 200
        except UpstreamUnreachable:
            return False
        finally:
            asked.close()

    def close(self) -> None:
        """Close all connections."""
        self._chats.close()
        self._others.close()
        self._probes.close()


def unreachable(url: str, error: BaseException) -> UpstreamUnreachable:
    """Tell the client that nothing answers at Ollama's address, and the log which one that is, and why."""
    log.info("Nothing answers at %s: %s", url, error)
    if isinstance(error, SSLCertVerificationError):
        return UpstreamUnreachable(
            "Ollama's certificate is not trusted. Whoever runs this server should see that it is valid, and that this "
            "server knows who issued it."
        )
    return UpstreamUnreachable("Ollama cannot be reached. Whoever runs this server should see that it is started.")


def describe_error_response(status: int, body: bytes) -> str:
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
