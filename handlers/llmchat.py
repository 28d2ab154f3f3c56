"""POST /llmchat begins a reply and shows it; /llmchat/{reply id} shows it again, to anyone, and stops it."""

from uuid import UUID

from tornado.routing import PathMatches, Rule

from errors import NotFound
from handlers import prompt
from handlers.base import whole_number
from handlers.conversation import ConversationHandler
from handlers.viewer import ViewerHandler


class LlmchatHandler(ConversationHandler, ViewerHandler):
    """A prompt is answered with its reply's stream; GET and DELETE are the conversation's."""

    route = "/llmchat"

    async def post(self) -> None:
        """Begin a reply. With ``Prefer: respond-async`` (RFC 7240) say only where it can be followed."""
        asked = prompt.parse(self.json_body(), self.tenant, self.request.headers.get("Idempotency-Key"))
        cursor = await self.services.replies.begin(asked)
        if self._prefers_async():
            self.log_fields["reply"] = str(cursor.id)
            location = f"/llmchat/{cursor.id}"
            self.set_header("Location", location)
            self.set_header("Preference-Applied", "respond-async")
            self.write_json({"id": str(cursor.id), "location": location}, 202)
        else:
            await self.show(cursor)

    def _prefers_async(self) -> bool:
        preferences = ",".join(self.request.headers.get_list("Prefer"))
        return "respond-async" in (preference.strip().lower() for preference in preferences.split(","))


class ReplyHandler(ViewerHandler):
    """One reply."""

    route = "/llmchat/{replyId}"

    async def get(self, reply_id: str) -> None:
        """Show the lines after ``Last-Event-ID``, or all. 204 tells an EventSource that there is nothing more
        (WHATWG HTML, section 9.2.3)."""
        cursor = await self.services.replies.follow(self.tenant, _id(reply_id), self._first())
        if cursor.exhausted:
            self.set_status(204)
        else:
            await self.show(cursor)

    async def delete(self, reply_id: str) -> None:
        """Stop the reply: 202, or 204 if it has ended."""
        stopping = await self.services.replies.stop(self.tenant, _id(reply_id))
        self.set_status(202 if stopping else 204)
        self.clear_header("Content-Type")  # there is no content

    def _first(self) -> int:
        last = self.request.headers.get("Last-Event-ID") or self.query("lastEventId")
        return whole_number("Last-Event-ID", last) + 1 if last else 0


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFound("There is no such reply.") from error


ROUTES = [
    Rule(PathMatches(r"/llmchat/?"), LlmchatHandler),
    Rule(PathMatches(r"/llmchat/([^/]+)"), ReplyHandler),
]
