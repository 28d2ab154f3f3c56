"""The routes of the tutorial's course beside ``/llmchat``: ``/llmprep``, ``/getchatts`` and ``/postchatt``."""

from collections.abc import Sequence

from tornado.routing import PathMatches, Rule

from auth.principal import Access
from db import course
from errors import BadRequest, UnprocessableContent
from web.base import BaseHandler
from web.chat_request import count_prompt_characters, parse_chat_request
from web.json_body.decoding import Fields, decode_checked, decode_text, one_at_a_time
from web.responses.json_array import Entry, JSONArrayHandler, fit_one_part

MAX_NAME_BYTES = 255
"""Bytes of the name of a message's author, in UTF-8: the width of the course's column."""

MAX_CHATT_BYTES = 65_536
"""Bytes of the body of ``/postchatt``: a message that people send each other."""

MAX_CHATTS = 10_000
"""Messages in one response of ``/getchatts``, the newest."""

MAX_CHATTS_BYTES = 16_777_216
"""Bytes of these messages. 10,000 of the course's messages, which have at most 255 bytes, are far below it."""


class PrepareHandler(BaseHandler):
    """The messages with which a conversation begins anew: the course's apps send their system prompt at each launch."""

    route = "/llmprep"
    access = Access.AUTHENTICATED
    body_limit = None

    async def post(self) -> None:
        """Stop the conversation's reply, forget the conversation and record the messages. No model is asked."""
        body, limits, settings = self.json_body(), self.services.limits, self.services.settings
        async with one_at_a_time(self.services.large_bodies, body):
            prompt = await parse_chat_request(body, self.tenant, None, settings.max_messages, settings.max_json_depth)
            if limits.max_prompt_characters(self.principal):
                limits.check_prompt(self.principal, await count_prompt_characters(body, prompt.messages))
        await self.services.conversations.replace(prompt)
        self.write_json({})


class ChattsHandler(JSONArrayHandler):
    """The messages that people send each other. Those of conversations are not among them."""

    route = "/getchatts"
    access = Access.AUTHENTICATED

    async def get(self) -> None:
        """Respond with the newest messages, oldest first: name, message, id and time (ISO 8601) of each.

        Which messages they are is decided at once, so that what is posted meanwhile changes nothing.
        """
        async with self.services.database.acquire() as connection:
            sizes = await course.read_chatt_sizes(connection, self.tenant, MAX_CHATTS, MAX_CHATTS_BYTES)

        async def read(keys: Sequence[int]) -> list[tuple[object, ...]]:
            async with self.services.database.acquire() as connection:
                chatts = await course.read_chatts(connection, self.tenant, keys)
            return [(name, message, id, time.isoformat()) for name, message, id, time in chatts]

        entries = [Entry(seq, size) for seq, size in sizes]
        if fit_one_part(entries):
            self.write_small_array(b"[", await read([entry.key for entry in entries]), b"]")
        else:
            await self.write_array(b"[", entries, b"]", read)


class PostChattHandler(BaseHandler):
    """A message that a person sends to all others."""

    route = "/postchatt"
    access = Access.AUTHENTICATED
    body_limit = MAX_CHATT_BYTES

    async def post(self) -> None:
        """Record the message.

        :raises UnprocessableContent: name (or username, as earlier editions call it) or message is missing or no text.
        :raises BadRequest: the body is not a JSON object, or the name is too long.
        """
        body = self.json_body()
        async with one_at_a_time(self.services.large_bodies, body):
            fields = await decode_checked(body, self.services.settings.max_json_depth)
            name = await _text(fields, "name" if "name" in fields else "username", "name")
            message = await _text(fields, "message", "message")
        if len(name.encode()) > MAX_NAME_BYTES:
            raise BadRequest(f"name is too long: it may have {MAX_NAME_BYTES} bytes.")
        self.services.limits.check_prompt(self.principal, len(message))
        async with self.services.database.acquire() as connection:
            await course.insert_chatt(connection, self.tenant, name, message)
        self.write_json({})


async def _text(fields: Fields, field: str, name: str) -> str:
    if field not in fields:
        raise UnprocessableContent(f"{name} is missing.")
    text = await decode_text(fields[field])
    if not isinstance(text, str):
        raise UnprocessableContent(f"{field} must be a string.")
    return text


ROUTES = [
    Rule(PathMatches(r"/llmprep/?"), PrepareHandler),
    Rule(PathMatches(r"/getchatts/?"), ChattsHandler),
    Rule(PathMatches(r"/postchatt/?"), PostChattHandler),
]
"""Without and with a slash at the end: editions of the course differ."""
