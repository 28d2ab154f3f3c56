"""The application's components as handlers reach them: ``self.services`` in every handler."""

import asyncio
from dataclasses import dataclass

from auth.forwarded import TrustedProxies
from auth.identity_provider import IdentityProvider
from auth.origins import AllowedOrigins
from auth.rate_limit import RequestLimiter
from db.pool import Database
from relay.conversations import ConversationService
from relay.factory import Relay
from relay.memory_budget import MemoryBudget
from relay.metrics import Metrics
from relay.ollama.upstreams import Upstreams
from relay.reporting.health import HealthMonitor
from relay.reporting.prometheus import PrometheusCollector
from relay.reporting.sampler import StatusSampler
from relay.service import ReplyService
from relay.window.model_windows import ModelWindows
from settings import Settings
from web.request_body import BodyLimits, create_limits
from web.responses.sse_writer import WriteScheduler

LARGE_ITEMS_BYTES = 134_217_728
"""Memory for all messages of more than 64 KiB that responses hold because their clients have not read them yet."""

LARGE_LOADS = 2
"""Large messages that are read at the same time: this takes some times their size."""


@dataclass(frozen=True, slots=True)
class Services:
    """One instance of each component, shared by all handlers.

    :ivar identity: None with ``--auth=none``.
    :ivar large_items: memory for large messages in responses.
    :ivar large_loads: held while one of them is read.
    :ivar large_bodies: held while a large body is decoded; see :func:`web.json_body.decoding.one_at_a_time`.
    """

    settings: Settings
    database: Database
    upstreams: Upstreams
    replies: ReplyService
    conversations: ConversationService
    health: HealthMonitor
    status: StatusSampler
    prometheus: PrometheusCollector
    windows: ModelWindows
    metrics: Metrics
    identity: IdentityProvider | None
    origins: AllowedOrigins
    limits: RequestLimiter
    proxies: TrustedProxies
    body_limits: BodyLimits
    write_scheduler: WriteScheduler
    large_items: MemoryBudget
    large_loads: asyncio.Semaphore
    large_bodies: asyncio.Lock


def create_services(
    settings: Settings,
    database: Database,
    upstreams: Upstreams,
    relay: Relay,
    metrics: Metrics,
    identity: IdentityProvider | None,
    origins: AllowedOrigins,
) -> Services:
    """Combine the running components with those that limit and write.

    :raises tornado.options.Error: ``--trusted-proxies`` is invalid.
    """
    return Services(
        settings=settings,
        database=database,
        upstreams=upstreams,
        replies=relay.replies,
        conversations=relay.conversations,
        health=relay.health,
        status=relay.status,
        prometheus=relay.prometheus,
        windows=relay.windows,
        metrics=metrics,
        identity=identity,
        origins=origins,
        limits=RequestLimiter(settings),
        proxies=TrustedProxies(settings.trusted_proxies),
        body_limits=create_limits(settings),
        write_scheduler=WriteScheduler(),
        large_items=MemoryBudget(LARGE_ITEMS_BYTES),
        large_loads=asyncio.Semaphore(LARGE_LOADS),
        large_bodies=asyncio.Lock(),
    )
