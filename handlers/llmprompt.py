"""``POST /llmprompt``: Ollama's ``/api/generate``, passed through as it arrives. Nothing is recorded.

With ``--num-ctx`` a request without ``options.num_ctx`` is sent with it: else it would make Ollama load the model anew,
with another window than the replies have.
"""

import asyncio
import math
from collections import deque
from typing import cast

import msgspec
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.routing import PathMatches, Rule

from auth.principal import Access
from errors import UpstreamDisconnected, UpstreamSilent, UpstreamUnreachable
from relay.ollama.client import OllamaClient, StreamingCall
from relay.outgoing import SMALL, RequestBody
from relay.window.request_options import with_num_ctx
from web.base import BaseHandler
from web.connections.disconnection import DisconnectWatch
from web.json_body.decoding import count_characters, decode_checked, one_at_a_time

BACKLOG_LIMIT = 67_108_864
"""Bytes that a client may be behind Ollama before its request is aborted: Ollama is always read. Those beyond
:data:`relay.outgoing.SMALL` are also charged to the share of memory of its sender."""

ABORT_REASONS = {
    StreamClosedError: "client left",
    TimeoutError: "client too slow",
    UpstreamDisconnected: "upstream disconnected",
    UpstreamSilent: "upstream too slow",
}
"""Why a response was aborted, for the log."""


