"""``POST /llmchat`` begins a reply and streams it; ``/llmchat/{reply id}`` streams it again, and stops it."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from tornado.routing import PathMatches, Rule

from auth.principal import Access
from errors import NotFound, TooManyRequests
from handlers.conversations import ConversationHandler
from handlers.reply_stream import ReplyStreamHandler
from relay.generation.prompt import Prompt
from relay.stream.cursor import Cursor, LineReader
from relay.waiting import WaitingPrompt
from relay.window.request_options import with_num_ctx
from web.chat_request import count_prompt_characters, parse_chat_request
from web.json_body.decoding import one_at_a_time

Reader = TypeVar("Reader", bound=LineReader)

Begin = Callable[[Prompt], Awaitable[LineReader]]
"""Records a prompt and starts its reply, or lets the prompt wait."""


class ChatHandler(ConversationHandler, ReplyStreamHandler):
    """``POST`` records a prompt and streams the reply; ``GET`` and ``DELETE`` belong to the conversation."""

    route = "/llmchat"
    body_limit = None

    async def post(self) -> None:
        """Begin a reply, and stream it or, with ``Prefer: respond-async`` (RFC 7240), respond with its location.

        A prompt of a plain client, which can neither follow nor stop a reply, waits while another reply of the
        conversation is generated. A repeated prompt (``Last-Event-ID``) begins nothing.
        """
        # No frame that lives as long as the reply refers to the prompt, which may have megabytes of images.
        if self.first_line() is not None:
            await self._reconnect()
        elif self._prefers_async():
            self._respond_with_location((await self._with_prompt(self._begin)).id)
        else:
            with self.viewer_slot():
                await self.stream(await self._with_prompt(self._begin))

    async def _reconnect(self) -> None:
        cursor = await self._with_prompt(self._find_begun)
        if self._prefers_async():
            self._respond_with_location(cursor.id)
        else:
            await self.show(cursor)

    async def _with_prompt(self, work: Callable[[Prompt], Awaitable[Reader]]) -> Reader:
        """Parse the prompt and do something with it. Its memory is charged until that is done, or until the prompt
        waits no more."""
        prompt = await self._parse_prompt()
        charge, reader = self.take_charge(), None
        try:
            reader = await work(prompt)
            return reader
        finally:
            if isinstance(reader, WaitingPrompt):
                reader.keep(charge)
            else:
                charge.release()

    async def _find_begun(self, prompt: Prompt) -> Cursor:
        return await self.services.replies.reconnect(prompt, self.first_line() or 0)

    def _respond_with_location(self, id: UUID) -> None:
        self.log_fields["reply"] = str(id)
        location = f"/llmchat/{id}"
        self.set_header("Location", location)
        self.set_header("Preference-Applied", "respond-async")
        context = self.services.replies.context(self.tenant, id)
        self.write_json({"id": str(id), "location": self.public_path(location), "context": context}, 202)

    async def _parse_prompt(self) -> Prompt:
        body, limits, settings = self.json_body(), self.services.limits, self.services.settings
        key = self.request.headers.get("Idempotency-Key")
        async with one_at_a_time(self.services.large_bodies, body):
            prompt = await parse_chat_request(body, self.tenant, key, settings.max_messages, settings.max_json_depth)
            if limits.max_prompt_characters(self.principal):
                limits.check_prompt(self.principal, await count_prompt_characters(body, prompt.messages))
        address = limits.concurrency_key(str(self.request.remote_ip))
        return replace(
            prompt,
            options=with_num_ctx(prompt.options, settings.num_ctx),
            address=address,
            plain_client=key is None and not self._prefers_async(),
        )

    async def _begin(self, prompt: Prompt) -> LineReader:
        """Begin a reply, or find it; a prompt of a plain client may have to wait."""
        replies = self.services.replies
        concurrency = replies.concurrency
        try:
            self.services.limits.check_concurrent_replies(
                self.principal, concurrency.tenants[prompt.tenant], concurrency.addresses[prompt.address]
            )
        except TooManyRequests:
            if existing := await replies.find_by_idempotency_key(prompt):
                return existing
            if prompt.plain_client and (waiting := await replies.wait_for_own(prompt)):
                return waiting
            raise
        begin: Begin = replies.begin_or_wait if prompt.plain_client else replies.begin
        return await begin(prompt)

    def _prefers_async(self) -> bool:
        preferences = ",".join(self.request.headers.get_list("Prefer"))
        return "respond-async" in (preference.strip().lower() for preference in preferences.split(","))


class ReplyHandler(ReplyStreamHandler):
    """One reply."""

    route = "/llmchat/{replyId}"
    access = Access.AUTHENTICATED

    async def get(self, reply_id: str) -> None:
        """Stream the lines after ``Last-Event-ID``, or all; 204 if there are no more."""
        await self.show(await self.services.replies.follow(self.tenant, _parse_id(reply_id), self.first_line() or 0))

    async def delete(self, reply_id: str) -> None:
        """Stop the reply: 202, or 204 if it has ended already."""
        stopping = await self.services.replies.stop(self.tenant, _parse_id(reply_id))
        self.set_status(202 if stopping else 204)
        self.clear_header("Content-Type")


def _parse_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFound("There is no such reply.") from error


ROUTES = [
    Rule(PathMatches(r"/llmchat/?"), ChatHandler),
    Rule(PathMatches(r"/llmchat/([^/]+)"), ReplyHandler),
]
