"""The relay of one process, without its HTTP server, on a real PostgreSQL and the scripted Ollama."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg

from db.pool import Database
from relay import factory
from relay.metrics import Metrics
from relay.ollama.client import OllamaClient
from relay.ollama.upstreams import Upstreams
from relay.service import ReplyService
from settings import Settings
from tests.fakes.ollama import ScriptedOllama


@asynccontextmanager
async def open_service(
    ollama: ScriptedOllama, settings: Settings, upstreams: type[Upstreams] = Upstreams
) -> AsyncIterator[tuple[ReplyService, Upstreams, asyncpg.Connection]]:
    """Yield the reply service of a process, its upstreams, and a database session of another process."""
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url, settings.pool_size, settings.acquire_timeout)
        stack.push_async_callback(database.close)
        await database.open()
        model = OllamaClient(ollama.url, settings.max_replies, settings.connect_timeout)
        stack.callback(model.close)
        models = upstreams(model)
        replies = (await factory.create_relay(stack, database, models, settings, Metrics())).replies
        stack.push_async_callback(replies.drain, 5)
        other = await asyncpg.connect(settings.database_url)
        stack.push_async_callback(other.close)
        yield replies, models, other
