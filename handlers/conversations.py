"""``GET`` and ``DELETE /llmchat?appID=...``: a conversation's messages, and their deletion. ``PUT /summary``."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from tornado.routing import PathMatches, Rule

from auth.principal import Access
from db import messages, replies
from db.context import summaries
from db.context.summaries import Summary
from db.messages import StoredMessage
from errors import NotFound, UnprocessableContent
from web.base import BaseHandler
from web.chat_request import check_appid
from web.json_body.decoding import decode_checked, decode_text
from web.responses.json_array import Entry, JSONArrayHandler, fit_one_part
from web.validation import parse_whole_number, query_argument

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
"""Messages of one page."""

PAGE_BYTES = 2_097_152
"""Bytes of the messages of one page, unless it has only one: what a slow phone receives within a client's timeout
(``static/shared/api.js``, ``REQUEST_TIMEOUT``). 500 messages of 4 kB fit."""

OWN_FIELDS = frozenset({"seq", "id", "role", "content", "time", "status", "error", "extra", "left_out"})
"""Fields of a message in the history whose values are the server's. What a client has sent under these names is in
``extra``: a client that deletes from a message's ``seq`` on must be able to rely on it."""


class ConversationHandler(JSONArrayHandler):
    """The conversation that the query argument ``appID`` names."""

    access = Access.AUTHENTICATED

    async def get(self) -> None:
        """Respond with a page of messages, oldest first, and the streaming reply."""
        appid = self._appid()
        limit = self._number("limit", DEFAULT_LIMIT)
        if limit == 0:
            raise UnprocessableContent(f"limit must be from 1 to {MAX_LIMIT}.")
        limit = min(limit, MAX_LIMIT)
        before = self._number("before", messages.MAX_SEQ)
        async with self.services.database.acquire() as connection:
            state = await replies.find_state(connection, self.tenant, appid)
            page = await messages.read_sizes(connection, self.tenant, appid, limit, before, PAGE_BYTES)
            entries = [Entry(seq, size) for seq, size in page.sizes]
            is_small = fit_one_part(entries)
            found = await self._read(connection, appid, entries[0].key, entries[-1].key) if is_small and entries else []
        head = b'{"appID":%b,"messages":[' % msgspec.json.encode(appid)
        rest = {
            "reply": self._streaming(state.streaming),
            "context": msgspec.Raw((state.context or "null").encode()),
            "summary": state.summary and _summary_to_json(state.summary),
            "before": entries[0].key if page.has_older else None,
        }
        tail = b"]," + msgspec.json.encode(rest)[1:]
        if is_small:
            self.write_small_array(head, found, tail)
            return

        async def read(keys: Sequence[int]) -> list[dict[str, Any]]:
            async with self.services.database.acquire() as connection:
                return await self._read(connection, appid, keys[0], keys[-1])

        await self.write_array(head, entries, tail, read)

    def _streaming(self, id: UUID | None) -> dict[str, Any] | None:
        if id is None:
            return None
        context = self.services.replies.context(self.tenant, id)
        return {"id": str(id), "status": replies.STREAMING, **({"context": context} if context else {})}

    async def _read(self, connection: asyncpg.Connection, appid: str, first: int, last: int) -> list[dict[str, Any]]:
        """Read the messages from one ``seq`` to another."""
        found = await messages.read_page(connection, self.tenant, appid, MAX_LIMIT, last + 1, first)
        return [_to_json(message) for message in found]

    async def delete(self) -> None:
        """Stop the conversation's reply, then delete the conversation, or its messages from ``from`` on."""
        await self.services.conversations.delete(self.tenant, self._appid(), self._number("from", 0))
        self.set_status(204)

    def _appid(self) -> str:
        return check_appid(query_argument(self.request, "appID"))

    def _number(self, name: str, default: int) -> int:
        text = query_argument(self.request, name)
        return default if text is None else parse_whole_number(name, text)


class SummaryHandler(BaseHandler):
    """The summary of what a model is not sent any more of a conversation."""

    route = "/summary"
    access = Access.AUTHENTICATED
    body_limit = 65_536

    async def put(self) -> None:
        """Let a text take the place of the conversation's summary.

        :raises UnprocessableContent: ``until`` or ``text`` is missing or invalid.
        :raises NotFound: the conversation has no such summary, or a newer one.
        """
        appid = check_appid(query_argument(self.request, "appID"))
        until = query_argument(self.request, "until")
        if until is None:
            raise UnprocessableContent("until is missing: that of the summary to edit, as in GET /llmchat.")
        seq = parse_whole_number("until", until)
        fields = await decode_checked(self.json_body(), self.services.settings.max_json_depth)
        text = await decode_text(fields["text"]) if "text" in fields else None
        if not isinstance(text, str) or len(text) > summaries.MAX_CHARACTERS:
            raise UnprocessableContent(f"text must be a string of at most {summaries.MAX_CHARACTERS:,} characters.")
        self.services.limits.check_prompt(self.principal, len(text))
        async with self.services.database.acquire() as connection:
            if not await summaries.edit_summary(connection, self.tenant, appid, seq, text.strip()):
                raise NotFound("The conversation has no such summary. Load it again: there may be a newer one.")
        self.set_status(204)


def _summary_to_json(summary: Summary) -> dict[str, Any]:
    return {"text": summary.text, "until": summary.until, "edited": summary.edited}


def _to_json(stored: StoredMessage) -> dict[str, Any]:
    message = stored.message
    sent = message.fields()
    renamed = {name: value for name, value in sent.items() if name in OWN_FIELDS}
    return {
        "seq": stored.seq,
        "id": str(stored.id),
        "role": message.role,
        "content": message.content,
        "time": stored.time.isoformat(),
        **{name: value for name, value in sent.items() if name not in OWN_FIELDS},
        **({"extra": renamed} if renamed else {}),
        **({"status": stored.status} if stored.status else {}),
        **({"error": stored.error} if stored.error else {}),
        **({"left_out": True} if stored.left_out else {}),
    }


ROUTES = [Rule(PathMatches(r"/summary/?"), SummaryHandler)]
