"""Creates the relay's components, connects them and starts them. All callbacks between components are passed here."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import asyncpg

from db import reply_begin, reply_end
from db.batching import StatementBatcher
from db.pool import Database
from db.reply_begin import BeginResult, NewReply
from db.reply_end import FinishRequest
from errors import ServiceUnavailable
from relay.cluster.lease import ProcessLease
from relay.cluster.notifications import NotificationRouter, Notifier
from relay.components import RelayComponents
from relay.conversations import ConversationService
from relay.failover import Failover
from relay.generation.generation import Generation
from relay.generation.journal import Journal
from relay.generation.registry import GenerationRegistry
from relay.memory_budget import MemoryBudget
from relay.metrics import Histogram, Metrics
from relay.ollama.upstreams import Upstreams
from relay.outgoing import SMALL
from relay.reporting.health import HealthMonitor
from relay.reporting.prometheus import PrometheusCollector
from relay.reporting.sampler import StatusSampler
from relay.reporting.status_document import StatusDocument
from relay.service import ReplyService
from relay.summary.summarizer import Summarizer
from relay.supersession import Supersession, ViewerCounts
from relay.sweeper import Sweeper
from relay.waiting import PromptQueue
from relay.window.learned_tokens import LearnedTokens
from relay.window.model_windows import ModelWindows
from relay.window.planner import ContextPlanner
from settings import Settings

Item = TypeVar("Item")
Result = TypeVar("Result")
Statement = Callable[[asyncpg.Connection, Sequence[Item]], Awaitable[Sequence[Result]]]

CONCURRENT_STATEMENTS = 2
"""Batched statements of each kind in progress at once."""

BEGIN_BATCH = 16
"""Replies begun by one statement at most."""

FINISH_BATCH = 64
"""Replies finished by one statement at most."""

JOURNAL_GRACE = 2.0
"""Seconds for which prompts are accepted while the journal cannot write: it may just be connecting again."""


@dataclass(frozen=True, slots=True)
class Relay:
    """The components that handlers use."""

    replies: ReplyService
    conversations: ConversationService
    health: HealthMonitor
    status: StatusSampler
    prometheus: PrometheusCollector
    windows: ModelWindows


async def create_relay(
    stack: AsyncExitStack, database: Database, upstreams: Upstreams, settings: Settings, metrics: Metrics
) -> Relay:
    """Create and start the relay, and adopt orphaned replies. ``stack`` stops it in reverse order."""
    notifier = Notifier(database)
    lease = ProcessLease(database)
    journal = Journal(database, lease, notifier, settings.journal_interval, metrics)
    begin_batcher = StatementBatcher(
        database,
        _timed(_begin_while_ready(lease, journal), metrics.begin_statement),
        CONCURRENT_STATEMENTS,
        BEGIN_BATCH,
        size_of=NewReply.size,
    )
    finish_batcher = StatementBatcher(
        database,
        _timed(reply_end.finish, metrics.end_statement),
        CONCURRENT_STATEMENTS,
        FINISH_BATCH,
        size_of=FinishRequest.size,
        yields_to=begin_batcher,  # a new prompt waits for its statement; a finished reply is on screen already
    )
    outgoing = MemoryBudget(settings.max_total_body_bytes, SMALL)
    windows = ModelWindows(settings)
    context = RelayComponents(
        upstreams,
        database,
        notifier,
        journal,
        begin_batcher,
        finish_batcher,
        settings,
        metrics,
        outgoing,
        ContextPlanner(database, windows, LearnedTokens(database), outgoing, settings),
    )
    summarizer = Summarizer(context)

    def on_ended(generation: Generation) -> None:
        notifier.wake(generation.reply.id)
        summarizer.on_reply_ended(generation)

    registry = GenerationRegistry(journal, metrics, on_ended)
    failover = Failover(context, lease, registry)
    viewers = ViewerCounts(notifier)
    supersession = Supersession(database, notifier, lease, registry, viewers, metrics)
    queue = PromptQueue(context, supersession, registry.concurrency)
    service = ReplyService(context, lease, registry, failover, queue, viewers, summarizer)
    sweeper = Sweeper(context, registry, failover)
    router = NotificationRouter(
        notifier,
        on_stop=registry.stop,
        on_orphan=failover.on_orphan,
        on_supersede=supersession.on_request,
        on_viewers=supersession.on_viewers_question,
    )

    stack.push_async_callback(lease.stop)
    await lease.start(on_notification=router.dispatch, on_lost=registry.abandon_all)
    stack.push_async_callback(journal.stop)
    await journal.start()
    stack.push_async_callback(sweeper.stop)
    await sweeper.start()
    health = HealthMonitor(database, upstreams, journal, lease)
    document = StatusDocument(settings, metrics, health, lease, registry, service)
    sampler = StatusSampler(metrics, health, registry, document)
    stack.push_async_callback(sampler.end)
    sampler.start()
    prometheus = PrometheusCollector(metrics, database, settings, health, registry, service)
    conversations = ConversationService(database, lease, queue, service)
    return Relay(service, conversations, health, sampler, prometheus, windows)


def _begin_while_ready(lease: ProcessLease, journal: Journal) -> Statement[NewReply, BeginResult]:
    async def begin(connection: asyncpg.Connection, new: Sequence[NewReply]) -> Sequence[BeginResult]:
        # A process without a row in ``processes`` cannot own replies, and one whose journal cannot write shows none.
        since = journal.unavailable_since
        if not lease.registered or (since is not None and monotonic() - since > JOURNAL_GRACE):
            raise ServiceUnavailable("The server is not ready yet. Try again in a moment.")
        return await reply_begin.begin(connection, new)

    return begin


def _timed(statement: Statement[Item, Result], duration: Histogram) -> Statement[Item, Result]:
    async def timed(connection: asyncpg.Connection, items: Sequence[Item]) -> Sequence[Result]:
        started = monotonic()
        results = await statement(connection, items)
        duration.observe(monotonic() - started)
        return results

    return timed