class GenerateHandler(BaseHandler):
    """Relays one response to one client. Ollama's work is stopped when the client disconnects, and after the times that
    limit a reply."""

    route = "/llmprompt"
    access = Access.AUTHENTICATED
    body_limit = None

    def initialize(self) -> None:
        """Set up the handler (called by Tornado)."""
        super().initialize()
        self._call: StreamingCall | None = None
        self._backlog: deque[bytes] = deque()
        self._lag = 0  # bytes of the backlog, and of what the client has not taken yet
        self._arrived = asyncio.Event()
        self._silent_at = 0.0
        self._ends_at = math.inf

    def on_connection_close(self) -> None:
        """Stop Ollama's work for a client that has disconnected (called by Tornado)."""
        super().on_connection_close()
        if self._call:
            self._call.cancel()

    async def post(self) -> None:
        """Send the body to Ollama, and pass on status, content type and bytes as they arrive."""
        self._behind = self.new_charge()
        body, model = await self._parse()
        concurrency = self.services.replies.concurrency
        address = self.services.limits.concurrency_key(str(self.request.remote_ip))
        try:
            self.services.limits.check_concurrent_replies(
                self.principal, concurrency.tenants[self.tenant], concurrency.addresses[address]
            )
            with concurrency.counted(self.tenant, address), self.services.upstreams.serving(model) as ollama:
                await self._relay(ollama, body)
        finally:
            body.discard()
            self._behind.release()

    async def _parse(self) -> tuple[RequestBody, str]:
        """Return the body, which is in memory until it is sent, and the model that it names."""
        body = self.json_body()
        await self._check_characters(body)
        model = _model_of(body)
        if num_ctx := self.services.settings.num_ctx:
            body = _with_num_ctx(body, num_ctx)
        return RequestBody(body, self.take_charge()), model

    async def _check_characters(self, body: bytes) -> None:
        limits = self.services.limits
        if limits.max_prompt_characters(self.principal):
            async with one_at_a_time(self.services.large_bodies, body):
                fields = await decode_checked(body, self.services.settings.max_json_depth)
                images = [fields["images"]] if "images" in fields else []
                limits.check_prompt(self.principal, await count_characters(body, images))

    async def _relay(self, ollama: OllamaClient, body: RequestBody) -> None:
        stream = cast(HTTP1Connection, self.request.connection).stream
        if stream.closed():  # on_connection_close() has run already, and would not stop the call
            self.log_fields["abort_reason"] = ABORT_REASONS[StreamClosedError]
            return
        self._silent_at = asyncio.get_running_loop().time() + self.services.settings.first_line_timeout
        call = self._call = ollama.generate(body, self._on_chunk)
        for event in (call.headers, call.done):
            event.add_done_callback(lambda _: self._arrived.set())
        try:
            with DisconnectWatch(stream):
                await self._respond(call)
        finally:
            call.cancel()
            self._call = None  # break the reference cycle

    async def _respond(self, call: StreamingCall) -> None:
        while not call.headers.done() and not call.done.done():
            await self._wait()
        if not call.status:
            raise _failure(call)
        self.set_status(call.status)
        self.start_stream(call.content_type or "application/x-ndjson")
        try:
            await self._pass_on(call)
        except (StreamClosedError, TimeoutError, UpstreamDisconnected, UpstreamSilent) as error:
            self.abort_stream(ABORT_REASONS[type(error)])
        else:
            await self.finish_stream()

    def _on_chunk(self, chunk: bytes) -> None:
        now, settings = asyncio.get_running_loop().time(), self.services.settings
        if self._ends_at == math.inf:
            self._ends_at = now + settings.reply_timeout
        self._silent_at = now + settings.ollama_read_timeout
        if self._lag < BACKLOG_LIMIT and self._count_lag(len(chunk)):
            self._backlog.append(chunk)
            self._arrived.set()
        elif self._call:
            self._call.cancel()

    def _count_lag(self, change: int) -> bool:
        """Count what the client is behind; return False if the sender's share has no room for it.

        What is small is not charged: a sender that uses its share for bodies would lose all its responses.
        """
        self._lag += change
        more = max(0, self._lag - SMALL) - self._behind.size
        if more > 0:
            return self._behind.grow(more)
        self._behind.shrink(-more)
        return True

    async def _wait(self) -> None:
        """Wait until something has arrived from Ollama, or the call has ended.

        :raises UpstreamSilent: nothing arrives for as long as Ollama may be silent, or the response takes longer than a
            reply may.
        """
        settings, loop = self.services.settings, asyncio.get_running_loop()
        silence = settings.first_line_timeout if self._ends_at == math.inf else settings.ollama_read_timeout
        try:
            async with asyncio.timeout_at(min(self._silent_at, self._ends_at)):
                await self._arrived.wait()
        except TimeoutError as error:
            if loop.time() < self._ends_at:
                raise UpstreamSilent(f"Ollama sent nothing for {silence:g} seconds.") from error
        self._arrived.clear()
        if loop.time() >= self._ends_at:
            raise UpstreamSilent(f"The response took longer than {settings.reply_timeout:g} seconds.")

    async def _pass_on(self, call: StreamingCall) -> None:
        while True:
            while self._backlog:
                chunk = self._backlog.popleft()
                self.write(chunk)
                await asyncio.wait_for(self.flush(), self.services.settings.client_write_timeout)
                self._count_lag(-len(chunk))
            if call.done.done():
                break
            await self._wait()
        if call.done.exception():
            raise _failure(call)


def _failure(call: StreamingCall) -> BaseException:
    """Return why a call failed: a copy, since the call's own error would get a traceback whose frames refer to the
    call, a reference cycle."""
    error = call.done.exception()
    return type(error)(*error.args) if error else UpstreamUnreachable("Ollama sent no response.")


class _Request(msgspec.Struct):
    model: str = ""


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_decode_request = msgspec.json.Decoder(_Request).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _model_of(body: bytes) -> str:
    """Return the model that a request names; empty if that cannot be read, which Ollama reports."""
    try:
        return _decode_request(body).model
    except _UNREADABLE:
        return ""


def _with_num_ctx(body: bytes, num_ctx: int) -> bytes:
    """Return a request with ``options.num_ctx``, unless it has one, or is no JSON object."""
    try:
        fields = _decode_fields(body)
    except _UNREADABLE:
        return body
    changed = with_num_ctx(fields, num_ctx)
    return body if changed == fields else msgspec.json.encode(changed)


ROUTES = [Rule(PathMatches(r"/llmprompt/?"), GenerateHandler)]
