"""POST /llmprompt: Ollama's /api/generate, passed through as it comes. Nothing is recorded."""

import asyncio
from collections import deque

import msgspec
from tornado.iostream import StreamClosedError
from tornado.routing import PathMatches, Rule

from auth.principal import Access
from errors import BadRequest, UpstreamDisconnected, UpstreamUnreachable
from handlers.base import BaseHandler
from handlers.json_measures import characters, more_parts_than
from handlers.prompt import PARTS_LIMIT, TOO_MANY_PARTS
from relay.ollama.client import StreamingCall

BACKLOG_LIMIT = 67_108_864
"""Bytes that a client may be behind Ollama before its request is given up: Ollama is always read."""

ENDS = {StreamClosedError: "client left", TimeoutError: "client too slow", UpstreamDisconnected: "answer broken off"}
"""Why an answer was not passed on to its end, for the log."""


class LlmpromptHandler(BaseHandler):
    """Relays one answer to the one client that asked; when the client leaves, Ollama is told to stop."""

    route = "/llmprompt"
    needs = Access.AUTHENTICATED

    def initialize(self) -> None:
        """Nothing asked yet (called by Tornado)."""
        super().initialize()
        self._call: StreamingCall | None = None
        self._backlog: deque[bytes] = deque()
        self._size = 0
        self._more = asyncio.Event()

    def on_connection_close(self) -> None:
        """Stop Ollama's work for a client that has gone (called by Tornado)."""
        super().on_connection_close()
        if self._call:
            self._call.cancel()

    async def post(self) -> None:
        """Ask Ollama and pass on status, content type and bytes as they arrive."""
        body, concurrency = self.json_body(), self.services.replies.concurrency
        self._check_characters(body)
        address = self.services.limits.concurrency_key(str(self.request.remote_ip))
        self.services.limits.check_concurrent_replies(
            self.asker, concurrency.tenants[self.tenant], concurrency.addresses[address]
        )
        with concurrency.counted(self.tenant, address):
            await self._relay(body)

    def _check_characters(self, body: bytes) -> None:
        if self.services.limits.max_prompt_characters(self.asker):
            if more_parts_than(body, PARTS_LIMIT):
                raise BadRequest(TOO_MANY_PARTS)
            try:
                prompt = msgspec.json.decode(body)
            except (msgspec.DecodeError, RecursionError) as error:
                raise BadRequest("The body is not JSON, or nested too deeply.") from error
            self.services.limits.check_prompt(self.asker, characters(prompt))

    async def _relay(self, body: bytes) -> None:
        call = self._call = self.services.ollama.generate(body, self._take)
        call.done.add_done_callback(lambda _: self._more.set())
        await asyncio.wait([call.headers, call.done], return_when=asyncio.FIRST_COMPLETED)
        if not call.status:
            raise call.done.exception() or UpstreamUnreachable("Ollama gave no answer.")
        self.set_status(call.status)
        self.start_stream(call.content_type or "application/x-ndjson")
        try:
            await self._pass_on(call)
        except (StreamClosedError, TimeoutError, UpstreamDisconnected) as error:
            call.cancel()
            self.break_off(ENDS[type(error)])
        else:
            self.finish()

    def _take(self, chunk: bytes) -> None:
        self._backlog.append(chunk)
        self._size += len(chunk)
        self._more.set()
        if self._size > BACKLOG_LIMIT and self._call:
            self._call.cancel()

    async def _pass_on(self, call: StreamingCall) -> None:
        while self._backlog or not call.done.done():
            await self._more.wait()
            self._more.clear()
            while self._backlog:
                chunk = self._backlog.popleft()
                self.write(chunk)
                await asyncio.wait_for(self.flush(), self.services.settings.client_write_timeout)
                self._size -= len(chunk)
        call.done.result()


ROUTES = [Rule(PathMatches(r"/llmprompt/?"), LlmpromptHandler)]
