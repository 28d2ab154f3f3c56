"""GET and DELETE /llmchat?appID=...: a conversation's messages, and forgetting them."""

from typing import Any

import msgspec

from auth.principal import Access
from db import messages, replies
from db.messages import StoredMessage
from errors import UnprocessableContent
from handlers import parameters
from handlers.base import BaseHandler
from handlers.prompt import check_appid

PAGE = 50
PAGE_LIMIT = 500


class ConversationHandler(BaseHandler):
    """The conversation that the query's appID names."""

    needs = Access.AUTHENTICATED

    async def get(self) -> None:
        """Answer a page of messages, oldest first, and the reply that is being generated."""
        appid = self._appid()
        limit = self._number("limit", PAGE)
        if limit == 0:
            raise UnprocessableContent(f"limit must be from 1 to {PAGE_LIMIT}.")
        limit = min(limit, PAGE_LIMIT)
        before = self._number("before", messages.MAX_SEQ)
        async with self.services.database.acquire() as connection:
            running = await replies.find_streaming(connection, self.tenant, appid)
            found = await messages.read_page(connection, self.tenant, appid, limit + 1, before)
        older = len(found) > limit
        page = found[-limit:]
        self.write_json(
            {
                "appID": appid,
                "messages": [_as_json(recorded) for recorded in page],
                "reply": {"id": str(running), "status": replies.STREAMING} if running else None,
                "before": page[0].seq if older else None,
            }
        )

    async def delete(self) -> None:
        """Forget the conversation, or with ``from`` that message and all after it; its reply is stopped first."""
        await self.services.replies.delete_conversation(self.tenant, self._appid(), self._number("from", 0))
        self.set_status(204)

    def _appid(self) -> str:
        return check_appid(parameters.query(self.request, "appID"))

    def _number(self, name: str, default: int) -> int:
        text = parameters.query(self.request, name)
        return default if text is None else parameters.whole_number(name, text)


def _as_json(recorded: StoredMessage) -> dict[str, Any]:
    message = recorded.message
    return {
        "seq": recorded.seq,
        "id": str(recorded.id),
        "role": message.role,
        "content": message.content,
        "time": recorded.time.isoformat(),
        **(msgspec.json.decode(message.extra) if message.extra else {}),
        **({"status": recorded.status} if recorded.status else {}),
        **({"error": recorded.error} if recorded.error else {}),
    }
