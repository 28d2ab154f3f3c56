"""POST /llmchat begins a reply and shows it; /llmchat/{reply id} shows it again, to anyone, and stops it."""

from dataclasses import replace
from uuid import UUID

import msgspec
from tornado.routing import PathMatches, Rule

from auth.principal import Access
from errors import NotFound, TooManyRequests
from handlers import parameters, prompt
from handlers.conversation import ConversationHandler
from handlers.json_measures import characters
from handlers.viewer import ViewerHandler
from relay.generation.prompt import Prompt
from relay.stream.cursor import Cursor


class LlmchatHandler(ConversationHandler, ViewerHandler):
    """A prompt is answered with its reply's stream; GET and DELETE are the conversation's."""

    route = "/llmchat"

    async def post(self) -> None:
        """Begin a reply. With ``Prefer: respond-async`` (RFC 7240) say only where it can be followed."""
        asked = self._asked()
        if not self._prefers_async():
            with self.place():
                await self.show(await self._begin(asked))
        else:
            cursor = await self._begin(asked)
            self.log_fields["reply"] = str(cursor.id)
            location = f"/llmchat/{cursor.id}"
            self.set_header("Location", location)
            self.set_header("Preference-Applied", "respond-async")
            self.write_json({"id": str(cursor.id), "location": location}, 202)

    def _asked(self) -> Prompt:
        body, limits, settings = self.json_body(), self.services.limits, self.services.settings
        key = self.request.headers.get("Idempotency-Key")
        asked = prompt.parse(body, self.tenant, key, settings.max_messages, settings.max_json_depth)
        if limits.max_prompt_characters(self.asker):
            limits.check_prompt(self.asker, characters(msgspec.json.decode(body)))
        address = limits.concurrency_key(str(self.request.remote_ip))
        return replace(asked, address=address) if address else asked

    async def _begin(self, asked: Prompt) -> Cursor:
        replies = self.services.replies
        concurrency = replies.concurrency
        try:
            self.services.limits.check_concurrent_replies(
                self.asker, concurrency.tenants[asked.tenant], concurrency.addresses[asked.address]
            )
        except TooManyRequests:
            if known := await replies.find_by_idempotency_key(asked):
                return known
            raise
        return await replies.begin(asked)

    def _prefers_async(self) -> bool:
        preferences = ",".join(self.request.headers.get_list("Prefer"))
        return "respond-async" in (preference.strip().lower() for preference in preferences.split(","))


class ReplyHandler(ViewerHandler):
    """One reply."""

    route = "/llmchat/{replyId}"
    needs = Access.AUTHENTICATED

    async def get(self, reply_id: str) -> None:
        """Show the lines after ``Last-Event-ID``, or all. 204 tells an EventSource that there is nothing more
        (WHATWG HTML, section 9.2.3)."""
        cursor = await self.services.replies.follow(self.tenant, _id(reply_id), self._first())
        if cursor.exhausted:
            self.set_status(204)
        else:
            with self.place():
                await self.show(cursor)

    async def delete(self, reply_id: str) -> None:
        """Stop the reply: 202, or 204 if it has ended."""
        stopping = await self.services.replies.stop(self.tenant, _id(reply_id))
        self.set_status(202 if stopping else 204)
        self.clear_header("Content-Type")  # there is no content

    def _first(self) -> int:
        last = self.request.headers.get("Last-Event-ID") or parameters.query(self.request, "lastEventId")
        return parameters.whole_number("Last-Event-ID", last) + 1 if last else 0


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFound("There is no such reply.") from error


ROUTES = [
    Rule(PathMatches(r"/llmchat/?"), LlmchatHandler),
    Rule(PathMatches(r"/llmchat/([^/]+)"), ReplyHandler),
]
