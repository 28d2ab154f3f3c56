"""Puts the relay's parts together."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from time import monotonic

import asyncpg

from db import replies
from db.batches import Batches
from db.pool import Database
from db.replies import Begun, Ending, Finished, NewReply
from errors import Unavailable
from relay.adoption import Adoption
from relay.doorbell import Doorbell
from relay.figures import Figures
from relay.generation import Parts
from relay.journal import Journal
from relay.ollama import Ollama
from relay.presence import Presence
from relay.replies import Replies
from relay.running import Running
from relay.status import Status
from relay.sweep import Sweep
from settings import Settings


async def start_relay(
    stack: AsyncExitStack, database: Database, ollama: Ollama, settings: Settings
) -> tuple[Replies, Status]:
    """Start all that relays; ``stack`` ends it, in reverse order. What a predecessor left behind is adopted."""
    figures = Figures()
    database.on_lent = figures.database_wait.observe
    doorbell = Doorbell(database)
    presence = Presence(database, doorbell)
    journal = Journal(database, presence, doorbell, settings.journal_interval, figures)

    async def begin(connection: asyncpg.Connection, new: Sequence[NewReply]) -> Sequence[Begun]:
        if not presence.known:
            raise Unavailable("The server is not ready yet. Try again in a moment.")
        started = monotonic()
        begun = await replies.begin(connection, new)
        figures.begin_statement.observe(monotonic() - started)
        return begun

    async def finish(connection: asyncpg.Connection, endings: Sequence[Ending]) -> Sequence[Finished]:
        started = monotonic()
        finished = await replies.finish(connection, endings)
        figures.end_statement.observe(monotonic() - started)
        return finished

    beginnings = Batches(database, begin, 2, 16)
    endings = Batches(database, finish, 2, 64, behind=beginnings)  # what was said is shown already
    relay = Parts(ollama, database, doorbell, journal, beginnings, endings, settings, figures)
    running = Running(journal, figures)
    adoption = Adoption(relay, presence, running)
    sweep = Sweep(relay, running, adoption)
    presence.on_lost = running.let_all_go
    doorbell.on_stop = running.stop
    stack.push_async_callback(presence.stop)
    await presence.start()
    stack.push_async_callback(journal.stop)
    journal.start()
    stack.push_async_callback(sweep.stop)
    await sweep.start()
    door = Replies(relay, presence, running, adoption)
    status = Status(relay, presence, running, door)
    stack.push_async_callback(status.end)
    status.start()
    return door, status
