"""``POST /llmchat`` begins a reply and streams it; ``/llmchat/{reply id}`` streams it again, and stops it."""

from dataclasses import replace
from uuid import UUID

import msgspec
from tornado.routing import PathMatches, Rule

from auth.principal import Access
from errors import NotFound, TooManyRequests
from handlers.conversations import ConversationHandler
from handlers.reply_stream import ReplyStreamHandler
from relay.generation.prompt import Prompt
from relay.stream.cursor import Cursor
from web.chat_request import parse_chat_request
from web.validation import count_characters, parse_whole_number, query_argument


class ChatHandler(ConversationHandler, ReplyStreamHandler):
    """``POST`` records a prompt and streams the reply; ``GET`` and ``DELETE`` belong to the conversation."""

    route = "/llmchat"

    async def post(self) -> None:
        """Begin a reply, and stream it or, with ``Prefer: respond-async`` (RFC 7240), respond with its location."""
        prompt = self._parse_prompt()
        if not self._prefers_async():
            with self.viewer_slot():
                await self.stream(await self._begin(prompt))
            return
        cursor = await self._begin(prompt)
        self.log_fields["reply"] = str(cursor.id)
        location = f"/llmchat/{cursor.id}"
        self.set_header("Location", location)
        self.set_header("Preference-Applied", "respond-async")
        self.write_json({"id": str(cursor.id), "location": self.public_path(location)}, 202)

    def _parse_prompt(self) -> Prompt:
        body, limits, settings = self.json_body(), self.services.limits, self.services.settings
        key = self.request.headers.get("Idempotency-Key")
        prompt = parse_chat_request(body, self.tenant, key, settings.max_messages, settings.max_json_depth)
        if limits.max_prompt_characters(self.principal):
            limits.check_prompt(self.principal, count_characters(msgspec.json.decode(body)))
        address = limits.concurrency_key(str(self.request.remote_ip))
        return replace(prompt, address=address) if address else prompt

    async def _begin(self, prompt: Prompt) -> Cursor:
        replies = self.services.replies
        concurrency = replies.concurrency
        try:
            self.services.limits.check_concurrent_replies(
                self.principal, concurrency.tenants[prompt.tenant], concurrency.addresses[prompt.address]
            )
        except TooManyRequests:
            if existing := await replies.find_by_idempotency_key(prompt):
                return existing
            raise
        return await replies.begin(prompt)

    def _prefers_async(self) -> bool:
        preferences = ",".join(self.request.headers.get_list("Prefer"))
        return "respond-async" in (preference.strip().lower() for preference in preferences.split(","))


class ReplyHandler(ReplyStreamHandler):
    """One reply."""

    route = "/llmchat/{replyId}"
    access = Access.AUTHENTICATED

    async def get(self, reply_id: str) -> None:
        """Stream the lines after ``Last-Event-ID``, or all; 204 if there are no more, which makes an EventSource stop
        reconnecting (WHATWG HTML, section 9.2.3)."""
        cursor = await self.services.replies.follow(self.tenant, _parse_id(reply_id), self._first_line())
        if cursor.exhausted:
            self.set_status(204)
        else:
            with self.viewer_slot():
                await self.stream(cursor)

    async def delete(self, reply_id: str) -> None:
        """Stop the reply: 202, or 204 if it has ended already."""
        stopping = await self.services.replies.stop(self.tenant, _parse_id(reply_id))
        self.set_status(202 if stopping else 204)
        self.clear_header("Content-Type")

    def _first_line(self) -> int:
        last = self.request.headers.get("Last-Event-ID") or query_argument(self.request, "lastEventId")
        return parse_whole_number("Last-Event-ID", last) + 1 if last else 0


def _parse_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFound("There is no such reply.") from error


ROUTES = [
    Rule(PathMatches(r"/llmchat/?"), ChatHandler),
    Rule(PathMatches(r"/llmchat/([^/]+)"), ReplyHandler),
]
